"""Agents whose every effect is written down (tests/crashing.py), one for each thing a run can do.

Their models say what they are scripted to say. A model has no state: which turn it is in, it
reads from the calls among the items that it is given.
"""

import asyncio
import contextlib
import json
import os
import shutil
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Iterator, Sequence
from pathlib import Path
from typing import Any

from agents import (
    Agent,
    ApplyPatchTool,
    Computer,
    ComputerTool,
    CustomTool,
    GuardrailFunctionOutput,
    InputGuardrail,
    LocalShellTool,
    ModelSettings,
    OutputGuardrail,
    RunContextWrapper,
    Runner,
    ShellTool,
    SQLiteSession,
    StopAtTools,
    ToolGuardrailFunctionOutput,
    ToolInputGuardrail,
    ToolOutputFileContent,
    ToolOutputGuardrail,
    ToolOutputImage,
    ToolOutputText,
    function_tool,
    handoff,
)
from agents.editor import ApplyPatchOperation, ApplyPatchResult
from agents.items import ModelResponse
from agents.mcp import MCPServerStdio
from agents.models.interface import Model
from agents.retry import ModelRetrySettings
from agents.usage import Usage
from openai.types.responses import Response
from pydantic import BaseModel

import longrun
from longrun.execution.replay import place as places
from tests.crashing import Served, effect, effect_in_thread, place
from tests.unit.streams import raw

JSONObject = dict[str, Any]
Turn = Sequence[JSONObject]

FAKE = "__fake_id__"


# -- models -----------------------------------------------------------------------------------


def says(text: str) -> JSONObject:
    part = {"type": "output_text", "text": text, "annotations": [], "logprobs": []}
    return {
        "type": "message",
        "id": FAKE,
        "role": "assistant",
        "status": "completed",
        "content": [part],
    }


def thinks(text: str) -> JSONObject:
    return {"type": "reasoning", "id": FAKE, "summary": [{"type": "summary_text", "text": text}]}


def calls(name: str, call_id: str = "call_1", **arguments: Any) -> JSONObject:
    return {
        "type": "function_call",
        "id": FAKE,
        "call_id": call_id,
        "name": name,
        "arguments": json.dumps(arguments),
        "status": "completed",
    }


class Scripted(Model):
    """Says its turns, the last one when nothing is left to be called.

    Args:
        fails: so many requests of each turn fail before one succeeds.
    """

    def __init__(self, name: str, *turns: Turn, fails: int = 0) -> None:
        self.name = name
        self.turns = turns
        self.fails = fails
        self.failed: dict[str, int] = {}

    def _next(self, items: str | list[Any]) -> tuple[str, Turn]:
        """The turn, and its name, unique in a run unless a model is asked the same twice."""
        if isinstance(items, str):
            items = [{"role": "user", "content": items}]
        given = [dict(item) for item in items]
        last = max(n for n, item in enumerate(given) if item.get("role") == "user")
        done = {item.get("call_id") for item in given[last + 1 :]}
        number = 0
        while number < len(self.turns) - 1 and self._called(self.turns[number]) <= done:
            number += 1
        return f"{self.name}:{_scope()}:{number}", self.turns[number]

    def _called(self, turn: Turn) -> set[str]:
        return {item["call_id"] for item in turn if "call_id" in item}

    async def get_response(
        self, system_instructions: Any, input: Any, *args: Any, **kw: Any
    ) -> ModelResponse:
        name, turn = self._next(input)
        await effect(f"start model {name}")
        await asyncio.sleep(0)
        self._fail(name)
        await effect(f"end model {name}")
        built = _response(name, turn)
        usage = Usage(requests=1, input_tokens=10, output_tokens=5, total_tokens=15)
        return ModelResponse(output=built.output, usage=usage, response_id=name)

    async def stream_response(
        self, system_instructions: Any, input: Any, *args: Any, **kw: Any
    ) -> AsyncIterator[Any]:
        name, turn = self._next(input)
        await effect(f"start model {name}")
        await asyncio.sleep(0)
        yield raw({"type": "response.created", "response": _response(name, ()).to_dict()})
        self._fail(name)
        for index, item in enumerate(turn):
            async for event in _item_events(name, index, item):
                yield event
        await effect(f"end model {name}")
        yield raw({"type": "response.completed", "response": _response(name, turn).to_dict()})

    def _fail(self, name: str) -> None:
        who = f"{longrun.current().response_id} {name}"
        self.failed[who] = self.failed.get(who, 0) + 1
        if self.failed[who] <= self.fails:
            raise ConnectionError("try again")


