"""The end of a response: its terminal event, its status and its final snapshot, in one commit."""

import asyncio
import contextlib
import logging
import time
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Final

from longrun.assembly.assembler import Assembler
from longrun.assembly.usage import UsageSum
from longrun.errors import Fenced, LongrunError, Unreadable
from longrun.execution.outcomes import Outcome
from longrun.execution.run_lines import run_ended
from longrun.execution.takeover import Position, add_recorded_usage, read_position
from longrun.history.conversation import NO_STEERS, left_of
from longrun.protocol import RunRequest
from longrun.store.announcer import Announcer
from longrun.store.claims import Claim, Claims
from longrun.store.events import EventLog
from longrun.store.log_writer import LogWriter
from longrun.store.records import Ending, Parked, Part
from longrun.store.run_log import RunLog
from longrun.store.steers import Steers

log = logging.getLogger("longrun.execution.ending")

if TYPE_CHECKING:
    from longrun.execution.tracing.tracer import Tracer

READ_AT_ONCE: Final = 4
"""Responses to be ended whose logs are read at the same time: of many, the first end soon, and few
long texts are in memory."""


async def end_response(
    request: RunRequest,
    assembler: Assembler,
    run_log: RunLog,
    outcome: Outcome,
    *,
    ran: bool,
    parked: Parked | None = None,
    steers: Mapping[int, int | None] = NO_STEERS,
    steered: int | None = None,
) -> None:
    """Close what is open, and end the response. What it said goes into its conversation with that.

    Args:
        ran: it did not only wait in the queue; else it leaves nothing.
        parked: what waits for the approvals that it asks for.
        steers: where each message stands that was put into it (`Steering.places`).
        steered: how many of them it has taken, if it would take more; see `Ending`.

    Raises:
        Fenced: another attempt holds the response, or somebody ended it first.
        Overtaken: there are more messages by now.
    """
    if outcome.details is not None:
        assembler.incomplete_details = outcome.details
    assembler.upcoming = lambda: run_log.next_sequence
    document = assembler.end(outcome.status, outcome.error, int(time.time()))
    emission = assembler.collect()
    said: list[Part] = []
    if ran and request.conversation_id is not None and not outcome.input_refused:
        whole = outcome.status in ("completed", "incomplete")
        left = left_of(request.response_id, request.input, assembler.output, steers, whole=whole)
        given = {-1 - place: item for place, item in enumerate(request.input)}
        said = [
            Part(place, name, given.get(place), place in assembler.unkept) for place, name in left
        ]
    if assembler.refused:
        await run_log.flush()
    ending = Ending(
        outcome.status,
        document,
        said,
        outcome.reason,
        assembler.refused,
        assembler.usage.total_tokens,
        parked,
        outcome.input_refused,
        assembler.unkept,
        steered,
    )
    run_log.append(emission.events, items=emission.items, ending=ending, models=emission.models)
    # All that it said is in its last event, and long texts are to be there once.
    del emission
    assembler.forget()
    await run_log.flush()


class Ends:
    """Ends responses that are not run: cancelled, overdue, given up.

    Args:
        tracer: makes the span of each response; None: nothing is traced.
        ended: called when a background response has ended, and what is to be told of it is stored.

    Attributes:
        under_way: the attempt of each response that is being ended here.
    """

    def __init__(
        self,
        claims: Claims,
        event_log: EventLog,
        writer: LogWriter,
        announcer: Announcer,
        steers: Steers,
        tracer: "Tracer | None" = None,
        ended: Callable[[], None] = lambda: None,
    ) -> None:
        self._tracer = tracer
        self._told = ended
        self._steers = steers
        self.under_way: dict[str, int] = {}
        self._reading = asyncio.Semaphore(READ_AT_ONCE)
        self._claims = claims
        self._event_log = event_log
        self._writer = writer
        self._announcer = announcer

    async def end(self, claim: Claim, outcome: Outcome) -> None:
        """End a claimed response. Whoever claimed it meanwhile does it instead.

        Raises:
            Unavailable: Postgres is away.
        """
        self.under_way[claim.id] = claim.attempt
        try:
            with contextlib.suppress(Fenced):
                async with self._reading:
                    position = await self._position(claim)
                run_log = self._writer.open(claim.id, claim.attempt, position.next_sequence)
                await end_response(
                    claim.request,
                    position.assembler,
                    run_log,
                    outcome,
                    ran=claim.spent > 0,
                    steers=await self._steers_of(claim),
                )
                self.ended(claim.request, claim.attempt, outcome, position.assembler.usage)
        finally:
            if self.under_way.get(claim.id) == claim.attempt:
                del self.under_way[claim.id]

    def ended(self, request: RunRequest, attempt: int, outcome: Outcome, usage: UsageSum) -> None:
        """This response has ended: the log says so, and one that waits for its conversation may
        begin, anywhere."""
        run_ended(request, attempt, self._claims.replica_id, outcome, usage)
        if self._tracer is not None:
            self._tracer.ended(request, attempt, outcome, usage)
        if request.conversation_id is not None:
            self._announcer.tell("work")
        if request.background:
            self._told()

    async def _steers_of(self, claim: Claim) -> dict[int, int | None]:
        """Where the messages stand that go into its conversation."""
        if not claim.steered or claim.request.conversation_id is None:
            return {}
        return await self._steers.places_unscoped(claim.id)

    async def _position(self, claim: Claim) -> Position:
        try:
            position = await read_position(claim, self._claims, self._event_log, to_end=True)
            add_recorded_usage(position.assembler, position.steps)
        except Unreadable:
            await self._claims.drop_all_items(claim)
            return await self._position_without(claim)
        except LongrunError:
            raise
        except Exception:
            # It ends all the same, else it would be tried again and again.
            log.exception("what is left of %s cannot be read: it ends without", claim.id)
            return await self._position_without(claim)
        return position

    async def _position_without(self, claim: Claim) -> Position:
        """The end of the log, without what is in it."""
        after = await self._event_log.length_unscoped(claim.id)
        assembler = Assembler(claim.id, claim.request.document, next_sequence=after)
        return Position(assembler, after, [], [])
