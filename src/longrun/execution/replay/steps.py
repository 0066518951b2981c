"""The steps of one run: done once, recorded, and given again from the journal after a takeover."""

from collections.abc import Awaitable, Callable, Iterable
from typing import Any

from longrun.execution.current import Current
from longrun.execution.demands import Demands
from longrun.execution.display import Display
from longrun.execution.replay.border import Border
from longrun.execution.replay.call_ids import CallIds
from longrun.execution.replay.context_management import ContextManagement
from longrun.execution.replay.journal import Journal
from longrun.execution.replay.model_turns import ModelTurns
from longrun.execution.replay.once import Due, Once
from longrun.execution.replay.tool_calls import ToolCalls
from longrun.jsontext import dumps, loads
from longrun.store.run_log import RunLog


class Steps:
    """What the taps ask for (`place.py`): model turns, tool calls, and what a session does.

    Args:
        demands: what the request wants of its model turns.
        at_boundary: called before a step is begun.
        display: shows what becomes of the tools of the run's own.
        spent: told what each model turn of a run inside the run has used.
        shown: the call ids that clients saw of calls that do not stay.
        replayed: called before the first thing that is done and not replayed.
        between_turns: called between two turns of the run itself, or of one that user code starts
            within it, with its result and the number of the turn that comes.

    Attributes:
        once: what all steps come through.
        call_ids: unique inside the SDK, as the models gave them outside.
        group_id: that of the run's RunConfig; it tells the run's own turns from those of other
            runs that user code starts within it.
        taken_over: this is not the first attempt.
        management: compacts the context; None where the request does not ask for that.
    """

    def __init__(
        self,
        journal: Journal,
        run_log: RunLog,
        current: Current,
        demands: Demands,
        border: Border,
        at_boundary: Callable[[], Awaitable[None]],
        display: Display,
        spent: Callable[[Any], None],
        shown: Iterable[str] = (),
        replayed: Callable[[], None] = lambda: None,
        between_turns: Callable[[Any, int], Awaitable[None]] | None = None,
    ) -> None:
        self.between_turns = between_turns or _nothing
        self.group_id = current.response_id
        self.demands = demands
        self.taken_over = current.attempt > 1
        self._log = run_log
        self.once = Once(journal, run_log, at_boundary, replayed)
        self.tools = ToolCalls(self.once, journal, run_log, current, display)
        self.call_ids = CallIds(current.response_id, journal.recorded("model"), shown)
        for origin, given in border.calls.items():
            self.call_ids.bring(given, origin)
        self.management: ContextManagement | None = None
        self.models = ModelTurns(
            self.once, run_log, border, self.call_ids, spent, self.tools.record_unshown
        )

    async def session(self, key: str, do: Callable[[], Awaitable[Any]]) -> Any:
        """What a run does with its session: JSON in and out, keyed by order."""
        return await self.once.value(
            Due("", "session", key, "{}"),
            do,
            encode=lambda value: dumps(value).decode(),
            decode=loads,
            counted=False,
        )

    async def idle(self) -> None:
        """Wait until no step is under way, and what they gave is committed."""
        await self.once.idle()
        self.tools.record_unshown()
        await self._log.flush()


async def _nothing(result: Any, turn: int) -> None:
    """Between two turns, where nobody says anything."""
