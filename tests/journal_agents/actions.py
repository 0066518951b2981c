"""Shell, custom, patch and computer tools, which the SDK executes in ways of their own."""

import asyncio
from typing import Any

from agents import (
    Agent,
    ApplyPatchTool,
    Computer,
    ComputerTool,
    CustomTool,
    LocalShellTool,
    ShellTool,
)
from agents.editor import ApplyPatchOperation, ApplyPatchResult

from tests.crashing import effect, place
from tests.journal_agents.models import FAKE, JSONObject, agent, calls, says
from tests.journal_agents.tools import look


class Screen(Computer):
    environment = "browser"
    dimensions = (100, 100)

    async def _act(self, what: str) -> None:
        await effect(f"start tool {place()}")
        await effect(f"end tool {place()}")

    def screenshot(self) -> str:
        return "AAAA"

    async def click(self, x: int, y: int, button: Any) -> None:
        await self._act("click")

    def double_click(self, x: int, y: int) -> None: ...
    def scroll(self, x: int, y: int, scroll_x: int, scroll_y: int) -> None: ...
    def type(self, text: str) -> None: ...
    def wait(self) -> None: ...
    def move(self, x: int, y: int) -> None: ...
    def keypress(self, keys: list[str]) -> None: ...
    def drag(self, path: list[tuple[int, int]]) -> None: ...


class Editor:
    async def _edit(self, operation: ApplyPatchOperation) -> ApplyPatchResult:
        await effect(f"start tool {place()}")
        await effect(f"end tool {place()}")
        return ApplyPatchResult(output=f"edited {operation.path}")

    create_file = update_file = delete_file = _edit


async def run_shell(request: Any) -> str:
    await effect(f"start tool {place()}")
    await asyncio.sleep(0)
    await effect(f"end tool {place()}")
    return "out"


async def run_custom(context: Any, text: str) -> str:
    return await run_shell(text)


def tool_with_item(which: str) -> tuple[Any, JSONObject]:
    call_id = f"call_{which}"
    shell: JSONObject = {"commands": ["ls"], "timeout_ms": 1000}
    tools: dict[str, tuple[Any, JSONObject]] = {
        "shell": (
            ShellTool(executor=run_shell),
            {"type": "shell_call", "call_id": call_id, "action": shell, "status": "completed"},
        ),
        "custom": (
            CustomTool(name="grep", description="grep", on_invoke_tool=run_custom),
            {"type": "custom_tool_call", "call_id": call_id, "name": "grep", "input": "x"},
        ),
        "patch": (
            ApplyPatchTool(editor=Editor()),
            {
                "type": "apply_patch_call",
                "call_id": call_id,
                "status": "completed",
                "operation": {"type": "create_file", "path": "a.txt", "diff": "+a"},
            },
        ),
        "computer": (
            ComputerTool(Screen()),
            {
                "type": "computer_call",
                "call_id": call_id,
                "status": "completed",
                "pending_safety_checks": [],
                "action": {"type": "click", "x": 1, "y": 2, "button": "left"},
            },
        ),
        "local_shell": (
            LocalShellTool(executor=run_shell),
            {
                "type": "local_shell_call",
                "call_id": call_id,
                "status": "completed",
                "action": {"type": "exec", "command": ["ls"], "env": {}},
            },
        ),
    }
    tool, item = tools[which]
    return tool, {"id": FAKE, **item}


def acting(*which: str) -> Agent[Any]:
    found = [tool_with_item(name) for name in which]
    return agent(
        "agent",
        [item for _, item in found] + [calls("look", "call_look", what="it", pause=0.02)],
        [says("acted")],
        tools=[*(tool for tool, _ in found), look],
    )


def hosted_like_tools() -> Agent[Any]:
    return acting("shell", "custom", "patch", "computer")


def local_shell() -> Agent[Any]:
    return acting("local_shell")
