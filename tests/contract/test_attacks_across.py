"""One tenant's attempts on another's: ids in every place of a request, cursors, filters, tokens,
headers said twice or smuggled, paths written otherwise. What is another's is what never was.
"""

import asyncio
import base64
import json
import re
from collections.abc import AsyncIterator, Callable, Iterator
from dataclasses import dataclass, replace
from typing import Any
from urllib.parse import quote

import httpx2
import pytest

from longrun.store.keys import Keys
from tests import servers, storing
from tests.attacking import raw
from tests.contract.test_access import Callers, asks_for_keys, made_callers
from tests.postgres import Server
from tests.reading import eventually, script
from tests.servers import Replica

SCHEMA = "attacks_across"
SECRET = "the-words-of-alice"

_TOOL = {"type": "function", "name": "ask_user", "parameters": {"type": "object"}}


@pytest.fixture(scope="module")
def replica(database: Server) -> Iterator[Replica]:
    with servers.replicas(1, database.url, schema=SCHEMA) as (started,):
        yield started


@dataclass
class Tenants:
    """Bob attacks; Alice is there.

    Attributes:
        theirs: ids of Alice's, by what they are of.
        own: ids of Bob's, likewise.
    """

    client: httpx2.AsyncClient
    callers: Callers
    theirs: dict[str, str]
    own: dict[str, str]

    def headers(self, kind: str) -> dict[str, str]:
        return {"authorization": f"Bearer {self.callers.keys[kind]}"}

    async def ask(self, kind: str, method: str, path: str, **more: Any) -> httpx2.Response:
        headers = {**self.headers(kind), **more.pop("headers", {})}
        answer = await self.client.request(method, path, headers=headers, **more)
        if kind == "other":
            assert SECRET not in answer.text
        return answer


@pytest.fixture(scope="module")
def furnished(database: Server, replica: Replica) -> Tenants:
    async def made() -> Tenants:
        async with storing.migrated(database.url, SCHEMA) as store:
            callers = await made_callers(Keys(store))
        await eventually(lambda: asks_for_keys([replica]))
        async with httpx2.AsyncClient(base_url=replica.url, timeout=30) as client:
            tenants = Tenants(client, callers, {}, {})
            tenants.theirs = await things(tenants, "owner", SECRET)
            tenants.own = await things(tenants, "other", "words of bob")
        return tenants

    return asyncio.run(made())


@pytest.fixture
async def tenants(furnished: Tenants, replica: Replica) -> AsyncIterator[Tenants]:
    async with httpx2.AsyncClient(base_url=replica.url, timeout=30) as client:
        yield replace(furnished, client=client)


async def said_to(replica: Replica, head: bytes) -> tuple[int, bytes]:
    """The status and the body of what is said to bytes; 0: the connection was closed."""
    wire = await raw(replica, head + b"\r\nconnection: close\r\n\r\n")
    async with wire:
        while wire.status and not wire.complete and await wire.more():
            pass
        return wire.status, bytes(wire.body)


async def things(tenants: Tenants, kind: str, words: str) -> dict[str, str]:
    """A response, a conversation, and each kind of item, of one tenant."""

    async def made(path: str, **body: Any) -> dict[str, Any]:
        answer = await tenants.ask(kind, "POST", path, json=body)
        assert answer.status_code == 200, answer.text
        return dict(answer.json())

    response = await made("/responses", input=words, metadata={"secret": words})
    asked = await made(
        "/responses", input=script(turns=[[["ask_user", {"q": words}]]]), tools=[_TOOL]
    )
    message = {"role": "user", "content": words}
    conversation = await made("/conversations", items=[message], metadata={"secret": words})
    inputs = await tenants.ask(kind, "GET", f"/responses/{response['id']}/input_items")
    items = await tenants.ask(kind, "GET", f"/conversations/{conversation['id']}/items")
    [call] = [each for each in asked["output"] if each["type"] == "function_call"]
    return {
        "response": response["id"],
        "asked": asked["id"],
        "conversation": conversation["id"],
        "output item": response["output"][0]["id"],
        "input item": inputs.json()["first_id"],
        "item of a conversation": items.json()["first_id"],
        "call item": call["id"],
        "call": call["call_id"],
    }


