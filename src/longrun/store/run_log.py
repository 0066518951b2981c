"""A run's log: what one attempt appends to the event log, and how far it is committed."""

import asyncio
from collections import deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from types import MappingProxyType
from typing import Final

from longrun import metrics
from longrun.errors import LongrunError, TooLarge
from longrun.pending import ENVELOPE, LONGEST, Delta, Pending, lines
from longrun.store.records import Ending, Step, Taken

ENTRY_BYTES: Final = 32 * 1024
"""What an entry has at least before events that bring nothing else begin another one. Chunks are
made of whole entries where they can be: a fraction of one. Nothing is merged over its end."""

ENVELOPE_BYTES: Final = 64 * 1024
"""What an event may have around its item."""

STEP_ITEMS: Final = 4
"""The result of a step may be as large as so many of the largest items: it has all items of a
model turn, or a tool's output in two forms."""

OUTPUT_ITEMS: Final = 8
"""All items that an attempt appends may be as large together as so many of the largest: its last
event has them all."""

_NONE: Final[Mapping[int, str]] = MappingProxyType({})

_DELTA: Final = b'.delta","sequence_number"'

_WHOLE: Final = (b'{"type":"response.created"', b'{"type":"response.in_progress"')
"""Events that carry the whole response, which may be larger than an item; terminal ones too."""


@dataclass(slots=True)
class Entry:
    """What calls of `append` hand over; it is committed whole or not at all.

    `first` is the number of its first event, or the next one where it has none. `models` has, by
    output index, what is stored of the model's face of those items that have one.
    """

    events: list[bytes]
    first: int
    items: Sequence[tuple[int, str]] = ()
    steps: Sequence[Step] = ()
    ending: Ending | None = None
    size: int = 0
    models: Mapping[int, str] = field(default_factory=dict)
    taken: Taken | None = None


def check_size(what: str, text: str, limit: int) -> None:
    """Look whether a JSON text is larger than `limit` bytes.

    Args:
        what: for the client, as in "an output item".

    Raises:
        TooLarge: it is.
    """
    # At most four bytes a character: only a text that may be too large is encoded to be sure.
    if len(text) * 4 > limit and (size := len(text.encode("utf-8", "surrogatepass"))) > limit:
        raise TooLarge(what, size, limit)


