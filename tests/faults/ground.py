"""The ground of the fault tests: replicas that may be hurt, clients that follow, and the truth.

The truth is the event log in Postgres. `Ground.check` looks at everything that was promised.
"""

import asyncio
import collections
import contextlib
import itertools
import json
import signal
import tempfile
import time
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import asyncpg

from longrun.store.sealing import chunk_place, column_place, item_place
from tests import postgres, servers
from tests.faults.agents import AGENTS, gate_file
from tests.reading import Frame, Wire, create, eventually, parse
from tests.servers import Replica
from tests.storing import SEALING

PATIENCE = 60.0
"""Seconds in which some replica has to answer a request."""

SILENCE = 4.0
"""Seconds without even a heartbeat after which a client takes its stream for dead."""

ENVIRONMENT = {
    "LONGRUN_LEASE_SECONDS": "2",
    "LONGRUN_KEEPALIVE_INTERVAL": "1",
    "LONGRUN_DRAIN_SECONDS": "3",
    "LONGRUN_MAX_RUNS": "300",
}

TERMINAL = {
    "completed": "response.completed",
    "failed": "response.failed",
    "cancelled": "response.failed",
    "incomplete": "response.incomplete",
}

Effects = dict[tuple[str, str], list[tuple[str, int, str]]]

TOOLS = (("work", {"name": "a"}), ("work", {"name": "b"}))
DELTAS = 6


def script(**fields: Any) -> dict[str, Any]:
    """Two tools in parallel, then a text; with `gates`."""
    return {"turns": (TOOLS,), "deltas": DELTAS, **fields}


