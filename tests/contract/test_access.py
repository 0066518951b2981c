"""Who may call: keys, what they may do, and that nobody sees what is another's."""

import asyncio
import json
import os
import re
import secrets
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass, field
from typing import Any

import httpx2
import openai
import pytest
from openai import AsyncOpenAI

from longrun.access.keys import new_key
from longrun.store.keys import Keys, KeyToStore
from tests import servers, storing
from tests.postgres import Server
from tests.reading import eventually
from tests.servers import Replica

SCHEMA = "access"

UNKNOWN = "resp_" + "0" * 32


@dataclass
class Callers:
    """A key for each kind of caller."""

    keys: dict[str, str] = field(default_factory=dict)
    prefixes: dict[str, str] = field(default_factory=dict)

    async def make(
        self, store: Keys, kind: str, principal: str, scopes: str, expires_in: float | None = None
    ) -> None:
        key = new_key()
        self.keys[kind], self.prefixes[kind] = key.text, key.prefix
        name = f"{kind} {secrets.token_hex(4)}"
        scoped = frozenset(scopes.split())
        assert await store.create(
            KeyToStore(key.prefix, key.hash, name, principal, scoped, expires_in=expires_in)
        )


@pytest.fixture(scope="module")
def guarded(database: Server) -> Iterator[list[Replica]]:
    """Two replicas of a database in which there are keys."""
    with servers.replicas(2, database.url, schema=SCHEMA) as started:
        yield started


@pytest.fixture
async def store(database: Server, guarded: list[Replica]) -> AsyncIterator[Keys]:
    async with storing.migrated(database.url, SCHEMA) as opened:
        yield Keys(opened)


async def made_callers(store: Keys) -> Callers:
    """Keys of all kinds."""
    made = Callers({"none": "", "wrong": "sk-proj-0123456789", "nearly": ""})
    await made.make(store, "owner", "alice", "read write")
    await made.make(store, "other", "bob", "read write")
    await made.make(store, "reader", "alice", "read")
    await made.make(store, "writer", "alice", "write")
    await made.make(store, "admin", "root", "admin")
    await made.make(store, "expired", "alice", "read write", expires_in=-1)
    await made.make(store, "revoked", "alice", "read write")
    assert await store.revoke(made.prefixes["revoked"]) == [made.prefixes["revoked"]]
    made.keys["nearly"] = made.keys["owner"][:-1] + ("a" if made.keys["owner"][-1] != "a" else "b")
    return made


@pytest.fixture
async def callers(store: Keys, guarded: list[Replica]) -> Callers:
    made = await made_callers(store)
    await eventually(lambda: asks_for_keys(guarded))
    return made


async def asks_for_keys(replicas: list[Replica]) -> bool:
    """Whether these replicas have heard that there are keys."""
    answers = [await call(replica, "GET", "/models", "") for replica in replicas]
    return {answer.status_code for answer in answers} == {401}


async def call(
    replica: Replica,
    method: str,
    path: str,
    key: str,
    body: Any = None,
    headers: dict[str, str] | None = None,
) -> httpx2.Response:
    bearer = {"authorization": f"Bearer {key}"} if key else {}
    async with httpx2.AsyncClient(base_url=replica.base_url, timeout=30) as client:
        return await client.request(method, path, json=body, headers={**bearer, **(headers or {})})


async def created(replica: Replica, key: str, **more: Any) -> str:
    body = {"model": "scripted", "input": "hello", **more}
    answer = await call(replica, "POST", "/responses", key, body)
    assert answer.status_code == 200, answer.text
    return str(answer.json()["id"])


REFUSED = ("none", "wrong", "nearly", "expired", "revoked")

READS = ("/responses/{id}", "/responses/{id}?stream=true", "/responses/{id}/input_items")
WRITES = (("POST", "/responses/{id}/cancel"), ("DELETE", "/responses/{id}"))
OF_NOBODY = (("GET", "/models"), ("GET", "/responses"), ("GET", "/no/such/path"))