async def _item_events(name: str, index: int, item: JSONObject) -> AsyncIterator[Any]:
    where = {"item_id": FAKE, "output_index": index}
    message = item["type"] == "message"
    shown = {**item, "content": []} if message else item
    yield raw({"type": "response.output_item.added", "output_index": index, "item": shown})
    if message:
        text = item["content"][0]["text"]
        third = len(text) // 3 + 1
        for n, start in enumerate(range(0, len(text), third)):
            yield raw(
                {
                    "type": "response.output_text.delta",
                    "delta": text[start : start + third],
                    "content_index": 0,
                    "logprobs": [],
                    **where,
                }
            )
            await asyncio.sleep(0)
            await effect(f"delta {name} {n}")
    yield raw({"type": "response.output_item.done", "output_index": index, "item": item})


def _response(name: str, turn: Turn) -> Response:
    return Response.construct(
        id=name,
        created_at=0,
        model="scripted",
        object="response",
        output=list(turn),
        parallel_tool_calls=True,
        tool_choice="auto",
        tools=[],
        usage={
            "input_tokens": 10,
            "input_tokens_details": {"cached_tokens": 1, "cache_write_tokens": 0},
            "output_tokens": 5,
            "output_tokens_details": {"reasoning_tokens": 2},
            "total_tokens": 15,
        },
    )


def _scope() -> str:
    """Of the run that asks a model: names are unique with it."""
    found = places.here()
    return found.scope.path if found else "of its own"


def agent(name: str, *turns: Turn, fails: int = 0, **more: Any) -> Agent[Any]:
    return Agent(name=name, model=Scripted(name, *turns, fails=fails), **more)


# -- tools ------------------------------------------------------------------------------------


@function_tool
async def look(what: str, pause: float = 0.0) -> str:
    """Look at something."""
    await effect(f"start tool {place()}")
    await asyncio.sleep(pause)
    await effect(f"end tool {place()}")
    return f"{what} of {longrun.current().idempotency_key is not None}"


@function_tool
def look_in_thread(what: str) -> str:
    """Look at something, in a thread."""
    effect_in_thread(f"start tool {place()}")
    effect_in_thread(f"end tool {place()}")
    return f"{what} from a thread"


@longrun.at_most_once
@function_tool
async def pay(amount: int) -> str:
    """Pay once."""
    await effect(f"start tool {place()}")
    await effect(f"end tool {place()}")
    return f"paid {amount}"


def plain() -> Agent[Any]:
    return agent("agent", [thinks("hm"), says("one two three four")])


def sequential() -> Agent[Any]:
    return agent(
        "agent",
        [thinks("hm"), says("I look."), calls("look", "call_1", what="a")],
        [calls("look_in_thread", "call_2", what="b")],
        [calls("look", "call_3", what="c")],
        [says("seen it all")],
        tools=[look, look_in_thread],
    )


@function_tool(failure_error_function=lambda context, error: f"failed: {error}")
async def fails(why: str) -> str:
    """Fail, which the model is told."""
    await effect(f"start tool {place()}")
    await effect(f"end tool {place()}")
    raise ValueError(why)


