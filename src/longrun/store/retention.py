"""Retention: finished responses are deleted some time after their end, unless they are being read;
and conversations some time after their last use, if the settings say so.

One that was not to be stored goes a minute after its end. A slow reader may need longer for its
log, on whichever replica: each notes in Postgres what is being read there, for a minute at a time,
so that what a dead replica has noted passes by itself.
"""

import asyncio
import logging
from collections.abc import Callable, Iterable
from typing import Final

from longrun.backoff import jittered, sleep_unless
from longrun.settings import Settings
from longrun.store.conversations import Conversations
from longrun.store.keys import Keys
from longrun.store.limits import SharedLimits
from longrun.store.responses import Responses

log = logging.getLogger("longrun.store.retention")

INTERVAL: Final = 60.0

NOTE_INTERVAL: Final = 15.0
"""A few of these must fit into the minute for which a response is kept after its end."""


class Retention:
    """Every replica looks now and then, at its own time; none leads.

    Args:
        reading: gives the ids of the responses that are being read on this replica.
    """

    def __init__(
        self,
        responses: Responses,
        conversations: Conversations,
        keys: Keys,
        limits: SharedLimits,
        settings: Settings,
        reading: Callable[[], Iterable[str]],
    ) -> None:
        self._responses = responses
        self._conversations = conversations
        self._unused_seconds = settings.conversation_retention
        self._keys = keys
        self._limits = limits
        self._seconds = settings.retention_days * 86_400
        self._reading = reading

    async def run(self, stop: asyncio.Event) -> None:
        loop = asyncio.get_running_loop()
        look_at = loop.time() + jittered(INTERVAL)
        while not await sleep_unless(stop, NOTE_INTERVAL):
            await self._responses.note_readers(self._reading(), self._seconds)
            if loop.time() >= look_at:
                look_at = loop.time() + jittered(INTERVAL)
                await self._expire(stop)
                await self._keys.forget_chat_tokens()
                await self._limits.forget(self._seconds)

    async def _expire(self, stop: asyncio.Event) -> None:
        while (expired := await self._responses.expire(self._seconds)) and not stop.is_set():
            log.info("deleted %d responses past their retention", expired)
        if self._unused_seconds is None:
            return
        while (
            unused := await self._conversations.expire(self._unused_seconds)
        ) and not stop.is_set():
            log.info("deleted %d conversations that were not used any more", unused)
