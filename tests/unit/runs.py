"""Real runs of the Agents SDK, whose commits are kept in memory."""

import asyncio
from collections.abc import AsyncIterator, Collection, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from openai.types.responses import ResponseCompletedEvent

from longrun.assembly.assembler import Assembler
from longrun.execution.application import Application
from longrun.execution.approving import GoesOn
from longrun.execution.handling.approvals import Waited
from longrun.execution.handling.handler import Handler
from longrun.execution.handling.run import HandlerRun
from longrun.execution.host import Handle
from longrun.execution.parameters import client_tools
from longrun.execution.replay import taps
from longrun.execution.run import Run, Start
from longrun.execution.takeover import Position, read_position
from longrun.pending import lines
from longrun.protocol import RunRequest
from longrun.settings import Settings
from longrun.store.claims import Claim
from longrun.store.records import Chunk, Step
from longrun.store.run_log import Entry, RunLog
from tests.scripted_model import Asked, ScriptedModel
from tests.unit import oracle
from tests.unit.streams import JSONObject, raw, request

ServerTools = Literal["mcp_call", "function_call"]


@dataclass
class Commits:
    """What runs of one response commit: the log writer, the event log and the claims in one.

    Every entry is a commit of its own, so each of them is a point at which a replica may die. It is
    made at once, or after so many turns of the loop: what comes meanwhile waits, and may be merged.
    """

    run_buffer_bytes: int = 1 << 20
    max_item_bytes: int = 1 << 24
    entries: list[Entry] = field(default_factory=list)
    dropped: set[int] = field(default_factory=set)
    slowness: int = 0

    def died_after(self, commits: int) -> "Commits":
        """What Postgres holds if the replica dies after so many commits."""
        return Commits(
            entries=self.entries[:commits], dropped=set(self.dropped), slowness=self.slowness
        )

    def open(self, response_id: str, attempt: int, next_sequence: int) -> RunLog:
        return RunLog(
            response_id,
            attempt,
            next_sequence,
            wake=self.wake,
            buffer_bytes=self.run_buffer_bytes,
            max_item_bytes=self.max_item_bytes,
        )

    def wake(self, run: RunLog) -> None:
        self._take(run, self.slowness)

    def _take(self, run: RunLog, turns: int) -> None:
        if turns:
            asyncio.get_running_loop().call_soon(self._take, run, turns - 1)
            return
        taken = run.next_entries(1 << 40)
        self.entries += taken
        run.settle(taken)

    @property
    def lines(self) -> list[bytes]:
        return [event for entry in self.entries for event in entry.events]

    @property
    def committed_items(self) -> list[tuple[int, str]]:
        items = [item for entry in self.entries for item in entry.items]
        return [item for item in items if item[0] not in self.gone]

    @property
    def gone(self) -> set[int]:
        """The indexes of items that were taken back."""
        endings = [entry.ending for entry in self.entries if entry.ending]
        return self.dropped.union(*(ending.refused for ending in endings))

    @property
    def turns(self) -> list[Step]:
        return [s for s in self.committed_steps if (s.scope, s.kind) == ("", "model")]

    @property
    def committed_steps(self) -> list[Step]:
        return [step for entry in self.entries for step in entry.steps]

    # -- as EventLog and Claims ---------------------------------------------------------------

    async def page_unscoped(self, response_id: str, cursor: int, limit: int) -> list[Chunk]:
        lines = self.lines
        if cursor + 1 >= len(lines):
            return []
        return [Chunk(cursor + 1, len(lines) - 1, b"\n".join(lines[cursor + 1 :]))]

    async def item_page_unscoped(self, response_id: str, cursor: int, limit: int) -> list[Chunk]:
        return await self.page_unscoped(response_id, cursor, limit)

    async def end_unscoped(self, response_id: str) -> Chunk | None:
        lines = self.lines
        return Chunk(len(lines) - 1, len(lines) - 1, lines[-1]) if lines else None

    async def steps(self, response_id: str) -> list[Step]:
        return self.committed_steps

    async def items(self, response_id: str) -> dict[int, str]:
        return dict(self.committed_items)

    async def drop_items(self, claim: Claim, indexes: Sequence[int]) -> None:
        self.dropped.update(indexes)