def parallel() -> Agent[Any]:
    return agent(
        "agent",
        [
            calls("look", "call_1", what="slow", pause=0.06),
            calls("look", "call_2", what="quick"),
            calls("look", "call_3", what="middling", pause=0.02),
            calls("fails", "call_4", why="so"),
            calls("look_in_thread", "call_5", what="aside"),
        ],
        [says("seen it all")],
        tools=[look, fails, look_in_thread],
    )


class Reason(BaseModel):
    reason: str


async def on_handoff(context: RunContextWrapper[Any], given: Reason) -> None:
    await effect("start handoff second")
    await asyncio.sleep(0)
    await effect("end handoff second")


def handing_off() -> Agent[Any]:
    third = agent(
        "third", [calls("look", "call_t", what="c")], [says("the third is done")], tools=[look]
    )
    second = agent(
        "second",
        [calls("look", "call_2", what="b")],
        [says("and on"), calls("transfer_to_third", "call_4")],
        tools=[look],
        handoffs=[third],
    )
    return agent(
        "agent",
        [calls("look", "call_1", what="a")],
        [thinks("hm"), calls("transfer_to_second", "call_3", reason="so")],
        tools=[look],
        handoffs=[handoff(second, on_handoff=on_handoff, input_type=Reason)],
    )


def nested() -> Agent[Any]:
    """Agents as tools, two calls of the same one at once, two deep, call ids used again."""
    innermost = agent(
        "innermost", [calls("look", "call_1", what="deep")], [says("dug")], tools=[look]
    )
    inner = agent(
        "inner",
        [calls("look", "call_1", what="in"), calls("dig", "call_2", input="dig it")],
        [says("found")],
        tools=[look, innermost.as_tool("dig", "dig")],
    )
    return agent(
        "agent",
        [
            calls("ask", "call_1", input="first"),
            calls("ask", "call_2", input="second"),
            calls("look", "call_3", what="out", pause=0.03),
        ],
        [says("asked")],
        tools=[inner.as_tool("ask", "ask"), look],
    )


async def on_stream(event: Any) -> None:
    await asyncio.sleep(0)


def nested_streamed() -> Agent[Any]:
    inner = agent(
        "inner",
        [thinks("hm"), calls("look", "call_1", what="in")],
        [says("found it")],
        tools=[look],
    )
    return agent(
        "agent",
        [calls("ask", "call_1", input="first")],
        [says("asked")],
        tools=[inner.as_tool("ask", "ask", on_stream=on_stream)],
    )


def nested_failing() -> Agent[Any]:
    """A tool that raises in an agent as a tool; the outer agent is told, and goes on."""
    inner = agent("inner", [calls("raises", "call_1")], [says("never")], tools=[raises])
    return agent(
        "agent",
        [calls("ask", "call_1", input="first")],
        [calls("look", "call_2", what="b")],
        [says("asked")],
        tools=[inner.as_tool("ask", "ask"), look],
    )


@function_tool(failure_error_function=None)
async def raises() -> str:
    """Raise, which ends the run."""
    await effect(f"start tool {place()}")
    await effect(f"end tool {place()}")
    raise ValueError("secret")


def raising() -> Agent[Any]:
    return agent(
        "agent",
        [calls("look", "call_1", what="a"), calls("raises", "call_2")],
        [says("never")],
        tools=[look, raises],
    )


def _judge(name: str, answer: str = "fine") -> Agent[Any]:
    return agent(name, [calls("look", "call_1", what="law")], [says(answer)], tools=[look])


async def _judged(name: str, given: str) -> Any:
    result = await Runner.run(_judge(name), given)
    return result.final_output


