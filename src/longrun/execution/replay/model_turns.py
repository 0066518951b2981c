"""Model turns: asked once, and held back while the log or the assembler is behind them.

A turn of the run's own is recorded with its last events, in one commit, before any of its tools
starts. A turn of a run inside the run has no events that a client sees; it is recorded alone.
"""

import asyncio
import dataclasses
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from types import MappingProxyType
from typing import Any, Final

from agents import ModelTimeoutError
from agents.items import ModelResponse
from openai.types.responses import Response, ResponseCompletedEvent
from pydantic import Field

from longrun.assembly.kinds import DELTAS
from longrun.assembly.server_calls import RunningCall
from longrun.execution.contained import contained
from longrun.execution.replay.border import Border
from longrun.execution.replay.call_ids import WITH_CALL_IDS, CallIds, TurnIds
from longrun.execution.replay.closings import Closings
from longrun.execution.replay.journal import fingerprint, marked
from longrun.execution.replay.once import Due, Once
from longrun.execution.replay.results import (
    decode_model_response,
    decoding_response,
    encode_model_response,
    encode_response,
)
from longrun.execution.replay.scope import ModelCall, Scope
from longrun.pieces import Pieces, with_turns
from longrun.store.records import Step
from longrun.store.run_log import RunLog

EVENTS_AHEAD: Final = 256
"""Raw events that a model may be ahead of the assembler. The SDK's own queue has no bound."""


_ENDS: Final = frozenset({"response.completed", "response.incomplete"})
"""The events that tell what a turn has used."""


class ReplayedTurn(ResponseCompletedEvent):
    """Stands for a recorded model turn in the SDK's stream; its events are in the log already.

    Attributes:
        indexes: the output indexes of its items.
    """

    indexes: list[int] = Field(default_factory=list)


class Lead:
    """How far the run's own models are ahead of the assembler, in raw events."""

    def __init__(self) -> None:
        self.yielded = 0
        self._taken = 0
        self._moved = asyncio.Event()
        self._unread = False

    @property
    def is_long(self) -> bool:
        return self.yielded - self._taken >= EVENTS_AHEAD

    def taken(self) -> None:
        """The assembler has taken one more."""
        self._taken += 1
        self._moved.set()

    def unread(self) -> None:
        """Nobody takes any more: no use waiting for it."""
        self._unread = True
        self._moved.set()

    async def shortened(self, below: int = EVENTS_AHEAD) -> None:
        """Wait until fewer events than this are not taken."""
        while self.yielded - self._taken >= below and not self._unread:
            self._moved.clear()
            await self._moved.wait()

    async def ended(self) -> None:
        """Wait until all events are taken."""
        await self.shortened(below=1)