async def run(
    agent: Any,
    asked: RunRequest | None = None,
    *,
    cancel_after: int | None = None,
    later: int = 0,
    commits: Commits | None = None,
    server_tools: ServerTools = "mcp_call",
    goes_on: GoesOn | None = None,
    waited: Waited | None = None,
    **given: Any,
) -> Commits:
    """A whole run, its first attempt.

    Args:
        cancel_after: abandon it once so many events are committed.
        later: and the other tasks have had so many turns since.
        commits: where it is to commit.
        given: what the application gives, by the names of `create_app`.
        server_tools: as the setting.
        goes_on: what it goes on from.
        waited: what the run of a handler goes on from.
    """
    taps.install(tracing=False)
    asked = asked or request()
    settings = Settings(server_tools=server_tools)
    commits = Commits() if commits is None else commits
    tools = client_tools(asked.parameters, settings)
    assembler = Assembler(asked.response_id, asked.document, client_tools=tools)
    assembler.lifecycle("in_progress")
    events = lines(assembler.collect().events)
    commits.entries.append(Entry(events, 0))
    run_log = commits.open(asked.response_id, 1, len(events))

    async def execute(handle: Handle) -> None:
        start = Start(assembler, run_log, goes_on=goes_on, waited=waited)
        await _run_of(agent)(agent, asked, handle, start, settings, Application(**given)).execute()

    async with asyncio.TaskGroup() as group:
        handle = Handle(asked, 1, execute, group)
        if cancel_after is not None:
            while len(commits.lines) < cancel_after and not handle.task.done():
                await asyncio.sleep(0)
            for _ in range(later):
                await asyncio.sleep(0)
            handle.abandon()
    return commits


async def take_over(
    agent: Any,
    asked: RunRequest,
    commits: Commits,
    attempt: int = 2,
    *,
    server_tools: ServerTools = "mcp_call",
    goes_on: GoesOn | None = None,
    waited: Waited | None = None,
    **given: Any,
) -> Position:
    """The next attempt, after one died with these commits."""
    settings = Settings(server_tools=server_tools)
    tools = client_tools(asked.parameters, settings)
    found = await position(asked, commits, attempt, tools)
    found.assembler.lifecycle("in_progress")
    run_log = commits.open(asked.response_id, attempt, found.next_sequence)

    async def execute(handle: Handle) -> None:
        start = Start(found.assembler, run_log, found.steps, goes_on=goes_on, waited=waited)
        await _run_of(agent)(agent, asked, handle, start, settings, Application(**given)).execute()

    async with asyncio.TaskGroup() as group:
        Handle(asked, attempt, execute, group)
    return found


async def position(
    asked: RunRequest, commits: Commits, attempt: int = 2, tools: Collection[str] | None = None
) -> Position:
    """Where a response stands whose attempt before this one died with these commits."""
    claim = Claim(
        request=asked, attempt=attempt, spent=attempt, handovers=0, cancelled=False, overdue=False
    )
    given: Any = commits
    return await read_position(claim, given, given, client_tools=tools)


def _run_of(agent: Any) -> type[Run]:
    return HandlerRun if isinstance(agent, Handler) else Run


def check(commits: Commits, **how: Any) -> oracle.Stream:
    return oracle.check(commits.lines, commits.committed_items, dropped=commits.gone, **how)


class Played(ScriptedModel):
    """Plays prepared turns, one after the other: dicts as a provider sends them, or objects.

    Args:
        pause: how often the other tasks have their turn before each event.
    """

    def __init__(self, *turns: Sequence[Any], pause: int = 1) -> None:
        super().__init__(self._next_turn)
        self.turns = list(turns)
        self.pause = pause
        self.asked: list[Any] = []

    async def _next_turn(self, asked: Asked) -> AsyncIterator[Any]:
        self.asked.append(asked.items)
        for event in self.turns[len(self.asked) - 1]:
            if isinstance(event, Exception):
                raise event
            made = raw(event) if isinstance(event, dict) else event
            # Models behind a socket give other tasks their turn between events.
            for _ in range(self.pause):
                await asyncio.sleep(0)
            yield made
            if isinstance(made, ResponseCompletedEvent):
                return


def kinds(output: Sequence[JSONObject]) -> list[str]:
    return [item["type"] for item in output]
