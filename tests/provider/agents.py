"""Agents for longrun whose models ask the provider: `longrun serve tests.provider.agents:agents`
with `PROVIDER_URL` (`environment` makes it).

What a run does, the script in its input says (`script.py`). An agent is named FAMILY-KIND. FAMILY
says how its model speaks to the provider: `responses`, `chat`, or `litellm` (`adapter.py`). KIND
says what it has:

    plain        nothing
    tools        the tools `look`, `add` and `fail`
    handoff      a handoff to `FAMILY-tools`: the call `transfer_to_FAMILY_tools`
    nested       the tool `expert`, which is `FAMILY-tools`: its `input` is a script too
    structured   an output type
    guarded      the tools, and guardrails of input and output that ask the model themselves
    careful      the tools, and guardrails that refuse an input with the word "forbidden", and an
                 output with the word "unspeakable"
    uncounted    the tools, and the wish not to be told of usage in streams
    reasoning    effort and summaries
    encrypted    (responses) the same, encrypted, and nothing stored at the provider
    knowing      (responses) the tools `know`, of the request, and `look`
    hosted       (responses) web search, file search, code, images, MCP
    local        (responses) shell, apply patch and computer, executed here
    ids-KIND     (litellm) `tools` with the call ids of `adapter.CALL_IDS`
"""

import json
import os
from typing import Any

from agents import (
    Agent,
    ApplyPatchTool,
    AsyncComputer,
    CodeInterpreterTool,
    ComputerTool,
    CustomTool,
    FileSearchTool,
    GuardrailFunctionOutput,
    HostedMCPTool,
    ImageGenerationTool,
    InputGuardrail,
    Model,
    ModelSettings,
    OpenAIChatCompletionsModel,
    OpenAIResponsesModel,
    OutputGuardrail,
    Runner,
    ShellTool,
    Tool,
    WebSearchTool,
    function_tool,
    set_tracing_disabled,
)
from agents.editor import ApplyPatchOperation, ApplyPatchResult
from openai import AsyncOpenAI
from openai.types.shared import Reasoning
from pydantic import BaseModel

import longrun
from tests.provider.adapter import CALL_IDS, AdapterModel
from tests.provider.items import PIXEL
from tests.provider.server import KEY, Provider
from tests.scripted import note_effect

AGENTS = "tests.provider.agents:agents"

FAMILIES = ("responses", "chat", "litellm")


def environment(provider: Provider) -> dict[str, str]:
    """What replicas need to find the provider: for `servers.start(environment=…)`."""
    return {"PROVIDER_URL": provider.url}


@function_tool
async def look(word: str) -> str:
    """Look a word up."""
    note_effect("tool", f"look {word}")
    return f"found {word}"


@function_tool
async def add(a: int, b: int) -> int:
    """Add two numbers."""
    note_effect("tool", f"add {a} {b}")
    return a + b


@function_tool
async def fail() -> str:
    """Raise; the model is told so."""
    raise RuntimeError("the tool failed")


@function_tool
async def know() -> str:
    """Tell what a tool can know of the request."""
    now = longrun.current()
    known = {
        "attempt": now.attempt,
        "metadata": dict(now.metadata),
        "user": now.user,
        "headers": dict(now.headers),
    }
    return json.dumps(known)


class Weather(BaseModel):
    """The output type of `structured`."""

    city: str
    degrees: int


class Patches:
    """An editor that changes nothing."""

    def create_file(self, operation: ApplyPatchOperation) -> ApplyPatchResult:
        return ApplyPatchResult(status="completed", output=f"created {operation.path}")

    def update_file(self, operation: ApplyPatchOperation) -> ApplyPatchResult:
        return ApplyPatchResult(status="completed", output=f"updated {operation.path}")

    def delete_file(self, operation: ApplyPatchOperation) -> ApplyPatchResult:
        return ApplyPatchResult(status="completed", output=f"deleted {operation.path}")


class Screen(AsyncComputer):
    """A computer whose screen is one pixel."""

    environment = "browser"
    dimensions = (1, 1)

    async def screenshot(self) -> str:
        return PIXEL

    async def click(self, x: int, y: int, button: Any) -> None: ...
    async def double_click(self, x: int, y: int) -> None: ...
    async def scroll(self, x: int, y: int, scroll_x: int, scroll_y: int) -> None: ...
    async def type(self, text: str) -> None: ...
    async def wait(self) -> None: ...
    async def move(self, x: int, y: int) -> None: ...
    async def keypress(self, keys: list[str]) -> None: ...
    async def drag(self, path: list[tuple[int, int]]) -> None: ...


def agents(client: AsyncOpenAI | None = None) -> list[Agent[Any]]:
    """All agents of all families."""
    set_tracing_disabled("LONGRUN_OTEL" not in os.environ)
    client = client or AsyncOpenAI(base_url=os.environ["PROVIDER_URL"], api_key=KEY, max_retries=0)
    models: dict[str, Model] = {
        "responses": OpenAIResponsesModel("gpt", client),
        "chat": OpenAIChatCompletionsModel("deepseek", client),
        "litellm": AdapterModel("gemini/flash", client),
    }
    made: list[Agent[Any]] = []
    for family in FAMILIES:
        made += _family(family, models[family])
    tools = [look, add, fail]
    made += _hosted(models["responses"])
    made += [
        Agent(
            name=f"litellm-ids-{kind}",
            model=AdapterModel("gemini/flash", client, kind),
            tools=[*tools],
        )
        for kind in CALL_IDS
    ]
    return made


