"""The application's hooks (`agents.RunHooks`), as the run of a handler tells them: of its start and
end, of its steps as of tools, and of its streams as of model turns."""

from dataclasses import dataclass
from typing import Any

from agents import ModelResponse, RunContextWrapper, RunHooks, Usage
from agents.tool_context import ToolContext
from openai.types.responses import Response

from longrun.assembly.usage import UsageSum
from longrun.execution.contained import contained
from longrun.execution.handling.handler import Handler


@dataclass(frozen=True, slots=True)
class NamedStep:
    """A step, in the place of the SDK's tool: hooks ask that for its name."""

    name: str


class Told:
    """The hooks of one run. What one of them raises fails the run, as with agents; the step that it
    was told of is recorded by then.

    Args:
        hooks: the application's; None if it has none.
        handler: takes the place of the agent.
        context: what the application has made for the run.
        usage: the sum so far, which hooks find in their context.
    """

    def __init__(
        self, hooks: RunHooks[Any] | None, handler: Handler, context: Any, usage: UsageSum
    ) -> None:
        self._hooks = hooks
        self._handler = handler
        self._context = context
        self._usage = usage

    async def started(self) -> None:
        """The handler is about to be called."""
        await self._tell("on_agent_start")

    async def ended(self, output: str) -> None:
        """It has ended, with this as its last text."""
        await self._tell("on_agent_end", output)

    async def step_begins(self, name: str, key: str) -> None:
        """A step is about to be done, or its record to be given."""
        await self._tell("on_tool_start", NamedStep(name), call=(name, key))

    async def step_ended(self, name: str, key: str, result: Any) -> None:
        """A step has this result; if it raised, what is said of that."""
        await self._tell("on_tool_end", NamedStep(name), result, call=(name, key))

    async def stream_begins(self, given: Any) -> None:
        """A model is about to be asked with this `input`, or its record to be given."""
        items = given if isinstance(given, list) else [{"role": "user", "content": given or ""}]
        await self._tell("on_llm_start", None, items)

    async def stream_ended(self, response: Response) -> None:
        """A model has answered."""
        usage = _usage_of(response.usage, requests=1)
        found = ModelResponse(list(response.output or ()), usage, getattr(response, "id", None))
        await self._tell("on_llm_end", found)

    async def _tell(self, hook: str, *what: Any, call: tuple[str, str] | None = None) -> None:
        if self._hooks is None:
            return
        usage = _usage_of(self._usage)
        context: RunContextWrapper[Any]
        if call is None:
            context = RunContextWrapper(self._context, usage)
        else:
            context = ToolContext(self._context, usage, *call, "")
        with contained(f"hook {hook}"):
            await getattr(self._hooks, hook)(context, self._handler, *what)


def _usage_of(found: Any, requests: int = 0) -> Usage:
    read, wrote = getattr(found, "input_tokens", 0), getattr(found, "output_tokens", 0)
    return Usage(requests, input_tokens=read, output_tokens=wrote, total_tokens=read + wrote)
