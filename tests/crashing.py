"""Crashes on purpose: every effect of a run is written down, and a run may die right after any.

An effect is a model that starts, says a word or ends, a tool or a handoff that starts or ends, a
session that is read or written, a commit. Whoever has an effect calls `effect`, which appends a
line to a file at once. In a process that crashes, many responses run at the same time, and each
dies after another effect: what it did not commit is lost, nothing that it still does takes
effect, and once all are dead the process is (`os._exit`). So every crash point of a run is tried
at the price of one process.
"""

import asyncio
import collections
import contextlib
import json
import multiprocessing
import os
import re
import threading
from collections.abc import AsyncIterator, Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import asyncpg
from agents import Agent

import longrun
from longrun.app import Longrun
from longrun.errors import LongrunError
from longrun.execution.application import Application
from longrun.execution.forking import course_of
from longrun.execution.registry import Registry
from longrun.http.forks import Sources
from longrun.http.requests import CreateResponse
from longrun.jsontext import loads
from longrun.protocol import RunRequest
from longrun.settings import Settings
from longrun.store.forks import Forks
from longrun.store.records import Step
from longrun.store.run_log import Entry, RunLog
from tests.unit import oracle, streams

CRASHED = 9

JSONObject = dict[str, Any]


# -- effects ----------------------------------------------------------------------------------


@dataclass
class Fate:
    """What this process writes down, and when its responses die.

    Attributes:
        die_after: of each response, the number of the effect that is its last, or its name, or
            how that begins, with a space at the end.
        exits: the first that dies takes the process with it, at once.
    """

    path: Path | None = None
    process: str = "test"
    die_after: Mapping[str, int | str] = field(default_factory=dict)
    exits: bool = False
    counts: collections.Counter[str] = field(default_factory=collections.Counter)
    dead: set[str] = field(default_factory=set)
    lock: threading.Lock = field(default_factory=threading.Lock)
    logs: dict[str, RunLog] = field(default_factory=dict)

    def note(self, response_id: str, what: str) -> bool:
        """Write an effect down. True: its response is dead, nothing more may happen."""
        with self.lock:
            if response_id in self.dead:
                return True
            if self.path is None:
                return False
            with open(self.path, "a") as file:
                file.write(f"{response_id} {self.process} {what}\n")
            self.counts[response_id] += 1
            last = self.die_after.get(response_id)
            begins = isinstance(last, str) and last.endswith(" ") and what.startswith(last)
            if not begins and last not in (self.counts[response_id], what):
                return False
            if self.exits:
                os._exit(CRASHED)
            self.dead.add(response_id)
            if response_id in self.logs:
                self.logs[response_id].lose(LongrunError("The process died."))
            return True


fate = Fate()


async def effect(what: str) -> None:
    """For models and tools: what they do happens here, or their process is dead."""
    if fate.note(longrun.current().response_id, what):
        await asyncio.Event().wait()


def effect_in_thread(what: str) -> None:
    if fate.note(longrun.current().response_id, what):
        threading.Event().wait()


def place() -> str:
    """The tool call that this is called in, as in the journal: scope, `/`, call id."""
    current = longrun.current()
    assert current.idempotency_key is not None
    return current.idempotency_key.removeprefix(current.response_id)


@contextlib.contextmanager
def _watched(new: Fate) -> Any:
    """Let commits be effects, too."""
    global fate
    old, fate = fate, new
    settle, opened = RunLog.settle, RunLog.__init__

    def noted_settle(self: RunLog, entries: Sequence[Entry]) -> None:
        settle(self, entries)
        for entry in entries:
            for step in entry.steps:
                new.note(self.response_id, f"commit {named(step)}")
            if entry.ending:
                new.note(self.response_id, f"commit end {entry.ending.status}")
        if not any(entry.steps or entry.ending for entry in entries):
            new.note(self.response_id, "commit events")

    def noted_init(self: RunLog, *args: Any, **named: Any) -> None:
        opened(self, *args, **named)
        new.logs[self.response_id] = self

    RunLog.settle, RunLog.__init__ = noted_settle, noted_init  # type: ignore[method-assign]
    try:
        yield
    finally:
        RunLog.settle, RunLog.__init__ = settle, opened  # type: ignore[method-assign]
        fate = old