@dataclass
class Ground:
    """Replicas on a schema, a folder of gates, a file of effects."""

    database: postgres.Server
    schema: str
    folder: Path
    environment: dict[str, str]
    agents: str = AGENTS
    replicas: list[Replica] = field(default_factory=list)
    _shared: asyncpg.Connection | None = None
    _effects_size: int = 0
    _effects: Effects = field(default_factory=dict)

    # -- replicas -------------------------------------------------------------------------

    def start(
        self,
        count: int = 1,
        *,
        wait: bool = True,
        tree: Path | None = None,
        **environment: str,
    ) -> list[Replica]:
        given = {
            **ENVIRONMENT,
            "GATES": str(self.folder),
            "EFFECTS": str(self.folder / "effects"),
            **self.environment,
            **environment,
        }
        started = [
            servers.start(
                self.database.url,
                schema=self.schema,
                agents=self.agents,
                environment=given,
                tree=tree,
                wait=False,
            )
            for _ in range(count)
        ]
        self.replicas += started
        if wait:
            for replica in started:
                servers.wait_ready(replica)
        return started

    def end(self) -> None:
        for replica in self.replicas:
            if replica.process.poll() is None:
                replica.process.send_signal(signal.SIGCONT)
                replica.process.kill()
        for replica in self.replicas:
            replica.process.wait()
            replica.log.unlink(missing_ok=True)

    def logs(self) -> str:
        return "\n".join(replica.output() for replica in self.replicas if replica.log.exists())

    # -- gates and effects ----------------------------------------------------------------

    def open(self, *points: str) -> None:
        for point in points:
            (self.folder / f"open {point}").touch()

    def close(self) -> None:
        for file in self.folder.glob("open *"):
            file.unlink()

    def is_at(self, response_id: str, point: str, attempt: int = 1) -> bool:
        return gate_file(self.folder, response_id, point, attempt).exists()

    async def reach(
        self, ids: Sequence[str], point: str, attempt: int = 1, timeout: float = 30
    ) -> None:
        """Wait until all of these runs are at a gate."""
        await eventually(
            lambda: all(self.is_at(id_, point, attempt) for id_ in ids), timeout=timeout
        )

    def effects_of(self, response_id: str, kind: str) -> list[tuple[str, int, str]]:
        """(what, attempt, idempotency key) of each `turn` or `tool` of a response, in order."""
        return self._effects_by_response().get((kind, response_id), [])

    def _effects_by_response(self) -> Effects:
        file = self.folder / "effects"
        size = file.stat().st_size if file.exists() else 0
        if size != self._effects_size:
            self._effects_size, self._effects = size, {}
            for line in file.read_text().splitlines():
                if line.count(" ") == 4:
                    kind, id_, what, attempt, key = line.split()
                    found = self._effects.setdefault((kind, id_), [])
                    found.append((what, int(attempt), key))
        return self._effects

    # -- Postgres -------------------------------------------------------------------------

    @contextlib.asynccontextmanager
    async def connected(self) -> AsyncIterator[asyncpg.Connection]:
        connection = await asyncpg.connect(self.database.url, target_session_attrs="primary")
        try:
            await connection.execute(f"SET search_path TO {self.schema}")
            yield connection
        finally:
            await connection.close()

    @contextlib.asynccontextmanager
    async def sharing(self) -> AsyncIterator[None]:
        """One connection for all that is asked in the block, one after the other."""
        async with self.connected() as self._shared:
            try:
                yield
            finally:
                self._shared = None

    async def sql(self, query: str, *args: Any) -> list[asyncpg.Record]:
        if self._shared is not None:
            return list(await self._shared.fetch(query, *args))
        async with self.connected() as connection:
            return list(await connection.fetch(query, *args))

    async def value(self, query: str, *args: Any) -> Any:
        return (await self.sql(query, *args))[0][0]

    async def row(self, response_id: str) -> asyncpg.Record:
        return (await self.sql("SELECT * FROM responses WHERE id = $1", response_id))[0]

    async def attempts(self, ids: Sequence[str]) -> dict[str, int]:
        rows = await self.sql("SELECT id, attempt FROM responses WHERE id = ANY($1)", list(ids))
        return {row["id"]: row["attempt"] for row in rows}

    async def all_at_attempt(self, ids: Sequence[str], attempt: int, timeout: float = 30) -> None:
        """Wait until these runs have been taken over."""

        async def taken() -> bool:
            return all(n >= attempt for n in (await self.attempts(ids)).values())

        await eventually(taken, timeout)

    async def all_finished(self, ids: Sequence[str], timeout: float = 60) -> None:
        query = "SELECT count(*) FROM responses WHERE id = ANY($1) AND finished_at IS NULL"

        async def finished() -> bool:
            return not await self.value(query, list(ids))

        await eventually(finished, timeout, every=0.1)

    async def pid_of(self, response_id: str) -> int | None:
        """The process that executes a response."""
        rows = await self.sql(
            "SELECT pid FROM replicas JOIN responses ON responses.replica_id = replicas.id"
            " WHERE responses.id = $1",
            response_id,
        )
        return rows[0]["pid"] if rows else None

    # -- runs -----------------------------------------------------------------------------

    async def submit(
        self, replica: Replica, count: int = 1, *, model: str = "gated", **fields: Any
    ) -> list[str]:
        """Background runs of a script (`script`)."""
        text = json.dumps(script(**fields))
        answers = await asyncio.gather(
            *(create(replica, text, model=model, background=True) for _ in range(count))
        )
        return [answer["id"] for answer in answers]

    # -- the truth ------------------------------------------------------------------------

    async def log_of(self, response_id: str) -> list[bytes]:
        """The lines of the log; its chunks are looked at, too."""
        rows = await self.sql(
            "SELECT first, last, attempt, data FROM event_chunks WHERE response_id = $1"
            " ORDER BY last",
            response_id,
        )
        lines: list[bytes] = []
        attempt = 0
        for row in rows:
            assert row["first"] == len(lines), f"{response_id}: a gap before {row['first']}"
            place = chunk_place(response_id, row["first"], row["last"])
            lines += SEALING.open(place, row["data"]).split(b"\n")
            assert row["last"] == len(lines) - 1, f"{response_id}: a wrong count in a chunk"
            assert row["attempt"] >= attempt, f"{response_id}: an old attempt wrote"
            attempt = row["attempt"]
        return lines

    async def check_all(
        self, ids: Sequence[str], followers: Sequence["Follower"] = (), status: str = "completed"
    ) -> dict[str, list[dict[str, Any]]]:
        """`check` for each; and each client has what the log has."""
        async with self.sharing():
            events = {id_: await self.check(id_, status) for id_ in ids}
            for follower in followers:
                assert follower.lines == await self.log_of(follower.response_id)
        return events

    async def check(
        self, response_id: str, status: str = "completed", text: str | None = None
    ) -> list[dict[str, Any]]:
        """Everything that is promised of a finished response. Returns its events."""
        lines = await self.log_of(response_id)
        row = await self.row(response_id)
        events = [json.loads(line) for line in lines]
        assert row["status"] == status, f"{response_id}: {row['status']}: {events[-1]}"
        check_events(response_id, events, status)
        final = events[-1]["response"]
        items = await self.sql(
            "SELECT output_index, item FROM items WHERE response_id = $1 ORDER BY output_index",
            response_id,
        )
        opened = [SEALING.open_text(item_place(response_id, *row), text) for *row, text in items]
        assert [json.loads(item) for item in opened] == final["output"]
        await self._check_steps(response_id)
        if status == "completed":
            given = SEALING.open_text(column_place(response_id, "input"), row["input"])
            check_output(response_id, final["output"], text or text_of(given))
        return events

    async def _check_steps(self, response_id: str) -> None:
        """What was recorded by an attempt, no later one has done again."""
        steps = await self.sql(
            "SELECT kind, key, attempt FROM steps WHERE response_id = $1", response_id
        )
        for step in steps:
            kind = {"model": "turn", "tool": "tool"}.get(step["kind"])
            if kind is None:
                continue
            done = [
                attempt
                for what, attempt, _ in self.effects_of(response_id, kind)
                if what == step["key"]
            ]
            where = f"{response_id}: {step['kind']} {step['key']}"
            assert done.count(step["attempt"]) == 1, f"{where} was done {done}"
            assert max(done) == step["attempt"], f"{where} was done again: {done}"
        keys: dict[str, set[str]] = collections.defaultdict(set)
        for what, _, key in self.effects_of(response_id, "tool"):
            keys[what].add(key)
        assert all(len(found) == 1 for found in keys.values()), f"{response_id}: {dict(keys)}"


