"""Catching up in less than the whole log: its last events, or what it has come to.

For a reader who joins a long response and wants the present: a console, a phone. Both make a tail
begin somewhere that its client could not name, and it goes on from there as any other.
"""

import asyncio
from typing import Any, Final

from longrun import ids
from longrun.assembly.snapshot import Snapshot
from longrun.fanout.tail import Tail
from longrun.jsontext import dumps, loads
from longrun.protocol import ends_log
from longrun.store.events import Begun, EventLog
from longrun.store.records import Chunk
from longrun.store.responses import StoredResponse

PAGE_BYTES: Final = 512 * 1024
"""Of a page that is decoded at once: some milliseconds."""


async def last_events(tail: Tail, event_log: EventLog, response_id: str, count: int) -> None:
    """Let a tail begin with the last `count` events that the log has now, or all if it has fewer.

    Raises:
        Unavailable: Postgres is away.
    """
    length = await event_log.length_unscoped(response_id)
    if length:
        tail.skip_to(Chunk(length - 1, length - 1, b""), count)


async def snapshot(tail: Tail, event_log: EventLog, stored: StoredResponse) -> Begun | None:
    """Let a tail begin with one `response.in_progress` that has the items so far, under the number
    of the newest event that is in it. Of a response that has ended that is its terminal event; one
    that has no items yet begins with its first event.

    Args:
        tail: was entered before the response was read.
        stored: the response.

    Returns:
        What the tail begins with; None: what comes after its cursor.

    Raises:
        Unavailable: Postgres is away.
        Unreadable: the log is encrypted with a key that is not in use.
    """
    if stored.finished:
        await last_events(tail, event_log, stored.id, 1)
        return None
    found = Snapshot(_by_index(stored.output))
    newest: Chunk | None = None
    before: int | None = None
    while chunks := await event_log.told_before_unscoped(stored.id, before, PAGE_BYTES):
        if newest is None:
            newest = chunks[-1]
            if ends_log(newest.data):
                tail.skip_to(newest, 1)
                return None
        before = chunks[0].first
        found.take(b"\n".join(chunk.data for chunk in chunks))
        if found.is_complete:
            break
        # A long text takes many pages: others have their turn.
        await asyncio.sleep(0)
    if newest is None or not (output := found.output):
        return None
    number = newest.last
    tail.skip_to(newest, 1)
    event = Chunk(number, number, _in_progress(stored, number, output))
    return Begun(stored.status, [event], reached=number)


def _by_index(items: list[str]) -> dict[int, str]:
    """Finished items by output index, which their ids have in them."""
    places = [(ids.place_of_item(loads(item)["id"]), item) for item in items]
    return {place[1]: item for place, item in places if place is not None}


def _in_progress(stored: StoredResponse, number: int, output: list[Any]) -> bytes:
    response = {**loads(stored.document), "status": "in_progress", "output": output}
    event = {"type": "response.in_progress", "sequence_number": number, "response": response}
    return dumps(event)
