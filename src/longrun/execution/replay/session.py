"""A run's SDK Session, journaled: at a replay it already holds what the run put into it."""

import inspect
import logging
from collections.abc import Awaitable, Callable
from typing import Any

from agents.memory import Session

from longrun.execution.contained import contained
from longrun.execution.replay.steps import Steps
from longrun.jsontext import dumps

log = logging.getLogger("longrun.execution.replay.session")


class JournaledSession:
    """Gives a replay the reads of the first attempt, and does no write twice.

    A write that was done, but whose record a crash took, is recognised by its items at the
    session's end.
    """

    def __init__(self, session: Session, steps: Steps) -> None:
        self.session_id = session.session_id
        self.session_settings = getattr(session, "session_settings", None)
        self._session = session
        self._steps = steps
        self._counts: dict[str, int] = {}

    async def get_items(self, limit: int | None = None) -> list[Any]:
        found: list[Any] = await self._do("get", lambda: self._session.get_items(limit))
        return found

    async def add_items(self, items: list[Any]) -> None:
        async def add() -> None:
            if not await self._holds_at_its_end(items):
                await self._session.add_items(items)

        await self._do("add", add)

    async def pop_item(self) -> Any:
        return await self._do("pop", self._session.pop_item)

    async def clear_session(self) -> None:
        await self._do("clear", self._session.clear_session)

    async def close(self) -> None:
        """Give up what it holds, if it is of a kind that does: it was made for this run alone."""
        close = getattr(self._session, "close", None)
        if close is None:
            return
        try:
            with contained("the session"):
                closing = close()
                if inspect.isawaitable(closing):
                    await closing
        except Exception:
            log.exception("session %s could not be closed", self.session_id)

    async def _do(self, name: str, do: Callable[[], Awaitable[Any]]) -> Any:
        count = self._counts[name] = self._counts.get(name, 0) + 1

        async def call() -> Any:
            with contained("the session"):
                return await do()

        return await self._steps.session(f"{name} {count}", call)

    async def _holds_at_its_end(self, items: list[Any]) -> bool:
        if not self._steps.taken_over or not items:
            return False
        tail = await self._session.get_items(len(items))
        return dumps(tail) == dumps(items)