def guarded() -> Agent[Any]:
    """Guardrails of all four kinds, each with a model and a tool of its own."""

    async def of_input(context: Any, agent: Any, given: Any) -> GuardrailFunctionOutput:
        await effect("guard in")
        return GuardrailFunctionOutput(await _judged("injudge", "in"), tripwire_triggered=False)

    async def of_output(context: Any, agent: Any, given: Any) -> GuardrailFunctionOutput:
        return GuardrailFunctionOutput(await _judged("outjudge", "out"), tripwire_triggered=False)

    async def before_tool(data: Any) -> ToolGuardrailFunctionOutput:
        await effect("guard before")
        name = f"before_{data.context.tool_call_id}"
        return ToolGuardrailFunctionOutput.allow(await _judged("toolinjudge", name))

    async def after_tool(data: Any) -> ToolGuardrailFunctionOutput:
        await effect("guard after")
        name = f"after_{data.context.tool_call_id}"
        return ToolGuardrailFunctionOutput.allow(await _judged("tooloutjudge", name))

    @function_tool(
        tool_input_guardrails=[ToolInputGuardrail(before_tool)],
        tool_output_guardrails=[ToolOutputGuardrail(after_tool)],
    )
    async def guarded_look(what: str) -> str:
        """Look under guard."""
        await effect(f"start tool {place()}")
        await effect(f"end tool {place()}")
        return what

    return agent(
        "agent",
        [
            calls("guarded_look", "call_1", what="a"),
            calls("guarded_look", "call_2", what="b"),
        ],
        [says("guarded")],
        tools=[guarded_look],
        input_guardrails=[InputGuardrail(of_input)],
        output_guardrails=[OutputGuardrail(of_output)],
    )


def tripping() -> Agent[Any]:
    """An output guardrail, with a model of its own, that refuses."""

    async def of_output(context: Any, agent: Any, given: Any) -> GuardrailFunctionOutput:
        return GuardrailFunctionOutput(await _judged("outjudge", "out"), tripwire_triggered=True)

    return agent(
        "agent",
        [calls("look", "call_1", what="a")],
        [says("refused")],
        tools=[look],
        output_guardrails=[OutputGuardrail(of_output)],
    )


class Weather(BaseModel):
    city: str
    degrees: int


def structured() -> Agent[Any]:
    return agent(
        "agent",
        [calls("look", "call_1", what="sky")],
        [says('{"city": "Rome", "degrees": 21}')],
        tools=[look],
        output_type=Weather,
    )


MCP_SERVER = """
from mcp.server import MCPServer

server = MCPServer("tests")

@server.tool()
def add(a: int, b: int) -> int:
    with open({effects!r}, "a") as file:
        file.write(f"{{a}}+{{b}}\\n")
    return a + b

server.run("stdio")
"""


def with_mcp() -> Agent[Any]:
    return agent(
        "agent",
        [calls("add", "call_1", a=1, b=2), calls("look", "call_2", what="it", pause=0.02)],
        [calls("add", "call_3", a=3, b=4)],
        [says("added")],
        tools=[look],
    )


FILES = Path(
    os.environ.setdefault(
        "JOURNAL_FILES", str(Path(tempfile.gettempdir()) / f"longrun-journal-{os.getpid()}")
    )
)
"""What sessions and MCP servers write: of this process of tests, and those that it starts."""

MCP_EFFECTS = FILES / "mcp-effects"
SESSIONS = FILES / "sessions"


@contextlib.contextmanager
def files() -> Iterator[None]:
    """The folder for them, while a test needs it."""
    SESSIONS.mkdir(parents=True)
    try:
        yield
    finally:
        shutil.rmtree(FILES)


@contextlib.asynccontextmanager
async def mcp_server(served: Agent[Any]) -> AsyncIterator[None]:
    script = MCP_SERVER.format(effects=str(MCP_EFFECTS))
    parameters: Any = {"command": sys.executable, "args": ["-c", script]}
    async with MCPServerStdio(parameters, client_session_timeout_seconds=30) as server:
        served.mcp_servers = [server]
        yield


class Pebble:
    def __repr__(self) -> str:
        return "a pebble"


