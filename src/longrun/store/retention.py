"""Retention: finished responses are deleted some time after their end."""

import asyncio
import logging
from typing import Final

from longrun.backoff import jittered, sleep_unless
from longrun.settings import Settings
from longrun.store.responses import Responses

log = logging.getLogger("longrun.store.retention")

INTERVAL: Final = 60.0


class Retention:
    """Every replica looks now and then, at its own time; none leads."""

    def __init__(self, responses: Responses, settings: Settings) -> None:
        self._responses = responses
        self._seconds = settings.retention_days * 86_400

    async def run(self, stop: asyncio.Event) -> None:
        while not stop.is_set():
            if await sleep_unless(stop, jittered(INTERVAL)):
                return
            while (expired := await self._responses.expire(self._seconds)) and not stop.is_set():
                log.info("deleted %d responses past their retention", expired)