def text_of(given: str) -> str:
    """The final text, by the script that a response was created with."""
    found = json.loads(json.loads(given)[-1]["content"])
    return "".join(f"word{n} " for n in range(found["deltas"]))


def check_events(response_id: str, events: list[dict[str, Any]], status: str) -> None:
    """A log by itself: numbers, the terminal event, every item opened and closed once."""
    types = [event["type"] for event in events]
    assert [event["sequence_number"] for event in events] == list(range(len(events)))
    assert types[0] == "response.created"
    assert types[-1] == TERMINAL[status], f"{response_id}: ends with {types[-1]}"
    assert not set(types[:-1]) & set(TERMINAL.values())
    opened: dict[int, dict[str, Any]] = {}
    closed: dict[int, dict[str, Any]] = {}
    texts: dict[int, str] = collections.defaultdict(str)
    for event in events:
        index = event.get("output_index")
        match event["type"]:
            case "response.output_item.added":
                assert index == len(opened), f"{response_id}: item {index} after {len(opened)}"
                opened[index] = event["item"]
            case "response.output_item.done":
                assert index in opened
                assert index not in closed, f"{response_id}: item {index} is closed twice"
                assert event["item"]["id"] == opened[index]["id"]
                closed[index] = event["item"]
            case "response.output_text.delta":
                assert index in opened
                assert index not in closed
                texts[index] += event["delta"]
        if "response" in event:
            assert event["response"]["id"] == response_id
    assert opened.keys() == closed.keys(), f"{response_id}: items are left open"
    final = {item["id"] for item in events[-1]["response"]["output"]}
    for index, item in closed.items():
        if item["id"] not in final and item.get("status") != "incomplete":
            # Of a model turn that was not finished: a takeover said that it does not count.
            assert is_taken_back(item["id"], events), item
        if item["type"] == "message":
            shown = "".join(part["text"] for part in item["content"])
            assert shown == texts[index], f"{response_id}: item {index} is not what was streamed"


def is_taken_back(item_id: str, events: list[dict[str, Any]]) -> bool:
    """Whether an in_progress event came after the item's end, in which it is empty."""
    ended = False
    for event in events:
        if event["type"] == "response.output_item.done" and event["item"]["id"] == item_id:
            ended = True
        elif ended and event["type"] == "response.in_progress":
            (item,) = (item for item in event["response"]["output"] if item["id"] == item_id)
            content = item.get("content") or item.get("arguments")
            return item.get("status") == "incomplete" and not content
    return False


def check_output(response_id: str, output: list[dict[str, Any]], text: str) -> None:
    """The output of `script`, whatever happened meanwhile: the parallel tools in any order."""
    kinds = [item["type"] for item in output]
    if "mcp_call" in kinds:
        assert kinds == ["mcp_call", "mcp_call", "message"], f"{response_id}: {kinds}"
        called = [(json.loads(item["arguments"])["name"], item["output"]) for item in output[:2]]
        assert called == [("a", "did a"), ("b", "did b")]
        assert {item["status"] for item in output} == {"completed"}
    else:
        check_pairs(response_id, output)
    assert output[-1]["content"][0]["text"] == text
    assert output[-1]["status"] == "completed"


def check_pairs(response_id: str, output: list[dict[str, Any]]) -> None:
    """The same with LONGRUN_SERVER_TOOLS=function_call."""
    kinds = [item["type"] for item in output]
    calls = [asked(item) for item in output if item["type"] == "function_call"]
    outputs = {
        asked(item): item["output"] for item in output if item["type"] == "function_call_output"
    }
    assert kinds[:2] == ["function_call"] * 2, f"{response_id}: {kinds}"
    assert kinds[2:4] == ["function_call_output"] * 2
    assert kinds[4:] == ["message"]
    assert calls == ["call_0_0", "call_0_1"]
    assert outputs == {"call_0_0": "did a", "call_0_1": "did b"}


