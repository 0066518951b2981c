"""A step is done once: its result is recorded, and from then on the record stands in for it."""

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import NamedTuple, TypeVar

from longrun import metrics
from longrun.execution.replay.journal import Journal
from longrun.execution.tracing.attempt import attempt_here
from longrun.store.records import Step
from longrun.store.run_log import RunLog

T = TypeVar("T")


class Due(NamedTuple):
    """A step that a run has come to: which it is (`journal.py`), and what it is asked."""

    scope: str
    kind: str
    key: str
    fingerprint: str

    def finished(self, result: str) -> Step:
        return Step(*self, result)


class Once:
    """All steps of a run come through here, as values (`value`) or as streams (`passage`).

    Args:
        at_boundary: called before a step is begun.
        replayed: called before the first thing that is done and not replayed.
    """

    def __init__(
        self,
        journal: Journal,
        run_log: RunLog,
        at_boundary: Callable[[], Awaitable[None]],
        replayed: Callable[[], None],
    ) -> None:
        self._journal = journal
        self._log = run_log
        self._at_boundary = at_boundary
        self._replayed = replayed
        self._holds_response = False
        self._under_way = 0
        self._none_under_way = asyncio.Event()

    @asynccontextmanager
    async def passage(self, due: Due, *, counted: bool = True) -> AsyncIterator[str | None]:
        """The way through a step. Gives its recorded result; None if it has to be done, within
        this block.

        Args:
            counted: False for what is no step of its own: it begins at no boundary, and a run
                that leaves does not wait for it.

        Raises:
            ReplayMismatch: it was asked something else before.
        """
        recorded = self._journal.find(*due)
        if recorded is None:
            await self._check_held()
        if recorded is not None or not counted:
            if counted:
                metrics.steps.labels(due.kind, "replayed").inc()
            yield recorded
            return
        await self._at_boundary()
        self._journal.check()
        self._under_way += 1
        attempt = attempt_here()
        if attempt is not None:
            attempt.does()
        outcome, began = "failed", time.perf_counter()
        try:
            yield None
            outcome = "done"
            metrics.step_seconds.labels(due.kind).observe(time.perf_counter() - began)
        finally:
            metrics.steps.labels(due.kind, outcome).inc()
            self._under_way -= 1
            if not self._under_way:
                self._none_under_way.set()

    async def value(
        self,
        due: Due,
        do: Callable[[], Awaitable[T]],
        *,
        encode: Callable[[T], str | None],
        decode: Callable[[str], T],
        keep: Callable[[Step, T], Awaitable[None]] | None = None,
        counted: bool = True,
    ) -> T:
        """The recorded value of a step, or what `do` gives now, which is recorded.

        Args:
            encode: None for a value that is not to be recorded.
            keep: sees to the record, where it is not committed alone.
        """
        async with self.passage(due, counted=counted) as recorded:
            if recorded is not None:
                value = decode(recorded)
                if keep is not None and due.scope == "" and self.is_copied(due):
                    await keep(due.finished(recorded), value)
                return value
            value = await do()
            result = encode(value)
            if result is not None:
                step = due.finished(result)
                await (self.record(step) if keep is None else keep(step, value))
            return value

    def is_recorded(self, due: Due) -> bool:
        """Whether a step has been done."""
        return self._journal.has(due.scope, due.kind, due.key)

    def is_copied(self, due: Due) -> bool:
        """Whether a step is another response's, from which this one was forked: it is to be shown,
        and recorded, as this one's."""
        return self._journal.is_copied(due.scope, due.kind, due.key)

    async def may_begin(self, due: Due) -> bool:
        """Note that a step is begun that must not be done twice. False: it was begun before."""

        async def begin() -> bool:
            return True

        return await self.value(
            due._replace(kind="start"),
            begin,
            encode=lambda _: "{}",
            decode=lambda _: False,
            counted=False,
        )

    async def _check_held(self) -> None:
        """Before the first thing that this attempt really does: what it has appended since its
        claim is committed, so no later attempt had the response by then. A replica that slept
        after its claim would else run a tool that another one is running."""
        if not self._holds_response:
            self._replayed()
            await self._log.flush()
            self._holds_response = True

    async def record(self, step: Step) -> None:
        """Commit a step, by itself."""
        self._journal.check()
        self._log.append([], steps=[step])
        await self._log.flush()

    async def idle(self) -> None:
        """Wait until no step is under way."""
        while self._under_way:
            self._none_under_way.clear()
            await self._none_under_way.wait()