RICH: dict[str, Any] = {
    "none": None,
    "number": 1.5,
    "flag": True,
    "list": ["a", 1, {"b": None}],
    "tuple": ("a", 1),
    "dict": {"a": [1, 2.0, True, None], "b": {"c": "d"}},
    "odd_dict": {1: "one", "two": (2,), "nan": float("nan")},
    "model": Weather(city="Rome", degrees=21),
    "object": Pebble(),
    "models": [Weather(city="Rome", degrees=21), Pebble()],
    "nul": "a\x00b",
    "surrogate": "a\ud800b",
    "lines": "a\nb\r\n\u2028c",
    "text": ToolOutputText(text="hello"),
    "surrogate_text": ToolOutputText(text="a\ud800b"),
    "image": ToolOutputImage(image_url="data:image/png;base64,AAAA", detail="low"),
    "file": ToolOutputFileContent(file_data="AAAA", filename="a.txt"),
    "rich_list": [ToolOutputText(text="x"), ToolOutputImage(file_id="file_1")],
    "rich_dict": {"type": "text", "text": "as a dict"},
    "rich_dicts": [{"type": "text", "text": "as a dict"}],
    "empty": [],
    "set": {"only"},
    "large": 2**70,
}


@function_tool
async def rich(kind: str) -> Any:
    """Give an output of a kind."""
    await effect(f"start tool {place()}")
    await effect(f"end tool {place()}")
    return RICH[kind]


def rich_outputs() -> Agent[Any]:
    kinds = list(RICH)
    return agent(
        "agent",
        [calls("rich", f"call_{kind}", kind=kind) for kind in kinds[::2]],
        [calls("rich", f"call_{kind}", kind=kind) for kind in kinds[1::2]],
        [says("rich")],
        tools=[rich],
    )


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


def _tool_with_item(which: str) -> tuple[Any, JSONObject]:
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
    found = [_tool_with_item(name) for name in which]
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


def first_tool_ends() -> Agent[Any]:
    return agent(
        "agent",
        [says("looking"), calls("look", "call_1", what="a")],
        [says("never")],
        tools=[look],
        tool_use_behavior="stop_on_first_tool",
    )


def tool_ends() -> Agent[Any]:
    return agent(
        "agent",
        [calls("look", "call_1", what="a")],
        [calls("look_in_thread", "call_2", what="b"), calls("look", "call_3", what="c")],
        [says("never")],
        tools=[look, look_in_thread],
        tool_use_behavior=StopAtTools(stop_at_tool_names=["look_in_thread"]),
    )


@function_tool(timeout=0.05)
async def endless() -> str:
    """Take too long."""
    await effect(f"start tool {place()}")
    await asyncio.sleep(60)
    return "never"


def timing_out() -> Agent[Any]:
    return agent(
        "agent",
        [calls("endless", "call_1"), calls("look", "call_2", what="b")],
        [says("too long")],
        tools=[endless, look],
    )


def paying() -> Agent[Any]:
    return agent(
        "agent",
        [calls("pay", "call_1", amount=3), calls("look", "call_2", what="b")],
        [says("paid")],
        tools=[pay, look],
    )


async def _too_much(context: Any, arguments: JSONObject, call_id: str) -> bool:
    return bool(arguments["amount"] > 10)


def asking_approval() -> Agent[Any]:
    """A callable `needs_approval`: one call may run, the other must wait."""

    @function_tool(needs_approval=_too_much)
    async def spend(amount: int) -> str:
        """Spend."""
        await effect(f"start tool {place()}")
        await effect(f"end tool {place()}")
        return f"spent {amount}"

    return agent(
        "agent",
        [calls("spend", "call_1", amount=5), calls("spend", "call_2", amount=50)],
        [says("never")],
        tools=[spend],
    )


def retrying() -> Agent[Any]:
    """Each turn's first request fails; the run's own turns and those of an agent as a tool."""
    again = ModelSettings(
        retry=ModelRetrySettings(
            max_retries=2, policy=lambda context: True, backoff={"initial_delay": 0.001}
        )
    )
    inner = agent(
        "inner",
        [calls("look", "call_1", what="in")],
        [says("found")],
        fails=1,
        tools=[look],
        model_settings=again,
    )
    return agent(
        "agent",
        [calls("ask", "call_1", input="first")],
        [calls("look", "call_2", what="b")],
        [says("asked")],
        fails=1,
        tools=[inner.as_tool("ask", "ask"), look],
        model_settings=again,
    )