class TestEveryEndpoint:
    @pytest.mark.parametrize("kind", REFUSED)
    async def test_a_caller_without_a_valid_key_gets_nothing(
        self, guarded: list[Replica], callers: Callers, kind: str
    ) -> None:
        theirs = await created(guarded[0], callers.keys["owner"])
        asked = [("GET", path) for path in READS] + [*WRITES, *OF_NOBODY, ("POST", "/responses")]
        said = set()
        for id_ in (theirs, UNKNOWN):
            for method, path in asked:
                answer = await call(guarded[1], method, path.format(id=id_), callers.keys[kind])
                assert answer.status_code == 401, (method, path)
                assert answer.headers["www-authenticate"] == "Bearer"
                said.add(answer.text)
        assert len(said) == 1
        error = json.loads(said.pop())["error"]
        assert error["code"] == ("no_api_key" if kind == "none" else "invalid_api_key")
        assert (
            await call(guarded[0], "GET", f"/responses/{theirs}", callers.keys["owner"])
        ).is_success

    async def test_anothers_is_what_never_was(
        self, guarded: list[Replica], callers: Callers
    ) -> None:
        theirs = await created(guarded[0], callers.keys["owner"], background=True)
        other = callers.keys["other"]
        for method, path in [*(("GET", path) for path in READS), *WRITES]:
            found = [
                await call(guarded[1], method, path.format(id=id_), other)
                for id_ in (theirs, UNKNOWN)
            ]
            assert [answer.status_code for answer in found] == [404, 404], (method, path)
            texts = [answer.text.replace(theirs, UNKNOWN) for answer in found]
            assert texts[0] == texts[1]
        goes_on = await call(
            guarded[0],
            "POST",
            "/responses",
            other,
            {"model": "scripted", "input": "and?", "previous_response_id": theirs},
        )
        assert goes_on.status_code == 400
        assert goes_on.json()["error"]["code"] == "previous_response_not_found"
        listed = (await call(guarded[0], "GET", "/responses?limit=100", other)).json()["data"]
        assert theirs not in [response["id"] for response in listed]
        assert (
            await call(guarded[0], "GET", f"/responses/{theirs}", callers.keys["owner"])
        ).is_success

    async def test_what_a_key_may(self, guarded: list[Replica], callers: Callers) -> None:
        theirs = await created(guarded[0], callers.keys["owner"], background=True)
        body = {"model": "scripted", "input": "hello"}
        for kind, may_read, may_write in (
            ("reader", True, False),
            ("writer", False, True),
            ("admin", True, False),
        ):
            key = callers.keys[kind]
            for path in READS:
                answer = await call(guarded[1], "GET", path.format(id=theirs), key)
                assert answer.status_code == (200 if may_read else 403), (kind, path)
            answer = await call(guarded[1], "POST", "/responses", key, body)
            assert answer.status_code == (200 if may_write else 403), kind
            for method, path in WRITES:
                if not may_write:
                    answer = await call(guarded[1], method, path.format(id=theirs), key)
                    assert answer.status_code == 403, (kind, path)
                    assert answer.json()["error"]["code"] == "forbidden"

    async def test_public_paths_ask_nobody(self, guarded: list[Replica], callers: Callers) -> None:
        async with httpx2.AsyncClient(base_url=guarded[0].url) as client:
            for path in ("/", "/console/console.js", "/healthz", "/readyz", "/metrics"):
                assert (await client.get(path)).status_code == 200, path
            text = (await client.get("/metrics")).text
        assert "alice" not in text
        assert callers.prefixes["owner"] not in text