def asked(item: dict[str, Any]) -> str:
    """The call id that the model gave: in a turn that was asked again it shows as `id_2`."""
    return "_".join(item["call_id"].split("_")[:3])


class Follower:
    """A client that follows a response to its end: when a stream breaks off, or says nothing,
    it resumes after its last event at the next replica.

    Attributes:
        lines: the data of each frame.
        times: when each came, by the monotonic clock.
        breaks: how often a stream ended before the end.
    """

    def __init__(self, replicas: Sequence[Replica], response_id: str, first: int = 0) -> None:
        self.response_id = response_id
        self.lines: list[bytes] = []
        self.times: list[float] = []
        self.breaks = 0
        self.done = False
        self.silence = SILENCE
        self._replicas = replicas
        self._at = first
        self.came = asyncio.Event()

    async def run(self) -> None:
        while not self.done:
            replica = self._replicas[self._at % len(self._replicas)]
            with contextlib.suppress(OSError, TimeoutError, AssertionError):
                await self._read(replica)
            if not self.done:
                self.breaks += 1
                self._at += 1
                await asyncio.sleep(0.05)

    async def _read(self, replica: Replica) -> None:
        cursor = f"&starting_after={len(self.lines) - 1}" if self.lines else ""
        url = f"{replica.base_url}/responses/{self.response_id}?stream=true{cursor}"
        async with asyncio.timeout(self.silence):
            wire = await Wire.open(url)
        async with wire:
            if wire.status != 200:
                return
            self._take(wire)
            while not self.done:
                async with asyncio.timeout(self.silence):
                    more = await wire.more()
                self._take(wire)
                if not more:
                    return

    def _take(self, wire: Wire) -> None:
        reading = parse(wire.body)
        for frame in reading.frames:
            self._take_frame(frame)
        self.done = self.done or reading.done
        wire.body = bytearray(reading.rest)

    def _take_frame(self, frame: Frame) -> None:
        if frame.number != len(self.lines):
            raise RuntimeError(f"{frame.number} came after {len(self.lines) - 1}")
        self.lines.append(frame.data)
        self.times.append(time.monotonic())
        self.came.set()

    async def until(self, enough: Callable[[], bool], timeout: float = 30) -> None:
        """Wait for events."""
        async with asyncio.timeout(timeout):
            while not enough():
                self.came.clear()
                await self.came.wait()

    def types(self) -> list[str]:
        return [json.loads(line)["type"] for line in self.lines]

    def count(self, kind: str) -> int:
        return self.types().count(kind)


class Balancer:
    """What a load balancer does: tries the next replica where a request was not answered.

    Only a refused or reset connection before any answer, and 503, are tried elsewhere.
    """

    def __init__(self, replicas: list[Replica]) -> None:
        self.replicas = replicas
        self.tries: collections.Counter[str] = collections.Counter()
        self._next = itertools.count()

    async def post(self, body: dict[str, Any], path: str = "/responses") -> dict[str, Any]:
        deadline = time.monotonic() + PATIENCE
        while time.monotonic() < deadline:
            replica = self.replicas[next(self._next) % len(self.replicas)]
            try:
                wire = await Wire.open(f"{replica.base_url}{path}", method="POST", json=body)
            except (OSError, TimeoutError):
                self.tries["refused"] += 1
                await asyncio.sleep(0.02)
                continue
            async with wire:
                await wire.rest()
                if wire.status == 503:
                    self.tries["503"] += 1
                    continue
                if not wire.status:
                    self.tries["reset"] += 1
                    continue
                assert wire.status == 200, bytes(wire.body)
                assert wire.complete
                return dict(json.loads(bytes(wire.body)))
        raise AssertionError("nobody answers")


@contextlib.asynccontextmanager
async def following(
    replicas: Sequence[Replica], ids: Sequence[str], timeout: float = 60
) -> AsyncIterator[list[Follower]]:
    """A client for each response; they begin at different replicas. The block waits for their
    ends."""
    followers = [Follower(replicas, id_, place) for place, id_ in enumerate(ids)]
    async with asyncio.TaskGroup() as group:
        tasks = [group.create_task(follower.run()) for follower in followers]
        yield followers
        _done, left = await asyncio.wait(tasks, timeout=timeout)
        for task in left:
            task.cancel()
    assert not left, f"not ended: {[f.response_id for f in followers if not f.done]}"


@contextlib.contextmanager
def ground(
    database: postgres.Server, schema: str, *, agents: str = AGENTS, **environment: str
) -> Iterator[Ground]:
    with tempfile.TemporaryDirectory(prefix="longrun-faults-") as folder:
        found = Ground(database, schema, Path(folder), environment, agents)
        try:
            yield found
        finally:
            found.end()
