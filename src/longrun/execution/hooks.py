"""The hooks of a run: ours, by which the end of one tool is known, then the application's."""

from typing import Any

from agents import RunHooks

from longrun.execution.contained import contained
from longrun.execution.replay import place


class Hooks(RunHooks[Any]):
    """Both. What one of the application's raises fails its run, as in the Agents SDK; by then
    the result of the tool that it was told about is recorded.

    Args:
        ours: the one that is told of the ends of tools.
        theirs: the application's.
    """

    def __init__(self, ours: RunHooks[Any], theirs: RunHooks[Any]) -> None:
        self._ours = ours
        self._theirs = theirs

    async def on_llm_start(self, *args: Any, **named: Any) -> None:
        await self._tell("on_llm_start", args, named)

    async def on_llm_end(self, *args: Any, **named: Any) -> None:
        await self._tell("on_llm_end", args, named)

    async def on_agent_start(self, *args: Any, **named: Any) -> None:
        await self._tell("on_agent_start", args, named)

    async def on_agent_end(self, *args: Any, **named: Any) -> None:
        await self._tell("on_agent_end", args, named)

    async def on_handoff(self, *args: Any, **named: Any) -> None:
        await self._tell("on_handoff", args, named)

    async def on_tool_start(self, *args: Any, **named: Any) -> None:
        await self._tell("on_tool_start", args, named)

    async def on_tool_end(self, *args: Any, **named: Any) -> None:
        await self._ours.on_tool_end(*args, **named)
        await self._tell("on_tool_end", args, named)

    async def _tell(self, name: str, args: tuple[Any, ...], named: dict[str, Any]) -> None:
        # A run that a hook starts is its own affair.
        with place.in_user_code(), contained(f"hook {name}"):
            await getattr(self._theirs, name)(*args, **named)
