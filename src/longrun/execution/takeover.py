"""Takeover: from what earlier attempts left in Postgres to where their successor resumes, or ends
the response."""

import asyncio
import re
from collections.abc import AsyncIterator, Awaitable, Callable, Collection, Container, Iterable
from dataclasses import dataclass, field
from typing import Any, Final

from longrun.assembly.assembler import Assembler
from longrun.assembly.from_log import events_in
from longrun.assembly.items import Item
from longrun.assembly.kinds import ITEM_ADDED, is_output
from longrun.assembly.server_calls import FunctionCall, RunningCall
from longrun.execution.replay.references import resolve
from longrun.execution.replay.results import (
    COMPACTIONS,
    decode_indexes,
    index_of_compaction,
    recorded_usage,
)
from longrun.jsontext import loads
from longrun.pieces import Pieces, with_turns
from longrun.store.claims import Claim, Claims
from longrun.store.events import EventLog
from longrun.store.records import Chunk, Left, Step

_Page = Callable[[str, int, int], Awaitable[list[Chunk]]]

PAGE_BYTES: Final = 4 * 1024 * 1024

_ITEM_EVENT: Final = re.compile(
    rb'^\{"type":"response\.output_item\.(added|done)".*$', re.MULTILINE
)


_OUTPUT: Final = '_output"'
"""What the text of each output of a tool has, at the end of its type; there may be thousands of
messages, which need not be read."""


@dataclass(slots=True)
class Position:
    """Where a response stands.

    `dropped`: indexes of finished items of a model turn that was not, and is asked again.
    """

    assembler: Assembler
    next_sequence: int
    steps: list[Step]
    dropped: list[int]


@dataclass(slots=True)
class _Items:
    """What a log says of its items: which are open, and in which chunk each of these began.

    Attributes:
        kept: the output indexes of the items that stay.
        calls: those of calls of finished model turns that are executed here.
        withdrawn: all others, as they were added.
    """

    kept: Container[int]
    calls: Container[int]
    next_index: int = 0
    open: dict[int, dict[str, Any]] = field(default_factory=dict)
    began: dict[int, int] = field(default_factory=dict)
    withdrawn: dict[int, dict[str, Any]] = field(default_factory=dict)

    def read(self, chunk: Chunk) -> None:
        for line in _ITEM_EVENT.finditer(chunk.data):
            event = loads(line[0])
            index = event["output_index"]
            if line[1] == b"added":
                self.open[index] = event["item"]
                self.began[index] = chunk.first
                self.next_index = max(self.next_index, index + 1)
                if index not in self.kept:
                    self.withdrawn[index] = event["item"]
            else:
                self.open.pop(index, None)

    @property
    def first_open(self) -> int:
        """The sequence number from which on the log has all about the items that are open."""
        return min(self.began[index] for index in self.open)