def like(id_: str) -> str:
    """An id as this one, of nothing: other digits in it."""
    prefix, _, rest = id_.partition("_")
    return f"{prefix}_{rest[:12]}{'0' * 8 if rest[12:20] != '0' * 8 else '1' * 8}{rest[20:]}"


def bodies(ids: dict[str, str]) -> dict[str, dict[str, Any]]:
    """Requests for a response, with an id of somebody's at each place where one can be."""

    def item(**said: Any) -> dict[str, Any]:
        return {"input": [{"role": "user", "content": "and?"}, said]}

    output = {"type": "function_call_output", "call_id": ids["call"], "output": "42"}
    return {
        "previous_response_id": {"input": "and?", "previous_response_id": ids["response"]},
        "fork": {"longrun": {"fork": {"response_id": ids["response"], "step": 1}}},
        "fork from its start": {
            "input": "and?",
            "longrun": {"fork": {"response_id": ids["response"], "step": 0}},
        },
        "conversation": {"input": "and?", "conversation": ids["conversation"]},
        "conversation.id": {"input": "and?", "conversation": {"id": ids["conversation"]}},
        "item of its output": item(type="item_reference", id=ids["output item"]),
        "item of its input": item(type="item_reference", id=ids["input item"]),
        "item of a conversation": item(type="item_reference", id=ids["item of a conversation"]),
        "item without a type": item(id=ids["output item"]),
        "call": item(type="item_reference", id=ids["call item"]),
        "output of a call": {"input": [output]},
        "output of a call, and what asked for it": {
            "input": [output],
            "previous_response_id": ids["asked"],
        },
        "approval": item(
            type="mcp_approval_response", approval_request_id=ids["call item"], approve=True
        ),
        "approval, and what asked for it": {
            **item(type="mcp_approval_response", approval_request_id="mcpr_1", approve=True),
            "previous_response_id": ids["response"],
        },
    }


def alike(answer: httpx2.Response, ids: dict[str, str]) -> tuple[int, str]:
    """An answer without the ids that were asked for."""
    text = answer.text
    for id_ in ids.values():
        text = text.replace(id_, "…")
    return answer.status_code, text


