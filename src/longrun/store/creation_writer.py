"""The creation writer: responses that are to be created at the same time are created in one commit.

As the log writer it waits for nothing: it takes what has come while the commit before ran, so that
one that comes alone is created at once. What fails, or is not certain to be within its limits, is
created by itself, so that no request is refused or fails for another's sake.

Of a creation whose connection is gone it is not known whether it was committed. Its id says so: it
is looked for, and created again if it is not there. Should the statement before still be under way
somewhere, the id lets only one of the two in.
"""

import asyncio
import contextlib
import logging
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, Final

import asyncpg
from asyncpg import Record

from longrun.errors import AlreadyAnswered, LongrunError, Unavailable
from longrun.store.creation import NewResponse, columns_of_many, columns_of_one, refusal
from longrun.store.database import Database, unavailable_if_gone
from longrun.store.records import Chunk
from longrun.store.sqlstates import FAILURES, Meaning, meaning
from longrun.supervision import also_on, let_go

log = logging.getLogger("longrun.store.creation_writer")

BATCH: Final = 100
"""Creations in one commit at most."""

SMALL_BYTES: Final = 64 * 1024
"""What a creation may bring in a batch: the others need not wait until more is sent."""

TRIES: Final = 3
"""How often it is tried to create one, as long as Postgres can be asked what became of it."""

_ROLLED_BACK: Final = (Meaning.OWN, Meaning.BUSY, Meaning.MISFIT)
"""After an error of Postgres's that means this, nothing of the batch is there."""


Told = Callable[[BaseException | None], None]
"""Gets what went wrong with a creation; None: nothing."""


class Waiting:
    """A creation that waits for its commit.

    Args:
        told: called with what `done` gets, at once: whoever awaits that has to wait for the next
            pass of the event loop.

    Attributes:
        is_uncertain: it may be there, since a connection is gone by which it was to be created.
    """

    __slots__ = ("columns", "done", "is_uncertain", "new", "told")

    def __init__(self, new: NewResponse, columns: Mapping[str, Any], told: Told) -> None:
        self.new = new
        self.columns = columns
        self.told = told
        self.is_uncertain = False
        self.done: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        let_go(self.done)

    def settle(self, error: BaseException | None = None) -> None:
        """It was created, or why not."""
        if self.done.done():
            return
        # First, so that a client has its first event when what awaits `done` goes on.
        self.told(error)
        if error is None:
            self.done.set_result(None)
        else:
            self.done.set_exception(error)