async def read_position(
    claim: Claim,
    claims: Claims,
    event_log: EventLog,
    *,
    client_tools: Collection[str] | None = None,
    to_end: bool = False,
    left: Left | None = None,
) -> Position:
    """Read what earlier attempts of a claimed response left; drop what does not stay of it.

    Of the log only chunks in which items begin or end are read, and what comes after the start of
    the earliest item that is open.

    Args:
        client_tools: as the assembler has them.
        to_end: the response is ended and not run: the steps are its model turns alone.
        left: what was read of it already, together with others.

    Raises:
        Unavailable: Postgres is away.
    """
    if left is None:
        recorded = await (claims.model_turns(claim.id) if to_end else claims.steps(claim.id))
        items = await claims.items(claim.id)
    else:
        recorded, items = left.steps, left.items
    steps, turns = await with_turns(_read(recorded, items))
    calls = {call_id: call for _, made in turns for call_id, call in made.items()}
    recorded_indexes = {index for indexes, _ in turns for index in indexes}
    kept = _kept(items, recorded_indexes | _compactions(steps))
    found = _Items(kept, {call.output_index for call in calls.values()})
    if left is None:
        async for chunk in _pages(event_log.item_page_unscoped, claim.id):
            found.read(chunk)
        end = await event_log.end_unscoped(claim.id)
        next_sequence = end.last + 1 if end else 0
    else:
        for chunk in left.chunks:
            found.read(chunk)
        next_sequence = left.end + 1
    assembler = Assembler(
        claim.id,
        claim.request.document,
        next_sequence=next_sequence,
        next_index=found.next_index,
        output=kept,
        client_tools=client_tools,
    )
    left_open = await _open_items(claim.id, found, event_log)
    running: dict[str, FunctionCall] = {}
    for call_id, (index, face) in calls.items():
        call = left_open.pop(index, None)
        if isinstance(call, FunctionCall):
            call.face = face
            running[call_id] = call
            del found.withdrawn[index]
    answered = _answered(kept, calls.keys() - running.keys())
    assembler.take_over(left_open.values(), answered, found.withdrawn, running)
    dropped = sorted(items.keys() - kept.keys())
    if dropped:
        await claims.drop_items(claim, dropped)
    return Position(assembler, next_sequence, steps, dropped)


def _read(
    recorded: Iterable[Step], items: dict[int, str]
) -> Pieces[tuple[list[Step], list[tuple[list[int], dict[str, RunningCall]]]]]:
    """Steps with what they refer to, and which items and calls their own model turns have."""
    steps: list[Step] = []
    for step in recorded:
        steps += resolve([step], items)
        yield
    turns = []
    for step in _own_turns(steps):
        turns.append(decode_indexes(step.result))
        yield
    return steps, turns


def add_recorded_usage(assembler: Assembler, steps: Iterable[Step]) -> None:
    """The usage of turns that earlier attempts finished and that are not passed again."""
    for step in steps:
        if step.kind == "model":
            assembler.usage.add(recorded_usage(step.result))


async def _open_items(response_id: str, found: _Items, event_log: EventLog) -> dict[int, Item]:
    """The items that a log leaves open, by output index, with what was streamed of them."""
    if not found.open:
        return {}
    items = {
        index: (FunctionCall if index in found.calls else Item).from_log(index, found.open[index])
        for index in sorted(found.open)
    }
    async for chunk in _pages(event_log.page_unscoped, response_id, found.first_open - 1):
        for event in events_in(chunk.data):
            item = items.get(event.get("output_index", -1))
            if item is not None and event["type"] != ITEM_ADDED:
                item.event(event["type"], event)
        # A long text takes a second: the other runs have their turn.
        await asyncio.sleep(0)
    return items


async def _pages(page: _Page, response_id: str, cursor: int = -1) -> AsyncIterator[Chunk]:
    while chunks := await page(response_id, cursor, PAGE_BYTES):
        for chunk in chunks:
            yield chunk
        cursor = chunks[-1].last


def _own_turns(steps: Iterable[Step]) -> list[Step]:
    return [step for step in steps if step.scope == "" and step.kind == "model"]


def _compactions(steps: Iterable[Step]) -> set[int]:
    """The output indexes of the items that stand for what came before them."""
    return {index_of_compaction(step.result) for step in steps if step.scope == COMPACTIONS}


def _kept(items: dict[int, str], recorded: Container[int]) -> dict[int, str]:
    """Items that stay: of recorded turns, and outputs of tools, which only such turns have."""
    return {
        index: item for index, item in items.items() if index in recorded or is_output(loads(item))
    }


def _answered(kept: dict[int, str], ended: Iterable[str]) -> set[str]:
    """The call ids whose outputs are among the items, or ended a call."""
    outputs = [loads(item) for item in kept.values() if _OUTPUT in item]
    found = {item["call_id"] for item in outputs if is_output(item) and item.get("call_id")}
    return found | set(ended)
