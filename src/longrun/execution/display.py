"""What of a run its client is shown: the assembler's events, on their way into the log."""

from collections.abc import Callable, Iterable, Sequence
from typing import Any

from longrun.assembly.assembler import Assembler
from longrun.execution.replay.references import refer
from longrun.store.records import Step
from longrun.store.run_log import RunLog


class Display:
    """Of one attempt. What the assembler has made of something goes to the log at once.

    Args:
        got_on: called when a step is finished.

    Attributes:
        first: called once, when the next events go to the log; None: nobody waits for that.
    """

    def __init__(self, assembler: Assembler, run_log: RunLog, got_on: Callable[[], None]) -> None:
        self._assembler = assembler
        self._log = run_log
        self._got_on = got_on
        self.first: Callable[[], None] | None = None
        assembler.upcoming = lambda: run_log.next_sequence

    def write(self, steps: Sequence[Step] = (), *, refers: bool = True) -> None:
        """Append what the assembler has made, and the steps that are finished with it.

        Args:
            refers: what these steps say may be put as what items say (`references.py`).
        """
        emission = self._assembler.collect()
        if steps and refers:
            # Items that stay as long as their steps: those of the turn, or what the tool gave. Of a
            # turn with many calls all tools may end at once: each looks at no more than its own.
            given = dict(emission.items)
            steps = [
                refer(step, self._assembler.turn_items if step.kind == "model" else given)
                for step in steps
            ]
        if emission.events and self.first is not None:
            self.first()
            self.first = None
        if emission.events or steps:
            self._log.append(
                emission.events, items=emission.items, steps=steps, models=emission.models
            )
        if steps:
            self._got_on()

    def tool_started(self, call_id: str) -> None:
        """A tool of the run's own is executed now."""
        self._assembler.tool_started(call_id)
        self.write()

    def tool_failed(self, call_id: str) -> None:
        """A tool of the run's own has failed. Its output, which may follow, says how."""
        self._assembler.tool_failed(call_id)

    async def tool_ended(self, item: Any, steps: Sequence[Step]) -> None:
        """Commit what a tool of the run's own gave, with its step. `item` is None where the SDK's
        stream is to bring it."""
        self.write()
        if item is not None:
            self._assembler.tool_output(item)
        self.write(steps)
        await self._log.flush()

    def handed_over(self, items: Iterable[Any]) -> None:
        """What the run's own calls of handoffs gave."""
        for item in items:
            self._assembler.tool_output(item)
        self.write()
