"""One run of a handler: what it yields, assembled and written to the log like an agent's stream."""

import asyncio
from collections.abc import AsyncGenerator

from longrun.errors import LongrunError
from longrun.execution.contained import being_cancelled, contain_tasks
from longrun.execution.current import set_current
from longrun.execution.handling import steps
from longrun.execution.handling.handler import Handler, HandlerRequest, origin_of
from longrun.execution.handling.sections import Sections
from longrun.execution.run import Run


class HandlerRun(Run):
    """Produces one response: one attempt of a handler, on this replica."""

    async def _drive(self) -> None:
        assert isinstance(self._agent, Handler)
        contain_tasks()
        set_current(self._handle.current)
        self._assembler.next_agent(self._agent.name)
        self._assembler.origin = str(origin_of(self._agent.name))
        sections = Sections(
            self._assembler, self._journal, self._log, self._display.write, self._budget.check
        )
        of_run = steps.Steps(
            self._steps.once, self._handle.current, sections, self._at_boundary, self._budget.check
        )
        steps.enter(of_run)
        answer = self._agent.answer(HandlerRequest.of(self._request), of_run)
        try:
            async for given in answer:
                await sections.take(given)
            sections.close()
        except asyncio.CancelledError:
            if being_cancelled():
                # What still ends while the run is stopped is not written any more.
                self._log.lose(LongrunError("The run was stopped."))
            raise
        finally:
            if isinstance(answer, AsyncGenerator):
                await answer.aclose()