class ModelTurns:
    """The model turns of one run, and of the runs inside it.

    Args:
        call_ids: makes their calls' ids unique.
        spent: told what each turn of a run inside the run has used.
        before: called before a model is asked.

    Attributes:
        border: makes the input of each model.
        origin: who gives the raw events of the run's own that come now.
        steered: the run's own turns before which messages were put in.
        closings: what the runs of a replica take turns by when their models end.
    """

    def __init__(
        self,
        once: Once,
        run_log: RunLog,
        border: Border,
        call_ids: CallIds,
        spent: Callable[[Any], None],
        before: Callable[[], None],
    ) -> None:
        self.call_ids = call_ids
        self._once = once
        self._log = run_log
        self.border = border
        self._spent = spent
        self._before = before
        self._lead = Lead()
        self._asked: Due | None = None
        self.origin: str | None = None
        self.steered: set[str] = set()
        self.closings = Closings()

    def stream(self, call: ModelCall, do: Callable[[], AsyncIterator[Any]]) -> AsyncIterator[Any]:
        """A model's stream on its way into the SDK."""
        # One generator for each event to go through, not a chain of them: at full speed that is
        # a tenth of all work.
        if call.scope.path:
            turn = self._nested_turn
        else:
            turn, self.origin = self._own_turn, str(call.origin)
        timeout = call.timeout
        ask = do if timeout is None else lambda: _timed(do(), timeout)
        ids = self.call_ids.turn(call.scope, call.turn, str(call.origin))
        return turn(call, ask, _contained(call), ids)

    async def respond(
        self, call: ModelCall, do: Callable[[], Awaitable[ModelResponse]]
    ) -> ModelResponse:
        """A model turn that is not streamed, of a run inside this one."""
        ids = self.call_ids.turn(call.scope, call.turn, str(call.origin))

        async def ask() -> ModelResponse:
            with _contained(call):
                async with _time_limit(call.timeout, call.timeout):
                    response = await do()
            return dataclasses.replace(response, output=ids.output(response.output))

        def encode(response: ModelResponse) -> str:
            return encode_model_response(response, self.call_ids.given)

        async def keep(step: Step, response: ModelResponse) -> None:
            await self._once.record(self._marked(step, response))

        given = await self._once.value(
            _due(call), ask, encode=encode, decode=decode_model_response, keep=keep
        )
        self.border.came_in(given.output, str(call.origin))
        self._spent(given.usage)
        return given

    async def _own_turn(
        self,
        call: ModelCall,
        do: Callable[[], AsyncIterator[Any]],
        user_code: contained,
        ids: TurnIds,
    ) -> AsyncIterator[Any]:
        """Ends when all of it is taken, and its record committed (`finished`)."""
        due = _due(call)
        async with self._once.passage(due) as recorded:
            if recorded is not None and not self._once.is_copied(due):
                self._lead.yielded += 1
                yield await self._replayed(recorded, call)
                await self._lead.ended()
                return
            self._before()
            self._asked = due
            if recorded is not None:
                # As a model that says all at once: it is shown, and recorded, as this response's.
                self._lead.yielded += 1
                yield _said_at_once(await self._replayed(recorded, call))
                await self._lead.ended()
                await self._log.flush()
                return
            speaks = False
            try:
                async with _closing(do()) as events:
                    async for event in events:
                        if self._log.must_wait:
                            await self._log.ready()
                        if self._lead.is_long:
                            await self._lead.shortened()
                        if event.type in DELTAS:
                            speaks = True
                        elif speaks:
                            speaks = False
                            await self.closings.turn()
                        if event.type in WITH_CALL_IDS:
                            event = ids.event(event)
                        self._lead.yielded += 1
                        yield event
            except GeneratorExit:
                raise
            except BaseException as error:
                failure = user_code.replaced(error)
                if isinstance(failure, Exception):
                    # The SDK tells of a model's error before what it streamed; a client sees
                    # that first.
                    await self._lead.ended()
                if failure is error:
                    raise
                raise failure from error
            await self._lead.ended()
            await self._log.flush()

    async def _nested_turn(
        self,
        call: ModelCall,
        do: Callable[[], AsyncIterator[Any]],
        user_code: contained,
        ids: TurnIds,
    ) -> AsyncIterator[Any]:
        due = _due(call)
        async with self._once.passage(due) as recorded:
            if recorded is not None:
                replayed = await self._replayed(recorded, call)
                self._spent(replayed.response.usage)
                yield replayed
                return
            self._before()
            done: list[Any] = []
            try:
                async with _closing(do()) as events:
                    async for event in events:
                        if event.type in WITH_CALL_IDS:
                            event = ids.event(event)
                        if event.type == "response.output_item.done":
                            done.append(event.item)
                        if isinstance(event, ResponseCompletedEvent):
                            # Some models give their items in the stream alone; the SDK fills
                            # them in later.
                            event.response.output = event.response.output or done
                            step = await with_turns(self._step(due, event.response))
                            await self._once.record(step)
                            self.border.came_in(event.response.output, str(call.origin))
                        if event.type in _ENDS:
                            self._spent(event.response.usage)
                        yield event
            except GeneratorExit:
                raise
            except BaseException as error:
                failure = user_code.replaced(error)
                if failure is error:
                    raise
                raise failure from error

    def passed(self, turn: str, response: Response, origin: str) -> None:
        """A recorded turn of the run's own is passed over (`execution/passing.py`)."""
        self.origin = origin
        self.call_ids.turn(Scope(""), turn, origin)
        self.border.came_in(response.output, origin)

    async def _replayed(self, recorded: str, call: ModelCall) -> ReplayedTurn:
        response, indexes = await with_turns(decoding_response(recorded))
        self.border.came_in(response.output, str(call.origin))
        return ReplayedTurn(
            type="response.completed", sequence_number=0, response=response, indexes=indexes
        )

    def finished(
        self,
        response: Response,
        indexes: list[int],
        calls: Mapping[str, RunningCall],
        items: Mapping[int, str],
    ) -> Pieces[list[Step]]:
        """The step of the run's own turn that was asked, to be committed with its last events. It
        refers to these items of the turn. Made in pieces."""
        due, self._asked = self._asked, None
        if self.origin is not None:
            self.border.came_in(response.output, self.origin)
            yield
        if due is None:
            return []
        return [(yield from self._step(due, response, indexes, calls, items))]

    def _step(
        self,
        due: Due,
        response: Response,
        indexes: Sequence[int] = (),
        calls: Mapping[str, RunningCall] = MappingProxyType({}),
        items: Mapping[int, str] = MappingProxyType({}),
    ) -> Pieces[Step]:
        given = self.call_ids.given
        result = yield from encode_response(response, indexes, given, calls, items)
        step = self._marked(due.finished(result), response)
        if not due.scope and due.key in self.steered:
            # A version that knows nothing of the message would go on without it.
            return marked(step, steered="taken")
        return step

    def _marked(self, step: Step, turn: Response | ModelResponse) -> Step:
        """A version that knows nothing of minted call ids would execute the calls again."""
        given = self.call_ids.given
        minted = given and any(getattr(item, "call_id", None) in given for item in turn.output)
        return marked(step, call_ids="minted") if minted else step

    def taken(self) -> None:
        """The assembler has taken one more raw event of the run's own."""
        self._lead.taken()

    def refused(self) -> None:
        """A guardrail has refused: the SDK reads no more of the model's events, but waits for
        the model's turn, which so must not wait for them to be read."""
        self._lead.unread()