def _family(family: str, model: Model) -> list[Agent[Any]]:
    tools: list[Tool] = [look, add, fail]
    expert = Agent[Any](name=f"{family}-tools", model=model, tools=tools)
    thinking = ModelSettings(reasoning=Reasoning(effort="low", summary="auto"))
    if family != "responses":
        thinking = ModelSettings(reasoning=Reasoning(effort="low"))
    return [
        Agent(name=f"{family}-plain", model=model),
        expert,
        Agent(name=f"{family}-handoff", model=model, handoffs=[expert], tools=[*tools]),
        Agent(
            name=f"{family}-nested",
            model=model,
            tools=[expert.as_tool("expert", "Asks an expert."), *tools],
        ),
        Agent(name=f"{family}-structured", model=model, tools=[*tools], output_type=Weather),
        Agent(
            name=f"{family}-guarded",
            model=model,
            tools=tools,
            input_guardrails=[InputGuardrail(_judged(model), name="input")],
            output_guardrails=[OutputGuardrail(_judged(model), name="output")],
        ),
        Agent(
            name=f"{family}-careful",
            model=model,
            tools=tools,
            input_guardrails=[InputGuardrail(_without("forbidden"), name="input")],
            output_guardrails=[OutputGuardrail(_without("unspeakable"), name="output")],
        ),
        Agent(
            name=f"{family}-uncounted",
            model=model,
            tools=tools,
            model_settings=ModelSettings(include_usage=False),
        ),
        Agent(name=f"{family}-reasoning", model=model, tools=[*tools], model_settings=thinking),
    ]


def _judged(model: Model) -> Any:
    """A guardrail that asks a model, and lets everything pass."""
    judge = Agent[Any](name="judge", model=model)

    async def judged(context: Any, agent: Any, said: Any) -> GuardrailFunctionOutput:
        result = await Runner.run(judge, "Is that right?")
        return GuardrailFunctionOutput(result.final_output, tripwire_triggered=False)

    return judged


def _without(word: str) -> Any:
    """A guardrail that refuses what has this word in it."""

    async def judged(context: Any, agent: Any, said: Any) -> GuardrailFunctionOutput:
        return GuardrailFunctionOutput(None, tripwire_triggered=word in json.dumps(said))

    return judged


def _hosted(model: Model) -> list[Agent[Any]]:
    """What only the Responses API has."""
    keeps_nothing = ModelSettings(
        reasoning=Reasoning(effort="low", summary="auto"),
        store=False,
        response_include=["reasoning.encrypted_content"],
    )
    return [
        Agent(
            name="responses-encrypted",
            model=model,
            tools=[look, add, fail],
            model_settings=keeps_nothing,
        ),
        Agent(name="responses-knowing", model=model, tools=[know, look]),
        Agent(
            name="responses-hosted",
            model=model,
            tools=[
                WebSearchTool(),
                FileSearchTool(vector_store_ids=["vs_1"]),
                CodeInterpreterTool({"type": "code_interpreter", "container": {"type": "auto"}}),
                ImageGenerationTool({"type": "image_generation"}),
                HostedMCPTool(
                    {
                        "type": "mcp",
                        "server_label": "server",
                        "server_url": "https://mcp.example",
                        "require_approval": "never",
                    }
                ),
                look,
            ],
        ),
        Agent(
            name="responses-local",
            model=model,
            tools=[
                ShellTool(executor=_shell),
                ApplyPatchTool(editor=Patches()),
                ComputerTool(Screen()),
                CustomTool(name="write", description="Write.", on_invoke_tool=_write),
            ],
        ),
    ]


async def _shell(request: Any) -> str:
    return "a file"


async def _write(context: Any, text: str) -> str:
    return f"wrote {text}"


LOOK = {"call": "look", "arguments": {"word": "cat"}}
ADD = {"call": "add", "arguments": {"a": 1, "b": 2}}


def script(*turns: Any) -> str:
    return json.dumps({"turns": list(turns)})


def turns_of(name: str) -> list[Any]:
    """Turns that use all that an agent has."""
    family, _, kind = name.partition("-")
    by_kind: dict[str, list[Any]] = {
        "plain": [],
        "tools": [[LOOK, ADD], [{"call": "fail"}]],
        "handoff": [[{"call": f"transfer_to_{family}_tools"}], [LOOK]],
        "nested": [[{"call": "expert", "arguments": {"input": script([LOOK])}}]],
        "structured": [[LOOK]],
        "reasoning": [[{"reasoning": "hm"}, LOOK], [{"reasoning": "so"}, {"text": "there"}]],
        "encrypted": [[{"reasoning": "hm"}, LOOK], [{"reasoning": "so"}, {"text": "there"}]],
        "hosted": [
            [LOOK, {"web_search": "cats"}],
            [{"file_search": ["cats"]}, {"code": "1"}, {"image": "cat"}, {"text": "there"}],
        ],
        "local": [
            [{"shell": ["ls"]}, {"custom": "write", "input": "x"}],
            [{"apply_patch": {"type": "delete_file", "path": "a"}}],
            [{"computer": {"type": "screenshot"}}],
        ],
    }
    return by_kind.get(kind, by_kind["tools"])