class TestBodies:
    async def test_an_id_of_anothers_is_one_of_nothing(self, tenants: Tenants) -> None:
        nothing = {name: like(id_) for name, id_ in tenants.theirs.items() if name != "call"}
        # Calls have ids of their model's; only another's response makes one known.
        nothing["call"] = tenants.theirs["call"]
        theirs, unknown = bodies(tenants.theirs), bodies(nothing)
        for name, body in theirs.items():
            for more in ({}, {"stream": True}, {"background": True}, {"store": False}):
                if "previous" in name and more == {"store": False}:
                    continue
                found = await tenants.ask("other", "POST", "/responses", json={**body, **more})
                none = await tenants.ask(
                    "other", "POST", "/responses", json={**unknown[name], **more}
                )
                assert found.status_code in (400, 404), (name, found.text)
                assert alike(found, tenants.theirs) == alike(none, nothing), name

    async def test_a_whole_item_with_an_id_of_anothers_is_what_it_says(
        self, tenants: Tenants
    ) -> None:
        """It does not become what is stored under that id."""
        words = {"type": "output_text", "text": "words of bob", "annotations": []}
        for name in ("output item", "input item", "item of a conversation"):
            said = {
                "type": "message",
                "role": "assistant",
                "status": "completed",
                "id": tenants.theirs[name],
                "content": [words],
            }
            show = {"role": "user", "content": script(show=True)}
            body = {"input": [said, show]}
            answer = await tenants.ask("other", "POST", "/responses", json=body)
            assert answer.status_code == 200, answer.text
            shown = answer.json()["output"][0]["content"][0]["text"]
            assert "words of bob" in shown
            assert SECRET not in shown

    async def test_a_compaction_of_anothers_is_none(self, tenants: Tenants) -> None:
        """Nor is anything of another's compacted."""
        made = await tenants.ask("owner", "POST", "/responses/compact", json={"input": SECRET})
        *_, item = made.json()["output"]
        show = {"role": "user", "content": script(show=True)}
        own = await tenants.ask("owner", "POST", "/responses", json={"input": [item, show]})
        assert own.status_code == 200, own.text
        answers = []
        for each in (item, {**item, "encrypted_content": "longrun.1.x.y"}):
            for path in ("/responses", "/responses/compact"):
                body = {"input": [each, show]}
                answer = await tenants.ask("other", "POST", path, json=body)
                answers.append((answer.status_code, answer.text))
            on = tenants.own["conversation"]
            path = f"/conversations/{on}/items"
            added = await tenants.ask("other", "POST", path, json={"items": [each]})
            answer = await tenants.ask(
                "other", "POST", "/responses", json={"input": "and?", "conversation": on}
            )
            assert answer.json()["status"] == "failed"
            answers.append((answer.status_code, answer.json()["error"]["message"]))
            [id_] = [each["id"] for each in added.json()["data"]]
            await tenants.ask("other", "DELETE", f"{path}/{id_}")
        assert answers[:3] == answers[3:]
        assert [status for status, _ in answers[:3]] == [400, 400, 200]
        for name, body in bodies(tenants.theirs).items():
            answer = await tenants.ask("other", "POST", "/responses/compact", json=body)
            # These are no parameters of it.
            if not any(each in name for each in ("conversation", "approval", "fork")):
                assert answer.status_code in (400, 404), (name, answer.text)

    async def test_nor_is_it_put_into_a_conversation(self, tenants: Tenants) -> None:
        path = f"/conversations/{tenants.own['conversation']}/items"
        for name in ("output item", "input item", "item of a conversation", "call item"):
            answers = []
            for id_ in (tenants.theirs[name], like(tenants.theirs[name])):
                reference = {"type": "item_reference", "id": id_}
                for target, body in (
                    (path, {"items": [reference]}),
                    ("/conversations", {"items": [reference]}),
                ):
                    answer = await tenants.ask("other", "POST", target, json=body)
                    assert answer.status_code == 400, answer.text
                    answers.append(answer.text.replace(id_, "…"))
            assert len(set(answers)) == 1, answers

    async def test_a_chat_token_is_not_for_another_agent(self, tenants: Tenants) -> None:
        asked = {"model": "scripted", "user": "visitor"}
        given = (await tenants.ask("other", "POST", "/chat_tokens", json=asked)).json()
        bearer = {"authorization": f"Bearer {given['token']}"}
        for model in ("chain", "Scripted", "scripted ", "scripted\0"):
            body = {"model": model, "input": "hello"}
            answer = await tenants.ask("other", "POST", "/responses", json=body, headers=bearer)
            assert answer.status_code in (400, 404), model
            path = f"/models/{quote(model)}"
            answer = await tenants.ask("other", "GET", path, headers=bearer)
            assert answer.status_code == 404, model
        # Nor does it go on from what its own maker has.
        for name, body in bodies(tenants.own).items():
            answer = await tenants.ask("other", "POST", "/responses", json=body, headers=bearer)
            assert answer.status_code in (400, 404), (name, answer.text)