def _said_at_once(turn: ReplayedTurn) -> ResponseCompletedEvent:
    return ResponseCompletedEvent(
        type="response.completed", sequence_number=0, response=turn.response
    )


def _due(call: ModelCall) -> Due:
    digest = call.scope.digest(call.instructions, call.input)
    print_ = fingerprint(agent=call.agent, input_digest=digest)
    return Due(call.scope.path, "model", call.turn, print_)


def _contained(call: ModelCall) -> contained:
    return contained(f"the model of agent {call.agent!r}")


async def _timed(events: AsyncIterator[Any], seconds: float) -> AsyncIterator[Any]:
    """A model's stream, in which the model's own time has a limit. What passes between its
    events, while Postgres is away say, does not count."""
    loop = asyncio.get_running_loop()
    left = seconds
    async with _closing(events):
        while True:
            started = loop.time()
            try:
                async with _time_limit(left, seconds):
                    event = await anext(events)
            except StopAsyncIteration:
                return
            left -= loop.time() - started
            yield event


@asynccontextmanager
async def _time_limit(left: float | None, seconds: float | None) -> AsyncIterator[None]:
    try:
        async with asyncio.timeout(left) as limit:
            yield
    except TimeoutError:
        if seconds is None or not limit.expired():
            raise
        raise ModelTimeoutError(seconds) from None


@asynccontextmanager
async def _closing(events: AsyncIterator[Any]) -> AsyncIterator[AsyncIterator[Any]]:
    """To be closed when nobody wants more; not every model gives a generator."""
    try:
        yield events
    finally:
        if isinstance(events, AsyncGenerator):
            await events.aclose()