class RunLog:
    """The end of the event log that one attempt writes to.

    `append` never waits and never fails; `ready` waits while too much is pending; `flush` waits
    for the commit. Both raise `lost` once this attempt cannot write any more: `Fenced` when it no
    longer holds the response, `NotStored` when what it wrote cannot be stored.

    Deltas of one part that follow each other are one event until it is taken for a commit. Nothing
    is merged with what came with an item, a step or the end of the response.

    Args:
        next_sequence: where the log ends, and this attempt goes on.
        wake: called when there is something to be written (`LogWriter.wake`).
        buffer_bytes: what may be pending before `ready` waits.
        max_item_bytes: the largest item that may be appended (LONGRUN_MAX_ITEM_BYTES).
        merge_deltas: as the setting.

    Attributes:
        next_sequence: the number of the next event that is not merged with the last one.
        steered: how many messages were put into the run, as of the last commit.
        must_wait: whether `ready` would wait, or raise.
        end: the number of the next event to be committed, and the server that has confirmed all
            before it, by when it was started; None: where the log ends is to be looked at.
    """

    def __init__(
        self,
        response_id: str,
        attempt: int,
        next_sequence: int,
        *,
        wake: Callable[["RunLog"], None],
        buffer_bytes: int,
        max_item_bytes: int,
        merge_deltas: bool = True,
    ) -> None:
        self.response_id = response_id
        self.attempt = attempt
        self.max_item_bytes = max_item_bytes
        self.next_sequence = next_sequence
        self.lost: LongrunError | None = None
        self.steered = 0
        self.must_wait = False
        self.end: tuple[datetime, int] | None = None
        self._wake = wake
        self._buffer_bytes = buffer_bytes
        self._merge_deltas = merge_deltas
        self._growing: Delta | None = None
        self._entries: deque[Entry] = deque()
        self._pending_bytes = 0
        self._output_size = 0
        self._open: dict[int | None, int] = {}
        """Characters of unfinished items, by output index; None: of deltas that are long."""
        self._too_long = 0
        self._appended = 0
        self._committed = 0
        self._changed = asyncio.Event()

    def append(
        self,
        events: Sequence[Pending],
        *,
        items: Sequence[tuple[int, str]] = (),
        steps: Sequence[Step] = (),
        ending: Ending | None = None,
        models: Mapping[int, str] = _NONE,
        taken: Taken | None = None,
    ) -> None:
        """Hand over events, to be numbered from `next_sequence` on, and what belongs to them.

        They are committed together. After an ending nothing more may come. What is too large is
        not taken, and the attempt has lost its log (`TooLarge`): nothing may be missing from it.
        """
        alone = not (items or steps or ending or taken)
        if alone and len(events) == 1 and self._merged(events[0]):
            return
        self._encode_growing()
        for index, _ in items:
            self._open.pop(index, None)
            self._open.pop(None, None)
        first, last = self.next_sequence, events[-1] if events else None
        growing = last if isinstance(last, Delta) and alone and self._merge_deltas else None
        encoded = lines(events if growing is None else events[:-1], first)
        size = sum(map(len, encoded))
        if growing is None or len(events) > 1:
            self._count_text(event for event in events if event is not growing)
        if self._too_long:
            self.lose(TooLarge("an output item", self._too_long, self.max_item_bytes))
            return
        if items or steps or size > self.max_item_bytes:
            try:
                self._check_sizes(encoded if ending is None else (), items, steps, models)
            except TooLarge as error:
                self.lose(error)
                return
        if growing is not None:
            size += growing.size
        entry = self._entries[-1] if self._entries else None
        if not alone or entry is None or entry.ending or entry.size >= ENTRY_BYTES:
            size += sum([len(item) for _, item in items])
            size += sum([len(step.result) for step in steps])
            size += sum([len(model) for model in models.values()])
            self._entries.append(Entry(encoded, first, items, steps, ending, size, models, taken))
            self._appended += 1
        else:
            # Events come one by one and by the thousand: an entry for each would be most of the
            # work here, and of the garbage collector's.
            entry.events += encoded
            entry.size += size
        self._growing = growing
        self.next_sequence += len(events)
        self._pending_bytes += size
        self._weigh()
        self._wake(self)

    def _weigh(self) -> None:
        self.must_wait = self._pending_bytes >= self._buffer_bytes or self.lost is not None

    async def ready(self) -> None:
        """Wait until less is pending than `buffer_bytes`: the run is slowed, never cut.

        Raises:
            Fenced: another attempt holds the response.
            NotStored: what this one wrote cannot be stored.
        """
        while self._pending_bytes >= self._buffer_bytes:
            await self._next_change()
        self._check()

    async def flush(self) -> None:
        """Wait until everything that was appended is committed.

        Raises:
            Fenced: another attempt holds the response; what was pending is not in the log.
            NotStored: what this one wrote cannot be stored; nothing more of it is in the log.
        """
        target = self._appended
        while self._committed < target:
            await self._next_change()
        self._check()

    def _merged(self, event: Pending) -> bool:
        """Whether the last event, which is still growing, has taken this one in."""
        if self._growing is None or not isinstance(event, Delta):
            return False
        entry = self._entries[-1]
        if entry.size >= ENTRY_BYTES:
            return False
        grown = self._growing.join(event)
        if grown is None:
            return False
        entry.size += grown
        self._pending_bytes += grown
        if self._pending_bytes >= self._buffer_bytes:
            self.must_wait = True
        return True

    def _encode_growing(self) -> None:
        """The last event grows no more: from now on it has the size that it is sent with."""
        growing, self._growing = self._growing, None
        if growing is None:
            return
        event = growing.encode(self.next_sequence - 1)
        entry = self._entries[-1]
        entry.events.append(event)
        entry.size += len(event) - growing.size
        self._pending_bytes += len(event) - growing.size
        self._count_text([growing])
        if len(growing.texts) > 1:
            metrics.deltas_merged.inc(len(growing.texts) - 1)

    def _count_text(self, events: Iterable[Pending]) -> None:
        """An item that never ends has no size by which it could be refused: its text is bounded
        while it is streamed. As JSON it is no shorter than it has characters."""
        for event in events:
            if isinstance(event, Delta):
                index, size = event.fields.get("output_index"), sum(map(len, event.texts))
            elif len(event) > LONGEST and _DELTA in event[: len(_DELTA) + 64]:
                index, size = None, len(event) - ENVELOPE
            else:
                continue
            self._open[index] = size = self._open.get(index, 0) + size
            if size > self.max_item_bytes:
                self._too_long = size

    def _check_sizes(
        self,
        events: Sequence[bytes],
        items: Sequence[tuple[int, str]],
        steps: Sequence[Step],
        models: Mapping[int, str],
    ) -> None:
        limit = self.max_item_bytes
        for model in models.values():
            check_size("an output item", model, limit)
        for _, item in items:
            check_size("an output item", item, limit)
            self._output_size += len(item)
        if self._output_size > limit * OUTPUT_ITEMS:
            raise TooLarge("output items", self._output_size, limit * OUTPUT_ITEMS)
        for step in steps:
            check_size("a step", step.result, limit * STEP_ITEMS)
        for event in events:
            if len(event) > limit + ENVELOPE_BYTES and not event.startswith(_WHOLE):
                raise TooLarge("an event", len(event), limit)

    def _check(self) -> None:
        if self.lost is not None:
            raise self.lost

    async def _next_change(self) -> None:
        self._check()
        self._changed.clear()
        await self._changed.wait()

    def next_entries(self, limit: int) -> list[Entry]:
        """Remove the oldest entries that are pending: about `limit` bytes of them, at least one."""
        found: list[Entry] = []
        size = 0
        while self._entries and (not found or size + self._entries[0].size <= limit):
            if len(self._entries) == 1:
                self._encode_growing()
            entry = self._entries.popleft()
            found.append(entry)
            size += entry.size
        return found

    @property
    def has_entries(self) -> bool:
        return bool(self._entries)

    def settle(self, entries: Sequence[Entry]) -> None:
        """These entries are committed."""
        self._pending_bytes -= sum(entry.size for entry in entries)
        self._committed += len(entries)
        self._weigh()
        self._changed.set()

    def lose(self, error: LongrunError) -> None:
        """This attempt must not write any more, for the first reason that it is told; what is
        pending is dropped."""
        self.lost = self.lost or error
        self._entries.clear()
        self._growing = None
        self._pending_bytes = 0
        self._weigh()
        self._changed.set()
