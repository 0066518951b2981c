"""Takeover: from what earlier attempts left in Postgres to where their successor resumes."""

import re
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

from longrun.assembly.assembler import Assembler
from longrun.assembly.items import Item
from longrun.assembly.kinds import ITEM_ADDED
from longrun.execution.replay.results import decode_response
from longrun.jsontext import loads
from longrun.store.claims import Claim, Claims
from longrun.store.events import EventLog
from longrun.store.records import Chunk, Step

PAGE_BYTES: Final = 4 * 1024 * 1024

_ITEM_EVENT: Final = re.compile(
    rb'^\{"type":"response\.output_item\.(added|done)".*$', re.MULTILINE
)


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
class _LogScan:
    """One pass over a log: how far it goes, and which items it leaves open.

    Only `added` and `done` are parsed. Of the rest, chunks are kept from the first item on that
    is open, since the deltas of open items tell how far those got.
    """

    last: int = -1
    next_index: int = 0
    open: dict[int, dict[str, Any]] = field(default_factory=dict)
    calls: dict[int, str] = field(default_factory=dict)
    kept: list[Chunk] = field(default_factory=list)

    def read(self, chunk: Chunk) -> None:
        self.last = chunk.last
        self.kept.append(chunk)
        for line in _ITEM_EVENT.finditer(chunk.data):
            event = loads(line[0])
            index = event["output_index"]
            if line[1] == b"added":
                self.open[index] = event["item"]
                self.next_index = max(self.next_index, index + 1)
                if event["item"].get("call_id") and not _is_output(event["item"]):
                    self.calls[index] = event["item"]["call_id"]
            else:
                self.open.pop(index, None)
        if not self.open:
            self.kept.clear()

    def open_items(self) -> list[Item]:
        """The open items, with what was streamed of them."""
        found = {index: Item.from_log(index, item) for index, item in self.open.items()}
        for chunk in self.kept:
            for line in chunk.data.split(b"\n"):
                event = loads(line) if found else {}
                item = found.get(event.get("output_index", -1))
                if item is not None and event["type"] != ITEM_ADDED:
                    item.event(event["type"], event)
        return [found[index] for index in sorted(found)]


async def read_position(claim: Claim, claims: Claims, event_log: EventLog) -> Position:
    """Read what earlier attempts of a claimed response left; drop what does not stay of it.

    Raises:
        Unavailable: Postgres is away.
    """
    scan = _LogScan()
    async for chunk in _whole_log(claim.id, event_log):
        scan.read(chunk)
    steps = await claims.steps(claim.id)
    items = await claims.items(claim.id)
    kept = _kept(items, steps)
    assembler = Assembler(
        claim.id,
        claim.request.document,
        next_sequence=scan.last + 1,
        next_index=scan.next_index,
        output=kept,
    )
    outputs = [loads(item) for item in kept.values()]
    answered = [item["call_id"] for item in outputs if _is_output(item) and item.get("call_id")]
    dropped_calls = [call_id for index, call_id in scan.calls.items() if index not in kept]
    assembler.take_over(scan.open_items(), answered, dropped_calls)
    dropped = sorted(items.keys() - kept.keys())
    if dropped:
        await claims.drop_items(claim, dropped)
    return Position(assembler, scan.last + 1, steps, dropped)


def add_recorded_usage(assembler: Assembler, steps: Sequence[Step]) -> None:
    """The usage of the turns that earlier attempts finished, for a response that only ends."""
    for step in steps:
        if step.scope == "" and step.kind == "model":
            assembler.usage.add(decode_response(step.result)[0].usage)


async def _whole_log(response_id: str, event_log: EventLog) -> AsyncIterator[Chunk]:
    cursor = -1
    while page := await event_log.page_unscoped(response_id, cursor, PAGE_BYTES):
        for chunk in page:
            yield chunk
        cursor = page[-1].last


def _kept(items: dict[int, str], steps: list[Step]) -> dict[int, str]:
    """Items that stay: of recorded turns, and outputs of tools, which only such turns have."""
    recorded: set[int] = set()
    for step in steps:
        if step.scope == "" and step.kind == "model":
            recorded.update(decode_response(step.result)[1])
    return {
        index: item for index, item in items.items() if index in recorded or _is_output(loads(item))
    }


def _is_output(item: dict[str, Any]) -> bool:
    return str(item.get("type")).endswith("_output")