def instructed() -> Agent[Any]:
    """Instructions that change, and that ask an agent of their own, with tools and a handoff."""

    async def instructions(context: Any, asking: Any) -> str:
        last = agent("last", [says("be brief")])
        adviser = agent(
            "adviser",
            [calls("look", "call_1", what="book")],
            [calls("transfer_to_last", "call_2")],
            tools=[look],
            handoffs=[last],
        )
        result = await Runner.run(adviser, "how?")
        return f"{result.final_output} at {time.monotonic_ns()}"

    second = agent("second", [says("done by the second")])
    return agent(
        "agent",
        [calls("look", "call_1", what="a")],
        [calls("transfer_to_second", "call_2")],
        instructions=instructions,
        tools=[look],
        handoffs=[second],
    )


# -- sessions ---------------------------------------------------------------------------------


class WatchedSession(SQLiteSession):
    """A session in a file, one for each response, whose reads and writes are effects."""

    async def get_items(self, limit: int | None = None) -> list[Any]:
        found = await super().get_items(limit)
        await effect("session get")
        return found

    async def add_items(self, items: list[Any]) -> None:
        await effect("session about to add")
        await super().add_items(items)
        await effect("session added")


def session(current: longrun.Current) -> WatchedSession:
    return WatchedSession(current.response_id, SESSIONS / current.response_id)


HISTORY: list[JSONObject] = [
    {"role": "user", "content": "before"},
    {
        "type": "function_call",
        "call_id": "call_1",
        "name": "look",
        "arguments": '{"what": "then"}',
        "id": "fc_1",
    },
    {"type": "function_call_output", "call_id": "call_1", "output": "seen"},
    {
        "type": "message",
        "id": "msg_1",
        "role": "assistant",
        "status": "completed",
        "content": [{"type": "output_text", "text": "I saw", "annotations": []}],
    },
    {"role": "user", "content": "go"},
]
"""The input of a run that continues a previous response."""


def continuing() -> Agent[Any]:
    return agent(
        "agent",
        [calls("look", "call_2", what="a")],
        [says("continued")],
        tools=[look],
    )


SCENARIOS: dict[str, tuple[Served, Any]] = {
    "plain": (Served(plain), "go"),
    "sequential tools": (Served(sequential), "go"),
    "parallel tools": (Served(parallel), "go"),
    "handoffs": (Served(handing_off), "go"),
    "agents as tools": (Served(nested), "go"),
    "agents as tools, streamed": (Served(nested_streamed), "go"),
    "agents as tools, failing": (Served(nested_failing), "go"),
    "a tool that raises": (Served(raising), "go"),
    "guardrails": (Served(guarded), "go"),
    "a guardrail that trips": (Served(tripping), "go"),
    "structured output": (Served(structured), "go"),
    "MCP": (Served(with_mcp, mcp_server), "go"),
    "rich outputs": (Served(rich_outputs), "go"),
    "shell, custom, patch, computer": (Served(hosted_like_tools), "go"),
    "local shell": (Served(local_shell), "go"),
    "stop on first tool": (Served(first_tool_ends), "go"),
    "stop at tools": (Served(tool_ends), "go"),
    "tool timeout": (Served(timing_out), "go"),
    "at most once": (Served(paying), "go"),
    "approval": (Served(asking_approval), "go"),
    "retried requests": (Served(retrying), "go"),
    "changing instructions": (Served(instructed), "go"),
    "a session": (Served(sequential, session=session), "go"),
    "a session, handoffs": (Served(handing_off, session=session), "go"),
    "previous response": (Served(continuing), HISTORY),
}
"""What is served, and what it is asked."""