class TestLists:
    async def test_a_cursor_of_anothers_leads_to_ones_own(self, tenants: Tenants) -> None:
        for order in ("asc", "desc"):
            answers = []
            for id_ in (tenants.theirs["response"], like(tenants.theirs["response"])):
                path = f"/responses?after={id_}&order={order}&limit=100"
                page = (await tenants.ask("other", "GET", path)).json()
                answers.append([each["id"] for each in page["data"]])
            assert answers[0] == answers[1]
            assert tenants.theirs["response"] not in answers[0]
        for path, name in (
            (f"/responses/{tenants.own['response']}/input_items", "input item"),
            (f"/conversations/{tenants.own['conversation']}/items", "item of a conversation"),
        ):
            said = []
            for id_ in (tenants.theirs[name], like(tenants.theirs[name])):
                answer = await tenants.ask("other", "GET", f"{path}?after={id_}")
                said.append((answer.status_code, answer.text.replace(id_, "…")))
            assert said[0] == said[1]

    async def test_filters_find_nothing_of_anothers(self, tenants: Tenants) -> None:
        wanted = f"metadata[secret]={SECRET}"
        assert (await tenants.ask("owner", "GET", f"/responses?{wanted}")).json()["data"]
        for more in ("", "&status=completed", "&model=scripted", "&order=asc"):
            page = (await tenants.ask("other", "GET", f"/responses?{wanted}{more}")).json()
            assert page["data"] == []
            assert (page["first_id"], page["last_id"], page["has_more"]) == (None, None, False)

    async def test_an_item_is_of_its_own_conversation_alone(self, tenants: Tenants) -> None:
        own = f"/conversations/{tenants.own['conversation']}/items/"
        for method in ("GET", "DELETE"):
            said = []
            for id_ in (
                tenants.theirs["item of a conversation"],
                like(tenants.theirs["item of a conversation"]),
            ):
                answer = await tenants.ask("other", method, own + id_)
                assert answer.status_code == 404
                said.append(answer.text.replace(id_, "…"))
            assert said[0] == said[1]
        path = f"/conversations/{tenants.theirs['conversation']}/items"
        assert len((await tenants.ask("owner", "GET", path)).json()["data"]) == 1


class TestWebhooks:
    async def test_anothers_endpoints_are_what_never_was(self, tenants: Tenants) -> None:
        hook = {
            "name": SECRET,
            "url": f"https://hook.example/{SECRET}",
            "event_types": ["response.completed"],
        }
        made = (await tenants.ask("owner", "POST", "/webhook_endpoints", json=hook)).json()
        for method, path, body in (
            ("GET", "", None),
            ("POST", "", {"url": "https://bob.example/"}),
            ("DELETE", "", None),
            ("POST", "/rotate_secret", {}),
            ("POST", "/test", {"event_type": "response.completed"}),
        ):
            said = []
            for id_ in (made["id"], like(made["id"]), "settings"):
                path_of = f"/webhook_endpoints/{id_}{path}"
                answer = await tenants.ask("other", method, path_of, json=body)
                assert answer.status_code == 404
                said.append(answer.text.replace(id_, "…"))
            assert len(set(said)) == 1
        for query in ("", f"?after={made['id']}", "?after=we_g", "?after=~"):
            page = (await tenants.ask("other", "GET", f"/webhook_endpoints{query}")).json()
            assert page["data"] == []
        after = (await tenants.ask("owner", "GET", f"/webhook_endpoints/{made['id']}")).json()
        assert after == {k: v for k, v in made.items() if k != "signing_secret"}

    async def test_a_chat_token_changes_none(self, tenants: Tenants) -> None:
        asked = {"model": "scripted", "user": "visitor"}
        given = (await tenants.ask("other", "POST", "/chat_tokens", json=asked)).json()
        bearer = {"authorization": f"Bearer {given['token']}"}
        hook = {"name": "n", "url": "https://b.example/", "event_types": ["response.completed"]}
        answer = await tenants.ask("other", "POST", "/webhook_endpoints", json=hook, headers=bearer)
        assert answer.status_code == 403, answer.text


