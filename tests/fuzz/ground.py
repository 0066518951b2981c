"""Where fuzzing happens: two replicas, two tenants, and what must hold whatever is sent.

Without keys (`keyless`) there is one client, on the servers' own machine, and a web page of
elsewhere in the place of nobody. With encryption at rest (`sealed`) no table has words of a tenant.

Of each answer (`Ground.judge`): no 5xx, no hang, an error in the contract's shape, what
`/openapi.json` promises, and nothing of the other tenant's. At rest (`Ground.at_rest`): replicas
that live and have logged no traceback and no line that a client forged, no reader, run, connection
or file left open, no more memory than after the warm-up, and nothing in Postgres without its owner.
"""

import asyncio
import contextlib
import json
import os
import re
import secrets
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, TypeVar

import asyncpg
import httpx2
import psutil

from longrun.access.keys import new_key
from longrun.store.keys import Keys, KeyToStore
from tests import servers, storing
from tests.openapi import Judge
from tests.servers import Replica

T = TypeVar("T")

MEGABYTE: Final = 1024 * 1024

DEADLINE: Final = 25.0
"""Seconds within which everything is answered, streams too: no run lasts longer here."""

GROWTH: Final = 60 * MEGABYTE
"""Memory that a replica may take beyond what it took after the warm-up."""

SETTLES_WITHIN: Final = 20.0

ENVIRONMENT: Final = {
    "LONGRUN_RUN_TIMEOUT": "10",
    "LONGRUN_RECEIVE_TIMEOUT": "2",
    "LONGRUN_SEND_TIMEOUT": "5",
    "LONGRUN_WEBHOOK_TIMEOUT": "0.5",
    "LONGRUN_KEEPALIVE_INTERVAL": "1",
    "LONGRUN_MAX_BODY_BYTES": str(MEGABYTE),
    "LONGRUN_MAX_BODIES_BYTES": str(16 * MEGABYTE),
}