def named(step: Step) -> str:
    """A step by the name that its own effects have."""
    if step.kind in ("tool", "start"):
        return f"{step.kind} {step.scope}/{step.key}"
    result = loads(step.result)
    if step.kind == "model":
        if "pieces" in result:
            # It refers to items; the name is in its own text.
            text = "".join(piece for piece in result["pieces"] if isinstance(piece, str))
            [name] = re.findall(r'"response":\{"id":"([^"]*)"', text)
            return f"model {name}"
        return f"model {(result.get('response') or {}).get('id') or result.get('response_id')}"
    return f"handoff {result['agent']}" if step.kind == "handoff" else f"{step.kind} {step.key}"


# -- processes --------------------------------------------------------------------------------


@dataclass(frozen=True)
class Served:
    """What a test serves.

    Attributes:
        agent: makes it, anew in each process.
        around: what it needs meanwhile (MCP servers), entered in the process's loop.
        session: makes the SDK Session of a run.
    """

    agent: Callable[[], Agent[Any]]
    around: Callable[[Agent[Any]], Any] | None = None
    session: Callable[[longrun.Current], Any] | None = None


@contextlib.asynccontextmanager
async def replica(served: Served, url: str, schema: str, **settings: Any) -> AsyncIterator[Longrun]:
    """A replica in this process, without HTTP."""
    agent = served.agent()
    given = {"max_runs": 2000, "max_attempts": 100, "max_turns": 1000, "drain_seconds": 3}
    app = Longrun(
        Registry([agent]),
        Settings.load(database_url=url, schema=schema, **{**given, **settings}),
        Application(session=served.session),
    )
    around = served.around(agent) if served.around else contextlib.nullcontext()
    async with around, app.running():
        yield app


def asked(input: Any, **body: Any) -> RunRequest:
    """A request for the one agent that is served."""
    return streams.request(input=input, background=True, **body)


async def forked(app: Longrun, response_id: str, step: int, **body: Any) -> RunRequest:
    """A request that goes on from a step of a response of the one agent."""
    longrun = {"fork": {"response_id": response_id, "step": step}}
    parsed = CreateResponse.parse({**body, "background": True, "longrun": longrun})
    sources = Sources(Forks(app.parts.database), course_of)
    source = await sources.of(parsed, "")
    assert source is not None
    made = parsed.run_request("", source.request.agent, None)
    return await sources.forked(source, made, parsed, 1000)


async def finish(app: Longrun, response_ids: Iterable[str]) -> None:
    """Wait until each of these is finished, or dead."""
    query = (
        f"SELECT id FROM {app.settings.db_schema}.responses "
        "WHERE id = ANY($1::text[]) AND status IN ('queued', 'in_progress')"
    )
    left = set(response_ids)
    async with asyncio.timeout(60):
        while left:
            rows = await app.parts.database.fetch(query, list(left))
            left = {row["id"] for row in rows} - fate.dead
            await asyncio.sleep(0.01)


async def take_over(app: Longrun) -> None:
    """Take over all that others left, without waiting for the watch to notice. These processes die
    of their tests: no response is suspected of it."""
    responses = f"{app.settings.db_schema}.responses"
    rows = await app.parts.database.fetch(
        f"SELECT DISTINCT replica_id FROM {responses} "
        "WHERE status = 'in_progress' AND replica_id <> $1",
        app.parts.admission._replica_id,
    )
    await app.parts.claims.count_deaths([row["replica_id"] for row in rows])
    await app.parts.database.execute(f"UPDATE {responses} SET deaths = 0")
    await app.parts.admission.take_orphans()