class TestTokens:
    async def test_a_stream_token_is_for_its_response_alone(self, tenants: Tenants) -> None:
        path = f"/responses/{tenants.own['response']}/stream_token"
        token = (await tenants.ask("other", "POST", path)).json()["token"]
        theirs, own = tenants.theirs["response"], tenants.own["response"]
        payload, _, signature = token.rpartition(".")
        inner = base64.urlsafe_b64decode(payload + "==") if "." not in payload else b""
        forged = [
            token,
            token.upper(),
            f"{_encoded([theirs, 'alice', 99999999999])}.{signature}",
            _encoded([theirs, "alice", 99999999999]) + ".",
            payload,
            f"{payload}..{signature}",
            inner.decode("latin-1"),
            "null",
            "\0",
        ]
        for each in forged:
            for said in ({}, tenants.headers("other")):
                url = f"/responses/{theirs}?stream=true&token={quote(each)}"
                answer = await tenants.client.get(url, headers=said)
                assert answer.status_code == 401, (each, answer.text)
        # And for nothing else: not what lies below it, nor what its owner has besides.
        for method, target in (
            ("GET", f"/responses/{own}/input_items"),
            ("GET", f"/responses/{own}/failure"),
            ("DELETE", f"/responses/{own}"),
            ("POST", f"/responses/{own}/cancel"),
            ("POST", f"/responses/{own}/stream_token"),
            ("GET", "/responses"),
            ("GET", f"/conversations/{tenants.own['conversation']}"),
            ("GET", f"/responses/{own}/"),
            ("GET", f"//responses/{own}"),
        ):
            answer = await tenants.client.request(method, f"{target}?token={token}")
            assert answer.status_code == 401, (method, target)
        twice = f"/responses/{theirs}?token={token}&token=x"
        assert (await tenants.client.get(twice)).status_code == 401


def _encoded(said: Any) -> str:
    return base64.urlsafe_b64encode(json.dumps(said).encode()).decode().rstrip("=")


class TestHeaders:
    @pytest.mark.parametrize(
        "said",
        [
            *("alice", "Alice", "alice/", "bob/../alice", "bob", "bob/", "bob/x", "bob/alice"),
            *("bobby", "*", "", "bob/x, alice", "alice, bob/x", "%61lice", "bob\talice"),
        ],
    )
    async def test_nobody_acts_for_one_beside_them(self, tenants: Tenants, said: str) -> None:
        headers = {"longrun-principal": said}
        for path in (f"/responses/{tenants.theirs['response']}", "/responses?limit=100"):
            answer = await tenants.ask("other", "GET", path, headers=headers)
            if path.startswith("/responses?") and answer.status_code == 200:
                assert tenants.theirs["response"] not in answer.text
            else:
                assert answer.status_code in (400, 403, 404), answer.text

    @pytest.mark.parametrize(
        "name",
        ["longrun-principal", "Longrun-Principal", "longrun_principal", "x-longrun-principal"],
    )
    @pytest.mark.parametrize("order", [1, -1])
    async def test_whom_one_acts_for_is_said_once(
        self, tenants: Tenants, name: str, order: int
    ) -> None:
        pairs = [("longrun-principal", "bob/x"), (name, "alice")][::order]
        headers = [*tenants.headers("other").items(), *pairs]
        path = f"/responses/{tenants.theirs['response']}"
        answer = await tenants.client.get(path, headers=headers)
        twice = name.lower() == "longrun-principal"
        assert answer.status_code in ((400,) if twice else (404,)), answer.text

    @pytest.mark.parametrize("order", [1, -1])
    @pytest.mark.parametrize("joined", [False, True])
    async def test_two_callers_at_once_are_none(
        self, tenants: Tenants, order: int, joined: bool
    ) -> None:
        """What is in front may have looked at the other one."""
        said = [tenants.headers(kind)["authorization"] for kind in ("owner", "other")][::order]
        pairs = [("authorization", each) for each in ([", ".join(said)] if joined else said)]
        for path in (f"/responses/{tenants.theirs['response']}", "/responses"):
            answer = await tenants.client.get(path, headers=pairs)
            assert answer.status_code == 401, answer.text

    async def test_a_method_is_what_the_request_line_says(self, tenants: Tenants) -> None:
        path = f"/responses/{tenants.theirs['response']}"
        for name in ("x-http-method-override", "x-method-override", "x-http-method"):
            headers = {name: "DELETE"}
            answer = await tenants.ask("reader", "GET", path, headers=headers)
            assert answer.status_code == 200
        assert (await tenants.ask("reader", "DELETE", path)).status_code == 403
        assert (await tenants.ask("owner", "GET", path)).status_code == 200

    @pytest.mark.parametrize(
        "head",
        [
            b"authorization : Bearer %b",
            b"authorization\x0b: Bearer %b",
            b"x: y\r\n authorization: Bearer %b",
            b"x: y\rauthorization: Bearer %b",
            b"x: y\x00\r\nx-authorization: Bearer %b",
        ],
    )
    async def test_what_is_nearly_a_header_is_none(
        self, tenants: Tenants, replica: Replica, head: bytes
    ) -> None:
        key = tenants.callers.keys["owner"].encode()
        path = f"/responses/{tenants.theirs['response']}".encode()
        said = b"GET %b HTTP/1.1\r\nhost: a\r\n%b" % (path, head % key)
        status, body = await said_to(replica, said)
        assert status in (0, 400, 401)
        assert SECRET.encode() not in body


