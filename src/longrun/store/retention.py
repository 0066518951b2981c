"""Retention: finished responses are deleted some time after their end."""

import asyncio
import contextlib
import logging
import random
from typing import Final

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
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(
                    stop.wait(),
                    INTERVAL * random.uniform(0.5, 1.5),  # noqa: S311
                )
                return
            while (expired := await self._responses.expire(self._seconds)) and not stop.is_set():
                log.info("deleted %d responses past their retention", expired)
