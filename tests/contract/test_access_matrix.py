"""Every endpoint × {owner, other, nobody, revoked, expired, read-only, write-only, admin}.

One that is added has to be put in here: `unit/test_openapi.py` asks the application for them.
"""

import re
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass
from typing import Any, Literal

import httpx2
import pytest

from longrun import ids
from longrun.store.keys import Keys
from tests import servers, storing
from tests.contract.test_access import REFUSED, Callers, asks_for_keys, made_callers
from tests.postgres import Server
from tests.reading import eventually
from tests.servers import Replica

SCHEMA = "access_matrix"


@dataclass(frozen=True)
class Endpoint:
    """What an endpoint asks of its caller.

    Attributes:
        needs: the scope without which it is a 403.
        of: what its `{id}` names, which is a 404 for all but its owner.
        admin: whether an admin sees it, whoever's it is, without saying for whom they act.
        live: it is for what is live, and else a 400.
    """

    needs: Literal["read", "write", "admin"]
    of: Literal["response", "conversation", "webhook_endpoint"] | None = None
    body: dict[str, Any] | None = None
    admin: bool = True
    live: bool = False


MESSAGE = {"role": "user", "content": "hello"}

HOOK = {"name": "n", "url": "http://127.0.0.1:9/", "event_types": ["response.completed"]}

MATRIX: dict[tuple[str, str], Endpoint] = {
    ("POST", "/responses"): Endpoint("write", body={"input": "hello"}),
    ("POST", "/responses/compact"): Endpoint("write", body={"input": "hello"}),
    ("POST", "/responses/input_tokens"): Endpoint("write", body={"input": "hello"}),
    ("GET", "/responses"): Endpoint("read"),
    ("GET", "/responses/{id}"): Endpoint("read", "response"),
    ("DELETE", "/responses/{id}"): Endpoint("write", "response"),
    ("POST", "/responses/{id}/cancel"): Endpoint("write", "response"),
    ("POST", "/responses/{id}/steer"): Endpoint(
        "write", "response", body={"input": "more"}, live=True
    ),
    ("GET", "/responses/{id}/input_items"): Endpoint("read", "response"),
    ("POST", "/responses/{id}/stream_token"): Endpoint("read", "response", admin=False),
    ("GET", "/responses/{id}/failure"): Endpoint("admin", "response"),
    ("GET", "/runs"): Endpoint("read"),
    ("GET", "/runs/{id}"): Endpoint("read", "response"),
    ("GET", "/runs/{id}/steps"): Endpoint("read", "response"),
    ("GET", "/system"): Endpoint("admin"),
    ("POST", "/chat_tokens"): Endpoint("write", body={"model": "scripted", "user": "u"}),
    ("POST", "/conversations"): Endpoint("write", body={}),
    ("GET", "/conversations/{id}"): Endpoint("read", "conversation"),
    ("POST", "/conversations/{id}"): Endpoint("write", "conversation", body={}),
    ("DELETE", "/conversations/{id}"): Endpoint("write", "conversation"),
    ("GET", "/conversations/{id}/items"): Endpoint("read", "conversation"),
    ("POST", "/conversations/{id}/items"): Endpoint(
        "write", "conversation", body={"items": [MESSAGE]}
    ),
    ("GET", "/conversations/{id}/items/{item_id}"): Endpoint("read", "conversation"),
    ("DELETE", "/conversations/{id}/items/{item_id}"): Endpoint("write", "conversation"),
    ("GET", "/webhook_event_types"): Endpoint("read"),
    ("POST", "/webhook_endpoints"): Endpoint("write", body=HOOK),
    ("GET", "/webhook_endpoints"): Endpoint("read"),
    ("GET", "/webhook_endpoints/{id}"): Endpoint("read", "webhook_endpoint", admin=False),
    ("POST", "/webhook_endpoints/{id}"): Endpoint("write", "webhook_endpoint", body={}),
    ("DELETE", "/webhook_endpoints/{id}"): Endpoint("write", "webhook_endpoint"),
    ("POST", "/webhook_endpoints/{id}/rotate_secret"): Endpoint("write", "webhook_endpoint"),
    ("POST", "/webhook_endpoints/{id}/test"): Endpoint(
        "write", "webhook_endpoint", body={"event_type": "response.completed"}
    ),
    ("GET", "/models"): Endpoint("read"),
    ("GET", "/models/{id}"): Endpoint("read"),
}

PUBLIC = {"/", "/healthz", "/readyz", "/metrics", "/openapi.json"}
"""`unit/test_openapi.py` fails for a route that is in neither of the two."""


