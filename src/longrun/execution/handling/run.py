"""One run of a handler: what it yields, assembled and written to the log like an agent's stream."""

import asyncio
from collections.abc import AsyncGenerator
from typing import Any

from longrun.errors import LongrunError
from longrun.execution.contained import being_cancelled, contain_tasks
from longrun.execution.current import set_current
from longrun.execution.handling import steps
from longrun.execution.handling.approvals import Waits
from longrun.execution.handling.handler import Handler, HandlerRequest, origin_of
from longrun.execution.handling.hooks import Told
from longrun.execution.handling.sections import Sections
from longrun.execution.handling.yielded import last_text
from longrun.execution.run import Run
from longrun.jsontext import dumps


class HandlerRun(Run):
    """Produces one response: one attempt of a handler, on this replica."""

    async def _drive(self) -> None:
        assert isinstance(self._agent, Handler)
        contain_tasks()
        current = self._handle.current
        set_current(current)
        self._assembler.next_agent(self._agent.name)
        self._assembler.origin = str(origin_of(self._agent.name))
        async with self._application.of_handler(current) as given:
            told = Told(given.hooks, self._agent, given.context, self._assembler.usage)
            await told.started()
            waits = self._waits = Waits(self._request, self._waited, self._steps.once)
            await self._answer(self._agent, given.context, told, waits)
            if waits.parks:
                self._park(waits)
                return
            text = last_text(self._assembler.output.values())
            if self._assembler.incomplete_details is None:
                self._demands.check_text(text)
            await told.ended(text or "")

    async def _answer(self, handler: Handler, context: Any, told: Told, waits: Waits) -> None:
        sections = Sections(
            self._assembler,
            self._journal,
            self._log,
            self._display.write,
            self._budget.check,
            handler.name,
        )
        of_run = steps.Steps(
            self._steps.once,
            self._handle.current,
            sections,
            self._at_boundary,
            self._budget.check,
            told,
            waits,
            self._steering,
        )
        steps.enter(of_run)
        began = self._request if self._waited is None else self._waited.began
        answer = handler.answer(HandlerRequest.of(began, context), of_run)
        try:
            async for given in answer:
                await sections.take(given)
            sections.close()
        except asyncio.CancelledError:
            if being_cancelled():
                # What still ends while the run is stopped is not written any more.
                self._log.lose(LongrunError("The run was stopped."))
            raise
        except BaseException:
            # However it comes out of the handler, alone or in a group.
            if not waits.parks:
                raise
        finally:
            if isinstance(answer, AsyncGenerator):
                await answer.aclose()

    def _park(self, waits: Waits) -> None:
        """Ask for what the handler waits for."""
        requests = {}
        for key, approval in waits.asked.items():
            arguments = dumps(approval.arguments).decode()
            index = self._assembler.ask_approval(self._request.agent, approval.name, arguments)
            requests[index] = key
        self._display.write()
        self._parked = waits.parked(requests)

    def _check_reached(self) -> None:
        if self._waits.parks:
            return
        super()._check_reached()
        if self._waits.left:
            self._journal.refuse(f"what was answered is asked no more: {self._waits.left}")