class Crash(NamedTuple):
    """What a process that crashes is to do; `plan` is written by it, for the test.

    `points`: the last effects of the responses that it starts; empty: first one response that
    lives, then one for each of its effects, or for each of these `step`s. `repeat` starts so many
    for each.
    `over`: it starts none, but resumes these, each up to its last effect.
    `fork`: the response and the step from which all that it starts goes on; `input` may be None.
    """

    served: Served
    url: str
    schema: str
    effects: Path
    plan: Path
    input: Any
    process: str
    points: Sequence[int | str] = ()
    repeat: int = 1
    over: Mapping[str, int | str] = {}
    exits: bool = False
    step: int = 1
    fork: tuple[str, int] | None = None


def crash(given: Crash, timeout: float = 60) -> dict[str, int | str]:
    """Run a process that crashes; give the responses that it started, and their last effects."""
    environment = {k: v for k, v in os.environ.items() if k.startswith("LONGRUN_")}
    process = _processes().Process(target=_crashing, args=(given, environment))
    process.start()
    process.join(timeout)
    if process.is_alive():
        process.kill()
        process.join()
        raise AssertionError("the process that should crash lives on")
    assert process.exitcode == CRASHED, process.exitcode
    return {} if given.over else dict(json.loads(given.plan.read_text()))


def _processes() -> Any:
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["tests.journal_agents"])
    return context


def _crashing(given: Crash, environment: Mapping[str, str]) -> None:
    # That of the server that it is forked from is as old as the first of these.
    for name in [name for name in os.environ if name.startswith("LONGRUN_")]:
        del os.environ[name]
    os.environ.update(environment)
    asyncio.run(_until_dead(given))


async def _until_dead(given: Crash) -> None:
    # The threads of dead responses stand still for ever.
    asyncio.get_running_loop().set_default_executor(ThreadPoolExecutor(500))
    new = Fate(given.effects, given.process, dict(given.over), given.exits)
    with _watched(new):
        async with replica(given.served, given.url, given.schema) as app:
            _leave_the_dead(app)
            if given.over:
                await take_over(app)
                await finish(app, given.over)
                os._exit(CRASHED)
            points = list(given.points)
            plan: dict[str, int | str] = {}
            if not points:
                request = await _asked(app, given)
                plan[request.response_id] = 0
                await app.parts.admission.submit(request)
                await finish(app, [request.response_id])
                points = list(range(1, new.counts[request.response_id] + 1, given.step))
            requests = [(await _asked(app, given), n) for n in points for _ in range(given.repeat)]
            plan.update((request.response_id, n) for request, n in requests)
            new.die_after = plan
            given.plan.write_text(json.dumps(plan))
            for request, _ in requests:
                await app.parts.admission.submit(request)
            await finish(app, plan)
            os._exit(CRASHED)


async def _asked(app: Longrun, given: Crash) -> RunRequest:
    if given.fork is None:
        return asked(given.input)
    body = {} if given.input is None else {"input": given.input}
    return await forked(app, *given.fork, **body)


def _leave_the_dead(app: Longrun) -> None:
    """A dead response stays this replica's until the process is dead."""

    async def nothing(*given: Any) -> None:
        pass

    app.parts.admission.reconcile = nothing  # type: ignore[method-assign]
    app.parts.claims.release = nothing  # type: ignore[method-assign]
    app.parts.claims.to_fail = nothing  # type: ignore[assignment]


# -- what is left -----------------------------------------------------------------------------


class Left(NamedTuple):
    """A response as Postgres has it."""

    status: str
    document: JSONObject
    lines: list[bytes]
    attempts: list[int]
    items: dict[int, str]
    steps: list[Step]

    @property
    def output(self) -> list[JSONObject]:
        return [loads(self.items[index]) for index in sorted(self.items)]

    @property
    def refused(self) -> bool:
        """Whether a guardrail has refused what the model said: that is taken back."""
        return "guardrail" in str(self.document.get("error"))

    @property
    def outline(self) -> list[Any]:
        """The output without what differs between responses: ids, and which of several parallel
        tools ended first."""
        items = [{k: v for k, v in item.items() if k != "id"} for item in self.output]
        outputs = [item for item in items if item["type"].endswith("_output")]
        outputs.sort(key=lambda item: str(item["call_id"]))
        return [item for item in items if item not in outputs] + outputs