@pytest.fixture(scope="module")
def guarded(database: Server) -> Iterator[list[Replica]]:
    """A replica of a database in which there are keys."""
    environment = {
        "LONGRUN_WEBHOOK_NETWORKS": "127.0.0.1",
        "LONGRUN_MAX_PRINCIPAL_WEBHOOK_ENDPOINTS": "1000",
    }
    with servers.replicas(1, database.url, schema=SCHEMA, environment=environment) as started:
        yield started


@pytest.fixture
async def callers(database: Server, guarded: list[Replica]) -> Callers:
    async with storing.migrated(database.url, SCHEMA) as store:
        made = await made_callers(Keys(store))
    await eventually(lambda: asks_for_keys(guarded))
    return made


class Asking:
    """Asks one endpoint after the other."""

    def __init__(self, client: httpx2.AsyncClient, callers: Callers) -> None:
        self._client = client
        self._callers = callers

    async def __call__(
        self, kind: str, method: str, path: str, body: Any = None
    ) -> httpx2.Response:
        key = self._callers.keys[kind]
        headers = {"authorization": f"Bearer {key}"} if key else {}
        return await self._client.request(method, path, json=body, headers=headers)

    async def things(self) -> dict[str, str]:
        """What the owner has: an id for each name in a path."""
        body = {"input": "hello", "background": True}
        made = await self("owner", "POST", "/responses", body)
        conversation = await self("owner", "POST", "/conversations", {"items": [MESSAGE]})
        id_ = conversation.json()["id"]
        items = await self("owner", "GET", f"/conversations/{id_}/items")
        # Whatever it answers, a test of it is done.
        hook = {**HOOK, "url": f"{self._client.base_url}/nothing"}
        endpoint = await self("owner", "POST", "/webhook_endpoints", hook)
        return {
            "response": made.json()["id"],
            "conversation": id_,
            "item_id": items.json()["first_id"],
            "webhook_endpoint": endpoint.json()["id"],
        }


NOTHING = {
    "response": "resp_" + "0" * 32,
    "conversation": "conv_" + "0" * 32,
    "item_id": ids.item_id("resp_" + "0" * 32, 0, "message"),
    "webhook_endpoint": "we_" + "0" * 32,
}


def path_of(path: str, endpoint: Endpoint, things: dict[str, str]) -> str:
    of = things[endpoint.of] if endpoint.of else "scripted"
    return path.replace("{id}", of).replace("{item_id}", things["item_id"])


@pytest.fixture
async def ask(guarded: list[Replica], callers: Callers) -> AsyncIterator[Asking]:
    async with httpx2.AsyncClient(base_url=guarded[0].base_url, timeout=30) as client:
        yield Asking(client, callers)


async def test_whoever_has_no_valid_key_gets_the_same_401(ask: Asking) -> None:
    things = await ask.things()
    for kind in REFUSED:
        said = set()
        for (method, path), endpoint in MATRIX.items():
            for each in (things, NOTHING):
                answer = await ask(kind, method, path_of(path, endpoint, each), endpoint.body)
                assert answer.status_code == 401, (kind, method, path)
                said.add(answer.text)
        assert len(said) == 1, kind


async def test_anothers_is_what_never_was_at_each_endpoint(ask: Asking) -> None:
    things = await ask.things()
    for (method, path), endpoint in MATRIX.items():
        if endpoint.of is None:
            continue
        texts = set()
        for each in (things, NOTHING):
            answer = await ask("other", method, path_of(path, endpoint, each), endpoint.body)
            expected = 403 if endpoint.needs == "admin" else 404
            assert answer.status_code == expected, (method, path)
            texts.add(re.sub(r"'\w+_\w+'", "…", answer.text))
        assert len(texts) == 1, (method, path)
    for id_ in (things["response"],):
        assert (await ask("owner", "GET", f"/responses/{id_}")).is_success
    path = f"/conversations/{things['conversation']}/items/{things['item_id']}"
    assert (await ask("owner", "GET", path)).is_success


@pytest.mark.parametrize("kind", ["owner", "reader", "writer", "admin"])
async def test_scopes_at_each_endpoint(ask: Asking, kind: str) -> None:
    things = await ask.things()
    for (method, path), endpoint in MATRIX.items():
        reads = endpoint.needs == "read"
        admins = endpoint.needs == "admin"
        may = {"owner": not admins, "reader": reads, "admin": reads or admins}
        allowed = may.get(kind, endpoint.needs == "write")
        answer = await ask(kind, method, path_of(path, endpoint, things), endpoint.body)
        if not allowed:
            assert answer.status_code == 403, (method, path)
            assert answer.json()["error"]["code"] == "forbidden"
        elif kind == "admin" and endpoint.of is not None and not endpoint.admin:
            assert answer.status_code == 404, (method, path)
        elif endpoint.live and answer.status_code == 400:
            assert answer.json()["error"]["code"] == "response_already_completed"
        else:
            assert answer.is_success, (method, path, answer.text)
            if method == "DELETE":
                things = await ask.things()