class CreationWriter:
    """One per replica.

    Args:
        created: called after the commit with a response's id and its first events, before anybody
            else hears of it.
    """

    def __init__(
        self,
        database: Database,
        created: Callable[[str, list[Chunk]], None] = lambda _id, _chunks: None,
    ) -> None:
        self._database = database
        self._created = created
        self._lane = database.lane("creation writer")
        self._waiting: list[Waiting] = []
        self._work = asyncio.Event()
        self._running = False

    async def create(self, new: NewResponse) -> None:
        """As `Responses.create`, together with others that come at the same time."""
        columns = columns_of_one(new, self._database.settings, self._database.sealing)
        if not self._joins(new, columns):
            await self._create_alone(new, columns)
            return
        await self._join(new, columns, lambda _: None)

    def joined(self, new: NewResponse, told: Told) -> asyncio.Future[None] | None:
        """What `create` waits for, of a creation that is among those to come before anything else
        is done; None: it is not created with others, and has to be created.

        To cancel what is given takes it back, until it is sent.

        Args:
            told: called as soon as it is known.
        """
        size = len(new.request.input_text or "") + sum(map(len, new.events))
        if size > SMALL_BYTES or not self._may_join(new):
            return None
        columns = columns_of_one(new, self._database.settings, self._database.sealing)
        return self._join(new, columns, told) if self._is_small(columns) else None

    def _join(
        self, new: NewResponse, columns: Mapping[str, Any], told: Told
    ) -> asyncio.Future[None]:
        waiting = Waiting(new, columns, told)
        self._waiting.append(waiting)
        self._work.set()
        return waiting.done

    def _joins(self, new: NewResponse, columns: Mapping[str, Any]) -> bool:
        """Whether it is created with others: what waits for nobody's lock, and is not large."""
        return self._may_join(new) and self._is_small(columns)

    def _may_join(self, new: NewResponse) -> bool:
        request = new.request
        return (
            self._running
            and self._database.silent_since is None
            and request.conversation_id is None
            and request.goes_on is None
            and request.forking is None
        )

    @staticmethod
    def _is_small(columns: Mapping[str, Any]) -> bool:
        names = ("document", "input", "request", "events")
        return sum(len(columns[name]) for name in names) <= SMALL_BYTES

    async def _create_alone(
        self, new: NewResponse, columns: Mapping[str, Any], *, is_uncertain: bool = False
    ) -> None:
        """Create one by itself, and find out whether it was where a connection does not say so."""
        failure: LongrunError | None = None
        for _ in range(TRIES):
            if is_uncertain and await self._is_there(new):
                break
            try:
                await self._insert(new, columns)
                break
            except Unavailable as error:
                if not self._may_ask_again(error):
                    raise
                failure, is_uncertain = error, True
            except (LongrunError, asyncpg.IntegrityConstraintViolationError):
                # What refuses it may be itself.
                if not is_uncertain or not await self._is_there(new):
                    raise
                break
        else:
            assert failure is not None
            raise failure
        self._tell(new)

    async def _insert(self, new: NewResponse, columns: Mapping[str, Any]) -> None:
        query = self._database.queries.bind("create_response", **columns)
        try:
            [row] = await self._database.fetch_once(*query)
        except asyncpg.IntegrityConstraintViolationError as error:
            if error.table_name == "answers":
                raise AlreadyAnswered() from None
            raise
        new.request.allowance.tokens = row.get("tokens")
        if not row["created"]:
            raise refusal(new, row, self._database.settings)

    async def _is_there(self, new: NewResponse) -> bool:
        request = new.request
        row = await self._database.fetch_row(
            self._database.queries.find_created, request.response_id, request.principal
        )
        return row is not None

    def _may_ask_again(self, error: BaseException) -> bool:
        """Whether Postgres may say what became of a creation: not where it said nothing for so long
        that it was given up, nor while it is silent."""
        timed_out = isinstance(error.__cause__ or error, TimeoutError)
        return not timed_out and self._database.silent_since is None

    def _tell(self, new: NewResponse) -> None:
        self._created(new.request.response_id, [new.chunk])

    # -- the batches --------------------------------------------------------------------------

    async def run(self, stop: asyncio.Event) -> None:
        """Create until `stop` is set and nothing waits. What comes when this does not run is
        created alone."""
        batch: list[Waiting] = []
        try:
            with also_on(stop, self._work.set):
                async with asyncio.TaskGroup() as group:
                    warming = group.create_task(self._warm_up())
                    self._running = True
                    self._work.set()
                    while not (stop.is_set() and not self._waiting):
                        await self._work.wait()
                        self._work.clear()
                        while self._waiting:
                            batch, self._waiting = self._waiting[:BATCH], self._waiting[BATCH:]
                            batch = [each for each in batch if not each.done.done()]
                            if not batch:
                                continue
                            for left in await self._create(batch):
                                group.create_task(self._settle_alone(left))
                    warming.cancel()
        finally:
            self._running = False
            _give_up([*batch, *self._waiting])
            self._waiting.clear()

    async def _warm_up(self) -> None:
        """Connect, and have Postgres read the statement, which takes longer than to execute it: the
        first that are created need not wait for that."""
        nothing = self._database.queries.bind("create_responses", **columns_of_many([]))
        with contextlib.suppress(*FAILURES):
            await self._lane.fetch(*nothing)

    async def _settle_alone(self, waiting: Waiting) -> None:
        """Create one by itself; what it raises is its own."""
        try:
            await self._create_alone(
                waiting.new, waiting.columns, is_uncertain=waiting.is_uncertain
            )
        except Exception as error:
            waiting.settle(error)
        else:
            waiting.settle()
        finally:
            _give_up([waiting])

    async def _create(self, batch: Sequence[Waiting]) -> Sequence[Waiting]:
        """Create these. Returns those that are to be tried alone."""
        if self._database.silent_since is not None:
            # The pool knows how long to wait for a Postgres that does not answer.
            return batch
        try:
            with unavailable_if_gone():
                if len(batch) == 1:
                    rows = await self._lane.fetch(
                        *self._database.queries.bind("create_response", **batch[0].columns)
                    )
                    return self._settle(batch, rows, certain=True)
                batch, later = _one_for_each_key(batch)
                columns = columns_of_many([each.columns for each in batch])
                rows = await self._lane.fetch(
                    *self._database.queries.bind("create_responses", **columns)
                )
                return [*self._settle(batch, rows, certain=False), *later]
        except Exception as error:
            if len(batch) > 1 and _is_rolled_back(error):
                log.warning(
                    "%d creations together: %s: %s", len(batch), type(error).__name__, error
                )
                return batch
            if isinstance(error, Unavailable) and self._may_ask_again(error):
                for waiting in batch:
                    waiting.is_uncertain = True
                return batch
            for waiting in batch:
                waiting.settle(error)
            return ()

    def _settle(
        self, batch: Sequence[Waiting], rows: Sequence[Record], *, certain: bool
    ) -> list[Waiting]:
        """Tell each what became of it. Returns those of which that is not certain: what came in
        the same batch counts against their limits, whether it was created or not."""
        left = []
        for waiting, row in zip(batch, rows, strict=True):
            new = waiting.new
            allowance = new.request.allowance
            spent = allowance.tokens = row.get("tokens")
            if row["created"]:
                self._tell(new)
                waiting.settle()
            elif (
                certain
                or row.get("repeated")
                or row.get("crowded")
                or _is_spent(spent, allowance.max_tokens)
            ):
                waiting.settle(refusal(new, row, self._database.settings))
            else:
                left.append(waiting)
        return left


def _one_for_each_key(batch: Sequence[Waiting]) -> tuple[list[Waiting], list[Waiting]]:
    """The first of those that have the same Idempotency-Key, with those that have none; and the
    others, for which the first has to be there, or refused, before."""
    first: list[Waiting] = []
    later: list[Waiting] = []
    keys: set[tuple[str, bytes]] = set()
    for each in batch:
        hashes = each.columns["key_hashes"]
        key = (each.new.request.principal, hashes[0]) if hashes else None
        (later if key in keys else first).append(each)
        if key is not None:
            keys.add(key)
    return first, later


def _is_spent(spent: int | None, most: int | None) -> bool:
    return spent is not None and most is not None and spent >= most


def _is_rolled_back(error: BaseException) -> bool:
    """Whether nothing of a batch is there, nor will be: it was refused, here or by Postgres."""
    if isinstance(error, Unavailable) and error.__cause__ is not None:
        error = error.__cause__
    return not isinstance(error, TimeoutError) and meaning(error) in _ROLLED_BACK


def _give_up(waiting: Iterable[Waiting]) -> None:
    """Nobody creates these any more, or it is not known whether they were."""
    for each in waiting:
        each.settle(Unavailable("The server could not finish this; try again.", retry_after=1))