class TestAdmins:
    async def test_they_act_for_another_when_they_say_so(
        self, guarded: list[Replica], callers: Callers, store: Keys
    ) -> None:
        await callers.make(store, "operator", "root", "admin read write")
        theirs = await created(guarded[0], callers.keys["owner"], background=True)
        operator = callers.keys["operator"]
        as_alice = {"longrun-principal": "alice"}
        for headers, sees in (({}, False), (as_alice, True)):
            listed = await call(guarded[1], "GET", "/responses?limit=100", operator, None, headers)
            assert (theirs in [each["id"] for each in listed.json()["data"]]) is sees
        path = f"/responses/{theirs}"
        assert (await call(guarded[1], "GET", path, operator)).is_success
        assert (await call(guarded[1], "DELETE", path, operator)).status_code == 404
        assert (await call(guarded[1], "DELETE", path, operator, None, as_alice)).is_success
        assert (await call(guarded[1], "GET", path, callers.keys["owner"])).status_code == 404

    async def test_they_list_what_is_everybodys_when_they_say_so(
        self, guarded: list[Replica], callers: Callers
    ) -> None:
        kinds = ("owner", "owner", "other")
        _, *theirs = [await created(guarded[0], callers.keys[kind]) for kind in kinds]
        everybody = {"longrun-principal": "*"}

        async def listed(query: str, kind: str = "admin") -> httpx2.Response:
            path = f"/responses?{query}"
            return await call(guarded[1], "GET", path, callers.keys[kind], None, everybody)

        newest = (await listed("limit=2")).json()
        assert [each["id"] for each in newest["data"]] == theirs[::-1]
        assert [each["principal"] for each in newest["data"]] == ["bob", "alice"]
        assert newest["has_more"]
        after = (
            await listed(f"order=asc&after={theirs[0]}&status=completed&model=scripted")
        ).json()
        assert [each["id"] for each in after["data"]] == theirs[1:]
        # Whoever is no admin gets nothing by it, and to change something one names somebody.
        assert (await listed("limit=2", "owner")).status_code == 403
        path = f"/responses/{theirs[0]}"
        assert (
            await call(guarded[0], "GET", path, callers.keys["admin"], None, everybody)
        ).is_success
        assert (
            await call(guarded[0], "GET", path, callers.keys["other"], None, everybody)
        ).status_code == 403

    async def test_for_everybody_nothing_is_changed(
        self, guarded: list[Replica], callers: Callers, store: Keys
    ) -> None:
        await callers.make(store, "operator", "root", "admin read write")
        theirs = await created(guarded[0], callers.keys["owner"])
        everybody = {"longrun-principal": "*"}
        for method, path in (("DELETE", f"/responses/{theirs}"), ("POST", "/responses")):
            body = {"model": "scripted", "input": "x"} if method == "POST" else None
            key = callers.keys["operator"]
            answer = await call(guarded[0], method, path, key, body, everybody)
            assert answer.status_code == 400
            assert "must name a principal" in answer.json()["error"]["message"]

    async def test_they_read_conversations_and_change_none(
        self, guarded: list[Replica], callers: Callers
    ) -> None:
        body = {"items": [{"role": "user", "content": "hello"}]}
        made = await call(guarded[0], "POST", "/conversations", callers.keys["owner"], body)
        path = f"/conversations/{made.json()['id']}"
        for kind, status in (("admin", 200), ("other", 404)):
            for each in (path, f"{path}/items"):
                answer = await call(guarded[1], "GET", each, callers.keys[kind])
                assert answer.status_code == status, (kind, each)
        [item] = (await call(guarded[1], "GET", f"{path}/items", callers.keys["admin"])).json()[
            "data"
        ]
        one = f"{path}/items/{item['id']}"
        assert (await call(guarded[1], "GET", one, callers.keys["admin"])).is_success
        for each in (path, one):
            answer = await call(guarded[0], "DELETE", each, callers.keys["admin"])
            assert answer.status_code == 403

    async def test_nobody_else_may(self, guarded: list[Replica], callers: Callers) -> None:
        headers = {"longrun-principal": "alice"}
        for kind in ("other", "reader"):
            answer = await call(guarded[0], "GET", "/responses", callers.keys[kind], None, headers)
            assert answer.status_code == 403

    async def test_a_principal_that_cannot_be(
        self, guarded: list[Replica], callers: Callers
    ) -> None:
        headers = {"longrun-principal": "a" * 201}
        answer = await call(guarded[0], "GET", "/responses", callers.keys["admin"], None, headers)
        assert answer.status_code == 400
        assert "at most 200" in answer.json()["error"]["message"]