_LINE: Final = re.compile(r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d,\d{3} (\w+) +([\w.]+): ")
"""How a line of the log begins; what continues one is indented."""

_BAD: Final = re.compile(r"Traceback|Task exception|was never (?:retrieved|awaited)")


PUBLIC: Final = re.compile(r"/|/console/.*|/healthz|/readyz|/metrics|/openapi\.json", re.DOTALL)
"""What says the same to everybody (contract, "Callers")."""

ELSEWHERE: Final = {"origin": "https://elsewhere.example"}
"""A web page that its visitor's browser lets call a server without keys."""


class Found(AssertionError):
    """Something does not hold."""


@dataclass
class Tenant:
    """A principal with a key (or without one, on a server that has none), and words that nobody
    else may ever read."""

    name: str
    key: str
    canary: str = field(default_factory=lambda: f"canary{secrets.token_hex(8)}")
    responses: list[str] = field(default_factory=list)
    conversations: list[str] = field(default_factory=list)
    items: list[str] = field(default_factory=list)

    @property
    def headers(self) -> dict[str, str]:
        return {"authorization": f"Bearer {self.key}"} if self.key else {}


class Answer:
    """What came back, and how long it took."""

    def __init__(self, status: int, headers: Any, content: bytes, took: float) -> None:
        self.status = status
        self.media_type = str(headers.get("content-type", ""))
        self.headers = headers
        self.text = content.decode("utf-8", "replace")
        self.took = took

    def json(self) -> Any:
        return json.loads(self.text)


@dataclass
class Ground:
    """The replicas, and who calls them."""

    replicas: list[Replica]
    tenants: list[Tenant]
    document: dict[str, Any]
    database_url: str
    schema: str
    client: httpx2.Client
    keyless: bool = False
    sealed: bool = False
    answers: int = 0
    statuses: Counter[int] = field(default_factory=Counter)
    said: list[str] = field(default_factory=list)
    """What the example at hand has sent so far: of a find, the smallest that does it."""
    built: dict[str, Any] = field(default_factory=dict)
    """What a part builds once and uses in all its rounds. Hypothesis and schemathesis keep whatever
    machine or schema they have ever seen: built anew, it is some megabytes a round."""
    _warm: dict[int, tuple[int, int]] = field(default_factory=dict)
    _read: dict[Path, int] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.judge_of_document = Judge(self.document)
        for replica in self.replicas:
            # What it says of itself as it starts.
            self._read[replica.log] = replica.log.stat().st_size

    def other(self, tenant: Tenant | None) -> list[Tenant]:
        return [each for each in self.tenants if each is not tenant]

    def once(self, name: str, build: Callable[[], T]) -> T:
        """What `build` gives, which is called the first time only."""
        if name not in self.built:
            self.built[name] = build()
        found: T = self.built[name]
        return found

    def headers(self, tenant: Tenant | None) -> dict[str, str]:
        """What somebody, or nobody, says of themselves."""
        return tenant.headers if tenant else ELSEWHERE if self.keyless else {}

    # -- asking -------------------------------------------------------------------------------

    def ask(
        self, tenant: Tenant | None, method: str, path: str, replica: int = 0, **more: Any
    ) -> Answer:
        """Ask as a tenant (None: as nobody), and judge the answer."""
        headers = {**self.headers(tenant), **more.pop("headers", {})}
        url = self.replicas[replica % len(self.replicas)].url + path
        self.said.append(f"{tenant.name if tenant else 'nobody'}: {method} {path} {more}")
        began = time.monotonic()
        try:
            answer = self.client.request(method, url, headers=headers, **more)
        except httpx2.TimeoutException:
            raise Found(f"no answer within {DEADLINE:g} s: {method} {path}") from None
        took = time.monotonic() - began
        made = Answer(answer.status_code, answer.headers, answer.content, took)
        self.judge(tenant, method, path, made)
        return made

    def judge(self, tenant: Tenant | None, method: str, path: str, answer: Answer) -> None:
        """Check one answer.

        Raises:
            Found: it breaks one of the promises.
        """
        self.answers += 1
        self.statuses[answer.status] += 1
        what = f"{method} {path[:200]} -> {answer.status} {answer.text[:300]!r}"
        if answer.status >= 500:
            raise Found(f"a server error: {what}")
        if answer.took > DEADLINE:
            raise Found(f"it took {answer.took:.0f} s: {what}")
        if "x-request-id" not in answer.headers:
            raise Found(f"no x-request-id: {what}")
        if tenant is None and answer.status < 300 and not PUBLIC.fullmatch(path.partition("?")[0]):
            raise Found(f"nobody was let in: {what}")
        for each in self.other(tenant):
            if each.canary in answer.text or each.canary in str(answer.headers):
                raise Found(f"what is {each.name}'s was shown to another: {what}")
        if method == "HEAD":
            return
        problem = self.judge_of_document.problem(
            method, path, answer.status, answer.media_type, answer.text
        )
        if problem is not None and answer.status >= 400:
            schema = {"$ref": "#/components/schemas/Error"}
            problem = self.judge_of_document.problem_of(schema, answer.json())
        if problem is not None:
            raise Found(f"not as /openapi.json says: {problem}: {what}")

    def check_hidden(self, said: bytes) -> None:
        """Check what was said to nobody in particular. Without keys, whoever is on this machine
        may read.

        Raises:
            Found: it has words of a tenant.
        """
        for tenant in self.tenants if not self.keyless else ():
            if tenant.canary.encode() in said:
                raise Found(f"what is {tenant.name}'s was shown to nobody: {said[:600]!r}")

    # -- what is there ------------------------------------------------------------------------

    def furnish(self) -> None:
        """Give each tenant a finished response, one on a conversation, and its items."""
        for tenant in self.tenants:
            tenant.responses.clear()
            tenant.conversations.clear()
            tenant.items.clear()
            secret = {"role": "user", "content": tenant.canary}
            metadata = {"secret": tenant.canary}
            told = {"model": "scripted", "metadata": metadata, "user": tenant.canary}
            items = {"items": [secret], "metadata": metadata}
            conversation = self.ask(tenant, "POST", "/conversations", json=items).json()["id"]
            tenant.conversations.append(conversation)
            for more in ({"background": True}, {"conversation": conversation}):
                body = {**told, "input": tenant.canary, **more}
                made = self.ask(tenant, "POST", "/responses", json=body).json()
                tenant.responses.append(made["id"])
                tenant.items += [each["id"] for each in made["output"]]
            listed = self.ask(tenant, "GET", f"/conversations/{conversation}/items").json()
            tenant.items += [each["id"] for each in listed["data"]]

    def ids(self) -> list[str]:
        """All ids of all tenants, in an order that is the same each time, and some of nothing."""
        found = ["resp_" + "0" * 32, "conv_" + "f" * 32, "nothing"]
        for one in self.tenants:
            found += [*one.responses, *one.conversations, *one.items]
        return found

    def clear(self) -> None:
        """Delete all that the tenants have."""
        for tenant in self.tenants:
            while True:
                page = self.ask(tenant, "GET", "/responses?limit=100").json()["data"]
                for each in page:
                    self.ask(tenant, "DELETE", f"/responses/{each['id']}")
                if not page:
                    break

    # -- at rest ------------------------------------------------------------------------------

    def at_rest(self) -> None:
        """Wait until nothing is under way, and look at what is left.

        Raises:
            Found: something is.
        """
        if self.sealed:
            asyncio.run(self._check_sealed())
        self.clear()
        for replica in self.replicas:
            if replica.process.poll() is not None:
                raise Found(f"a replica ended: {replica.output()[-2000:]}")
            self._settled(replica)
            self._check_log(replica)
            self._check_size(replica)
        asyncio.run(self._check_database())

    def _settled(self, replica: Replica) -> None:
        deadline = time.monotonic() + SETTLES_WITHIN
        while open_ := self._open(replica):
            if time.monotonic() > deadline:
                raise Found(f"still open at rest: {open_}")
            time.sleep(0.1)

    def _open(self, replica: Replica) -> dict[str, float]:
        text = self.client.get(replica.url + "/metrics").text
        wanted = ("longrun_readers", "longrun_runs", "longrun_tool_calls_waiting")
        found = dict(line.rsplit(" ", 1) for line in text.splitlines() if line.startswith(wanted))
        return {name: float(found[name]) for name in wanted if float(found[name])}

    def _check_log(self, replica: Replica) -> None:
        with replica.log.open(encoding="utf-8", errors="replace", newline="\n") as file:
            file.seek(self._read.get(replica.log, 0))
            text = file.read()
            self._read[replica.log] = file.tell()
        for line in text.removesuffix("\n").split("\n"):
            match = _LINE.match(line)
            if not match and not line.startswith("  ") and line:
                raise Found(f"a line of the log that is none: {line[:300]!r}")
            if _BAD.search(line) or (match and match[1] in ("ERROR", "CRITICAL")):
                where = text.find(line)
                raise Found(f"in the log of a replica: {text[where : where + 3000]}")

    def _check_size(self, replica: Replica) -> None:
        process = psutil.Process(replica.process.pid)
        size, files = process.memory_info().rss, process.num_fds()
        first, first_files = self._warm.setdefault(process.pid, (size, files))
        if size > first + GROWTH:
            raise Found(f"a replica grew from {first / 1e6:.0f} to {size / 1e6:.0f} MB")
        if files > first_files + 20:
            raise Found(f"a replica has {files} files open, after the warm-up {first_files}")

    async def _check_database(self) -> None:
        connection = await asyncpg.connect(self.database_url)
        try:
            for table in ("event_chunks", "items", "steps"):
                count = await connection.fetchval(
                    f'SELECT count(*) FROM "{self.schema}".{table} WHERE response_id NOT IN '
                    f'(SELECT id FROM "{self.schema}".responses)'
                )
                if count:
                    raise Found(f"{count} rows of {table} belong to no response")
            for _ in range(50):
                stuck = await connection.fetchval(
                    "SELECT count(*) FROM pg_stat_activity WHERE application_name LIKE 'longrun%' "
                    "AND state LIKE 'idle in transaction%' "
                    "AND state_change < now() - interval '3 seconds'"
                )
                if not stuck:
                    return
                await asyncio.sleep(0.1)
            raise Found(f"{stuck} connections are idle in a transaction")
        finally:
            await connection.close()

    async def _check_sealed(self) -> None:
        """Whatever is stored has no words of a tenant, in any column."""
        connection = await asyncpg.connect(self.database_url)
        try:
            for table, column, kind in await connection.fetch(
                "SELECT table_name, column_name, udt_name FROM information_schema.columns "
                "WHERE table_schema = $1 AND udt_name IN ('text', 'bytea', '_text') "
                "AND table_name <> 'events'",
                self.schema,
            ):
                within = f'"{column}"::text'
                if kind == "bytea":
                    within = f"encode(\"{column}\", 'escape')"
                count = await connection.fetchval(
                    f'SELECT count(*) FROM "{self.schema}"."{table}" '
                    f"WHERE strpos({within}, $1) > 0 OR strpos({within}, $2) > 0",
                    *(tenant.canary for tenant in (self.tenants * 2)[:2]),
                )
                if count:
                    raise Found(f"{count} rows of {table}.{column} have words of a tenant in plain")
        finally:
            await connection.close()

    def size(self) -> str:
        """Of each replica's memory, and of the fuzzer's own, for the progress."""
        pids = [*(each.process.pid for each in self.replicas), os.getpid()]
        *sizes, own = [psutil.Process(pid).memory_info().rss / 1e6 for pid in pids]
        return " + ".join(f"{size:.0f}" for size in sizes) + f" MB, {own:.0f} here"


@contextlib.contextmanager
def ground(
    database_url: str, schema: str = "fuzz", *, sealed: bool = False, keyless: bool = False
) -> Iterator[Ground]:
    """Two replicas of a database, and two tenants.

    Args:
        sealed: what is stored is encrypted.
        keyless: the servers have no keys; there is one tenant, who needs none.
    """
    environment = {**ENVIRONMENT, **(servers.KEY_RING if sealed else {})}
    with (
        servers.replicas(2, database_url, schema=schema, environment=environment) as replicas,
        httpx2.Client(timeout=DEADLINE) as client,
    ):
        if keyless:
            tenants = [Tenant("anyone", "")]
        else:
            tenants = asyncio.run(_tenants(database_url, schema))
            deadline = time.monotonic() + 30
            while any(client.get(each.url + "/models").status_code != 401 for each in replicas):
                assert time.monotonic() < deadline
                time.sleep(0.1)
        document = client.get(replicas[0].url + "/openapi.json").json()
        yield Ground(replicas, tenants, document, database_url, schema, client, keyless, sealed)


async def _tenants(database_url: str, schema: str) -> list[Tenant]:
    found = []
    async with storing.migrated(database_url, schema) as store:
        for name in ("alice", "bob"):
            key = new_key()
            scopes = frozenset({"read", "write"})
            await Keys(store).create(
                KeyToStore(key.prefix, key.hash, f"{name} {key.prefix}", name, scopes)
            )
            found.append(Tenant(name, key.text))
    return found