async def left_of(url: str, schema: str, response_id: str) -> Left:
    connection = await asyncpg.connect(url)
    try:
        row = await connection.fetchrow(
            f"SELECT status, document FROM {schema}.responses WHERE id = $1", response_id
        )
        chunks = await connection.fetch(
            f"SELECT first, last, attempt, data FROM {schema}.event_chunks "
            "WHERE response_id = $1 ORDER BY last",
            response_id,
        )
        items = await connection.fetch(
            f"SELECT output_index, item FROM {schema}.items WHERE response_id = $1", response_id
        )
        steps = await connection.fetch(
            f"SELECT scope, kind, key, fingerprint, result FROM {schema}.steps "
            "WHERE response_id = $1 ORDER BY recorded_at",
            response_id,
        )
    finally:
        await connection.close()
    lines: list[bytes] = []
    attempts: list[int] = []
    for chunk in chunks:
        assert chunk["first"] == len(lines), "the log has a gap, or a repetition"
        new = chunk["data"].split(b"\n")
        lines += new
        attempts += [chunk["attempt"]] * len(new)
        assert chunk["last"] == len(lines) - 1
    return Left(
        row["status"],
        loads(row["document"]),
        lines,
        attempts,
        {item["output_index"]: item["item"] for item in items},
        [Step(*step) for step in steps],
    )


def effects_of(path: Path) -> dict[str, list[str]]:
    """What happened to each response, in order: `process kind name`."""
    found: dict[str, list[str]] = collections.defaultdict(list)
    for line in path.read_text().splitlines():
        response_id, _, what = line.partition(" ")
        found[response_id].append(what)
    return found


def check_log(left: Left) -> oracle.Stream:
    """The log of a finished response, over all attempts: what a client may rely on."""
    dropped = {
        event["output_index"]
        for event, attempt in zip(map(loads, left.lines), left.attempts, strict=True)
        if event["type"] == "response.output_item.done"
        and (attempt < left.attempts[-1] or (left.refused and event["item"]["type"] == "message"))
    } - left.items.keys()
    stream = oracle.check(left.lines, sorted(left.items.items()), dropped=dropped)
    assert stream.response is not None
    assert stream.response["status"] == left.status
    assert stream.response["output"] == left.output
    assert left.attempts == sorted(left.attempts)
    assert len({item["id"] for item in left.output}) == len(left.output)
    done = {event["item"]["id"]: event["item"] for event in stream.of("response.output_item.done")}
    for item in left.output:
        assert done[item["id"]] == item
    return stream


def check_effects(effects: Sequence[str]) -> None:
    """No finished step was done again, and no tool was called twice by one process.

    What user code does of its own is its own affair: it runs again.
    """
    finished: set[str] = set()
    called: set[str] = set()
    for line in effects:
        _, what, *name = line.split(" ")
        step = " ".join(name)
        if what == "commit":
            finished.add(step)
        elif what == "start" and ":of its own:" not in step:
            assert step not in finished, f"{step} was done again"
            assert line not in called, f"{step} was called twice"
            if step.startswith("tool"):
                called.add(line)


@contextlib.asynccontextmanager
async def living(
    served: Served, url: str, schema: str, effects: Path, process: str = "living"
) -> AsyncIterator[Longrun]:
    """A replica in this very process, whose effects are written down, and which does not die."""
    with _watched(Fate(effects, process)):
        async with replica(served, url, schema) as app:
            yield app


@contextlib.asynccontextmanager
async def resuming(crashed: Crash, process: str = "last", **settings: Any) -> Any:
    """A replica in this very process that resumes what a crashed one left."""
    new = Fate(crashed.effects, process)
    with _watched(new):
        async with replica(crashed.served, crashed.url, crashed.schema, **settings) as app:
            yield app


async def resume_all(crashed: Crash, plan: Iterable[str], process: str = "last") -> None:
    """Resume everything, to its end."""
    async with resuming(crashed, process) as app:
        await take_over(app)
        await finish(app, plan)
