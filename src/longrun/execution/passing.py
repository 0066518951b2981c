"""Recorded turns that are passed over at a takeover: nothing of the application would run in them.

The Agents SDK takes as long over a recorded turn as over a live one, and longer the more turns came
before. But where a turn's model and tools are recorded, and no hook, guardrail, filter or other
function of the application's would be called, it is known what the turn leaves: its response, its
items, its usage. The run then begins behind such turns, as the SDK would have left it
(`sdk.begin_behind`). The first turn that is not of this kind, and all after it, are replayed by the
SDK. So is the last recorded one, always: what it was asked, by its fingerprint, must be what would
be asked behind the turns that are passed, or else none is passed.
"""

import asyncio
from collections.abc import Mapping, Sequence
from typing import Any, Final, NamedTuple

from agents import Agent, FunctionTool, RunConfig, RunHooks
from openai.types.responses import ResponseFunctionToolCall

from longrun import metrics
from longrun.assembly.assembler import Assembler
from longrun.execution.budget import Budget
from longrun.execution.display import Display
from longrun.execution.replay import sdk
from longrun.execution.replay.journal import Journal, asks
from longrun.execution.replay.results import decode_response
from longrun.execution.replay.scope import Scope
from longrun.execution.replay.steps import Steps
from longrun.execution.replay.tool_calls import due_of, returned
from longrun.pieces import Pieces, with_turns
from longrun.store.records import Step

TOGETHER: Final = 8
"""Turns that are passed before others have their turn in the event loop: some two milliseconds."""


class Passing:
    """What is passed over of one run.

    Args:
        journal: has what was recorded.
        steps: told of the turns that are passed, as of those that are replayed.
        assembler: likewise.
        display: likewise.
        budget: likewise.
    """

    def __init__(
        self,
        journal: Journal,
        steps: Steps,
        assembler: Assembler,
        display: Display,
        budget: Budget,
    ) -> None:
        self._journal = journal
        self._steps = steps
        self._assembler = assembler
        self._display = display
        self._budget = budget

    @property
    def is_possible(self) -> bool:
        """Whether enough is recorded: a turn that another one follows."""
        return self._journal.has("", "model", "1")

    async def over(
        self,
        agent: Agent[Any],
        begins: list[Any],
        config: RunConfig,
        hooks: RunHooks[Any] | None,
        scope: Scope,
    ) -> list[sdk.DoneTurn]:
        """Pass over what can be passed, from the first turn on.

        Args:
            begins: the input of the run.
            hooks: the application's.
            scope: of the run itself, before its first turn. It is behind those that are passed,
                afterwards.

        Raises:
            BudgetSpent: as when they are replayed.
        """
        if not self.is_possible or not sdk.runs_alone(agent, config, hooks):
            return []
        tools = _plain_tools(agent)
        found: list[_Recorded] = []
        while (turn := self._recorded(len(found), agent, tools)) is not None:
            found.append(turn)
            if len(found) % TOGETHER == 0:
                await asyncio.sleep(0)
        done = [turn.done for turn in found]
        if not done or not self._fits(agent, begins, done, scope):
            return []
        origin = str(sdk.origin_of(sdk.model_of(agent, config)[0]))
        for number, turn in enumerate(found):
            await with_turns(self._pass(str(number), turn, origin))
            if number % TOGETHER == 0:
                await asyncio.sleep(0)
        self._display.write()
        return done

    def _recorded(
        self, number: int, agent: Agent[Any], tools: Mapping[str, FunctionTool]
    ) -> "_Recorded | None":
        """A turn that can be passed: all of it is recorded, and so is a turn that follows it."""
        step = self._journal.peek("", "model", str(number))
        follows = self._journal.has("", "model", str(number + 1))
        if step is None or not follows or asks(step).get("agent") != agent.name:
            return None
        response, _ = decode_response(step.result)
        called, failed, steps = [], [], [step]
        for item in response.output:
            if type(item) is not ResponseFunctionToolCall:
                continue
            tool = tools.get(item.name)
            recorded = None if tool is None else self._recorded_call(tool, item)
            gave = None if recorded is None else returned(recorded.result)
            if tool is None or recorded is None or gave is None:
                return None
            steps.append(recorded)
            called.append((tool, item, gave.output))
            if gave.is_error:
                failed.append(item.call_id)
        done = sdk.done_turn(agent, response, called)
        return None if done is None else _Recorded(steps, done, failed)

    def _recorded_call(self, tool: FunctionTool, call: ResponseFunctionToolCall) -> Step | None:
        due = due_of(Scope(""), tool, call.call_id, call.arguments)
        step = self._journal.peek(due.scope, due.kind, due.key)
        return None if step is None or step.fingerprint != due.fingerprint else step

    def _fits(
        self, agent: Agent[Any], begins: list[Any], done: Sequence[sdk.DoneTurn], scope: Scope
    ) -> bool:
        """Whether the turn behind these was asked what it would be asked now. Moves the scope
        there if it was."""
        step = self._journal.peek("", "model", str(len(done)))
        assert step is not None
        assert not callable(agent.instructions)
        ahead = Scope("", turn=len(done) - 1)
        digest = ahead.digest(agent.instructions, sdk.next_input(begins, done))
        fits = asks(step).get("input_digest") == digest
        if fits:
            scope.skip_to(ahead)
        return fits

    def _pass(self, number: str, turn: "_Recorded", origin: str) -> Pieces[None]:
        """All that is told of a turn when it is replayed."""
        for step in turn.steps:
            self._journal.passed(step)
            metrics.steps.labels(step.kind, "replayed").inc()
        response = turn.done.response
        self._steps.models.passed(number, response, origin)
        yield from self._assembler.replayed_turn(response)
        self._budget.took(response.output)
        for call_id in turn.failed:
            self._display.tool_failed(call_id)
        for item in turn.done.outputs:
            self._assembler.tool_output(item)
            yield


class _Recorded(NamedTuple):
    """A turn, its steps, and the ids of its calls whose tools have failed."""

    steps: list[Step]
    done: sdk.DoneTurn
    failed: list[str]


def _plain_tools(agent: Agent[Any]) -> dict[str, FunctionTool]:
    """The tools whose recorded calls can be passed over, by their names."""
    names = [tool.name for tool in agent.tools]
    return {
        tool.name: tool
        for tool in agent.tools
        if isinstance(tool, FunctionTool) and names.count(tool.name) == 1 and sdk.is_plain(tool)
    }
