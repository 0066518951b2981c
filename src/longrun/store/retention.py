"""Retention: finished responses are deleted some time after their end, unless they are being read,
and their deltas sooner and conversations some time after their last use, if the settings say so.

One that was not to be stored goes a minute after its end. A slow reader may need longer for its
log, on whichever replica: each notes in Postgres what is being read there, for a minute at a time,
so that what a dead replica has noted passes by itself.

The row of a response goes when its time is over, and what it has in other tables with it, unless
the partition that holds that goes soon as a whole (`partitions.py`).
"""

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable, Iterable
from typing import Final

from longrun import ids
from longrun.backoff import jittered, sleep_unless
from longrun.settings import Settings
from longrun.store.abridging import Abridging
from longrun.store.conversations import Conversations
from longrun.store.idempotency import IdempotencyKeys
from longrun.store.keys import Keys
from longrun.store.limits import SharedLimits
from longrun.store.responses import Responses

log = logging.getLogger("longrun.store.retention")

INTERVAL: Final = 60.0

NOTE_INTERVAL: Final = 15.0
"""A few of these must fit into the minute for which a response is kept after its end."""

PAUSE: Final = 0.1
REST: Final = 3.0
"""After each batch comes a pause of so many seconds, or so many times as long as the batch took:
deleting gets at most a quarter of one connection's time, and less where Postgres is busy."""


class Retention:
    """Every replica looks now and then, at its own time; one at a time deletes.

    Args:
        reading: gives the ids of the responses that are being read on this replica.
        abridging: None: deltas stay as long as their response.
    """

    def __init__(
        self,
        responses: Responses,
        conversations: Conversations,
        keys: Keys,
        limits: SharedLimits,
        settings: Settings,
        reading: Callable[[], Iterable[str]],
        abridging: Abridging | None = None,
        idempotency_keys: IdempotencyKeys | None = None,
    ) -> None:
        self._responses = responses
        self._abridging = abridging
        self._conversations = conversations
        self._unused_seconds = settings.conversation_retention
        self._keys = keys
        self._idempotency_keys = idempotency_keys
        self._limits = limits
        self._seconds = settings.retention_days * 86_400
        self._leave_seconds = settings.leave_seconds
        # Whichever comes first is to wait for readers.
        self._changes_after = min(self._seconds, settings.event_retention or self._seconds)
        self._reading = reading

    async def run(self, stop: asyncio.Event) -> None:
        async with asyncio.TaskGroup() as group:
            # Notes have to come in time, however long there is something to delete.
            group.create_task(self._note(stop))
            group.create_task(self._look(stop))

    async def _note(self, stop: asyncio.Event) -> None:
        while not await sleep_unless(stop, NOTE_INTERVAL):
            await self._responses.note_readers(self._reading(), self._changes_after)

    async def _look(self, stop: asyncio.Event) -> None:
        while not await sleep_unless(stop, jittered(min(INTERVAL, self._changes_after))):
            await self._expire(stop)
            if self._abridging is not None:
                abridged = await self._abridging.abridge_due(stop)
                log.debug("the deltas of %d finished responses are gone", abridged)
            await self._keys.forget_chat_tokens()
            if self._idempotency_keys is not None:
                await in_batches(self._idempotency_keys.expire, stop)
            await self._limits.forget(self._seconds)

    async def _expire(self, stop: asyncio.Event) -> None:
        # Of partitions that go as a whole before this much more time has passed, rows are left.
        soon = time.time() - self._seconds + self._leave_seconds
        goes_before = ids.response_ids_from(soon)
        expired = await in_batches(lambda: self._responses.expire(self._seconds, goes_before), stop)
        if expired:
            log.info("deleted %d responses past their retention", expired)
        unused_seconds = self._unused_seconds
        if unused_seconds is None:
            return
        unused = await in_batches(lambda: self._conversations.expire(unused_seconds), stop)
        if unused:
            log.info("deleted %d conversations that were not used any more", unused)


async def in_batches(batch: Callable[[], Awaitable[int]], stop: asyncio.Event) -> int:
    """Do something again and again, with pauses, until nothing is left to do or `stop` is set.

    Args:
        batch: says how much it has done.

    Returns:
        How much was done in all.
    """
    total = 0
    while not stop.is_set():
        began = time.monotonic()
        done = await batch()
        total += done
        if not done:
            break
        await sleep_unless(stop, max(PAUSE, REST * (time.monotonic() - began)))
    return total