class TestLimits:
    async def test_a_key_has_so_many_runs_at_once(
        self, guarded: list[Replica], callers: Callers, store: Keys
    ) -> None:
        key, scopes = new_key(), frozenset({"read", "write"})
        name = f"busy {secrets.token_hex(4)}"
        await store.create(KeyToStore(key.prefix, key.hash, name, name, scopes, max_runs=2))
        held = json.dumps({"hold": 60})
        live = [
            await created(replica, key.text, input=held, background=True) for replica in guarded
        ]
        body = {"model": "scripted", "input": "one more"}
        answer = await call(guarded[0], "POST", "/responses", key.text, body)
        assert answer.status_code == 429
        assert answer.json()["error"]["code"] == "too_many_runs"
        assert answer.headers["retry-after"] == "5"
        # Others are not held up, and one that has ended makes room.
        await created(guarded[0], callers.keys["owner"])
        await call(guarded[1], "POST", f"/responses/{live[0]}/cancel", key.text)
        await created(guarded[0], key.text)
        await call(guarded[1], "POST", f"/responses/{live[1]}/cancel", key.text)


class TestSDK:
    async def test_with_a_key_as_without(self, guarded: list[Replica], callers: Callers) -> None:
        async with AsyncOpenAI(
            base_url=guarded[0].base_url, api_key=callers.keys["owner"], max_retries=0
        ) as client:
            first = await client.responses.create(model="scripted", input="hello")
            assert first.status == "completed"
            stream = await client.responses.create(
                model="scripted", input="again", previous_response_id=first.id, stream=True
            )
            assert [event.type async for event in stream][-1] == "response.completed"

    async def test_without_one(self, guarded: list[Replica], callers: Callers) -> None:
        async with AsyncOpenAI(base_url=guarded[0].base_url, api_key="sk-nobodys") as client:
            with pytest.raises(openai.AuthenticationError) as raised:
                await client.responses.create(model="scripted", input="hello")
            assert raised.value.code == "invalid_api_key"
            assert raised.value.request_id


class TestKeysChange:
    async def test_a_revoked_key_is_refused_by_every_replica(
        self, guarded: list[Replica], callers: Callers, store: Keys
    ) -> None:
        await callers.make(store, "leaver", "carol", "read write")
        key = callers.keys["leaver"]
        for replica in guarded:
            assert (await call(replica, "GET", "/models", key)).is_success
        await store.revoke(callers.prefixes["leaver"])

        async def refused() -> bool:
            answers = [await call(replica, "GET", "/models", key) for replica in guarded]
            return {answer.status_code for answer in answers} == {401}

        await eventually(refused, timeout=10)

    async def test_a_rotated_key_stays_for_its_overlap(
        self, guarded: list[Replica], store: Keys
    ) -> None:
        name = f"rotated {secrets.token_hex(4)}"
        old, new, newest = new_key(), new_key(), new_key()
        assert await store.create(
            KeyToStore(old.prefix, old.hash, name, "dora", frozenset({"read"}))
        )
        assert await store.rotate(name, new.prefix, new.hash, overlap=60)
        for key in (old, new):
            assert (await call(guarded[0], "GET", "/models", key.text)).is_success
        assert await store.rotate(name, newest.prefix, newest.hash, overlap=0)

        async def only_the_newest_and_the_first() -> bool:
            answers = [
                (await call(guarded[1], "GET", "/models", key.text)).status_code
                for key in (old, new, newest)
            ]
            return answers == [200, 401, 200]

        await eventually(only_the_newest_and_the_first, timeout=10)
        assert set(await store.revoke(name)) == {old.prefix, new.prefix, newest.prefix}
        assert not await store.rotate(name, *astuple_of(new_key()), overlap=0)


def astuple_of(key: Any) -> tuple[str, bytes]:
    return key.prefix, key.hash