class TestPaths:
    SPELLINGS: tuple[Callable[[str], str], ...] = (
        lambda id_: "".join(f"%{ord(each):02x}" for each in id_),
        str.upper,
        lambda id_: id_ + "%00",
        lambda id_: "%00" + id_,
        lambda id_: id_ + "%20",
        lambda id_: id_ + "%2f",
        lambda id_: id_ + "/",
        lambda id_: id_ + ";a=b",
        lambda id_: f"x%2f..%2f{id_}",
        lambda id_: id_ + "%2finput_items",
        lambda id_: id_.replace("_", "%ef%bc%bf"),
        lambda id_: id_ + "#",
    )

    @pytest.mark.parametrize("place", range(len(SPELLINGS)))
    async def test_however_an_id_is_written(
        self, tenants: Tenants, replica: Replica, place: int
    ) -> None:
        spelt = self.SPELLINGS[place]
        for name, folder in (("response", "responses"), ("conversation", "conversations")):
            path = f"/{folder}/{spelt(tenants.theirs[name])}"
            for key, statuses in (("other", (307, 400, 404)), ("none", (400, 401))):
                said = tenants.headers(key)["authorization"] if key != "none" else "none"
                # By hand: clients make paths plain.
                head = f"GET {path} HTTP/1.1\r\nhost: {replica.url[7:]}\r\nauthorization: {said}"
                status, body = await said_to(replica, head.encode())
                assert status in statuses, (path, status)
                assert SECRET.encode() not in body

    @pytest.mark.parametrize(
        "path",
        [
            *("/console/../responses", "/console/%2e%2e/responses", "/console//responses"),
            *("//responses", "/./responses", "/v1/../responses", "/healthz/../responses"),
            *("/responses/", "/RESPONSES", "/v1/v1/responses", "/responses?x=/console/"),
            *("/responses#/console/", "/console/..%2fresponses", "http://a/responses"),
            *("/openapi.json/../responses", "/%72esponses", "/console\\..\\responses"),
        ],
    )
    async def test_no_path_leads_past_the_question_who_calls(
        self, tenants: Tenants, replica: Replica, path: str
    ) -> None:
        status, body = await said_to(replica, f"GET {path} HTTP/1.1\r\nhost: a".encode())
        assert status in (400, 401, 404), (path, status)
        assert not re.search(rb"resp_[0-9a-f]{32}", body)