class TestCommand:
    def run(self, database: Server, schema: str, *arguments: str) -> tuple[int, str, str]:
        environment = {k: v for k, v in os.environ.items() if not k.startswith("LONGRUN_")}
        done = subprocess.run(
            [sys.executable, "-m", "longrun", "keys", *arguments],
            env={
                **environment,
                "LONGRUN_DATABASE_URL": database.url,
                "LONGRUN_SCHEMA": schema,
            },
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
        return done.returncode, done.stdout, done.stderr

    async def test_create_list_rotate_revoke(self, database: Server, schema: str) -> None:
        def run(*arguments: str) -> tuple[int, str, str]:
            return self.run(database, schema, *arguments)

        status, key, hint = run("create", "website", "--expires", "90d")
        assert status == 0
        assert re.fullmatch(r"lr_[a-z0-9]{12}_[\w-]{43}\n", key)
        assert "only time" in hint
        assert run("create", "website")[0] == 2
        status, made, _ = run(
            *("create", "ops", "--principal", "team", "--scopes", "admin,read"),
            *("--max-runs", "3", "--json"),
        )
        assert json.loads(made)["scopes"] == ["admin", "read"]
        assert json.loads(made)["max_runs"] == 3
        listed = json.loads(run("list", "--json")[1])["keys"]
        assert [(each["name"], each["principal"], each["state"]) for each in listed] == [
            ("website", "website", "valid"),
            ("ops", "team", "valid"),
        ]
        assert listed[0]["prefix"] == key[:15]
        assert all("hash" not in each for each in listed)
        assert run("rotate", "website")[0] == 0
        assert run("revoke", listed[1]["prefix"])[1] == f"revoked {listed[1]['prefix']}\n"
        shown = run("list")[1]
        assert "replaced" in shown
        assert "revoked" in shown
        assert key.strip() not in shown

    @pytest.mark.parametrize(
        ("arguments", "says"),
        [
            (("create", "a", "--scopes", "read,delete"), "allowed are read, write and admin"),
            (("create", "a", "--expires", "90 days"), "90d, 12h, 30m, 45s"),
            (("create", "lr_a"), "does not begin with lr_"),
            (("create", "a", "--principal", "b" * 201), "at most 200 characters"),
            (("rotate", "nobodys"), "no valid key named 'nobodys'"),
            (("revoke", "nobodys"), "no key 'nobodys' to revoke"),
        ],
    )
    def test_what_cannot_be(self, database: Server, arguments: tuple[str, ...], says: str) -> None:
        status, shown, error = self.run(database, "access_cli", *arguments)
        assert (status, shown) == (2, "")
        assert says in " ".join(error.split())


class TestWithoutKeys:
    async def test_another_address_than_loopback_is_refused_at_start(
        self, database: Server, schema: str
    ) -> None:
        replica = servers.start(
            database.url, schema=schema, arguments=("--host", "0.0.0.0"), wait=False
        )
        try:
            assert await asyncio.to_thread(replica.wait, 60) == 2
            assert "longrun keys create NAME" in replica.output()
            assert "--no-auth" in replica.output()
        finally:
            replica.end()
            replica.log.unlink()

    @pytest.mark.parametrize("way", ["a key", "--no-auth"])
    async def test_unless(self, database: Server, schema: str, way: str) -> None:
        if way == "a key":
            async with storing.migrated(database.url, schema) as opened:
                key = new_key()
                scopes = frozenset({"read"})
                await Keys(opened).create(KeyToStore(key.prefix, key.hash, "one", "p", scopes))
        arguments = ("--host", "0.0.0.0", *([way] if way != "a key" else []))
        with servers.replicas(1, database.url, schema=schema, arguments=arguments) as (replica,):
            status = 200 if way == "--no-auth" else 401
            assert (await call(replica, "GET", "/models", "")).status_code == status

    @pytest.mark.parametrize(
        ("headers", "status"),
        [
            ({}, 200),
            ({"host": "localhost:80"}, 200),
            ({"host": "rebound.example"}, 403),
            ({"host": "127.0.0.1.example:8000"}, 403),
            ({"origin": "https://elsewhere.example"}, 403),
            ({"origin": "null"}, 403),
        ],
    )
    async def test_pages_of_elsewhere_start_nothing(
        self, two: list[Replica], headers: dict[str, str], status: int
    ) -> None:
        body = {"model": "scripted", "input": "hello"}
        answer = await call(two[0], "POST", "/responses", "", body, headers)
        assert answer.status_code == status

    async def test_a_page_of_its_own_may(self, two: list[Replica]) -> None:
        answer = await call(two[0], "GET", "/models", "", None, {"origin": two[0].url})
        assert answer.status_code == 200
