"""The models of agents: what they are asked, with which settings, and which provider."""

import dataclasses
import functools
import importlib
import inspect
import sys
from collections.abc import Mapping
from typing import Any, Final

from agents import (
    Agent,
    ModelSettings,
    OpenAIChatCompletionsModel,
    OpenAIResponsesModel,
    RunConfig,
    RunContextWrapper,
)
from agents.models.chatcmpl_converter import Converter
from agents.models.chatcmpl_helpers import ChatCmplHelpers
from agents.models.interface import Model

from longrun.execution.replay.sdk.names import TURNS
from longrun.history.faces import API, Origin

MODEL_PARAMETERS: Final = tuple(inspect.signature(Model.stream_response).parameters)[1:]
"""`get_response` is called with keywords, `stream_response` with positionals."""


def named(args: tuple[Any, ...], kwargs: dict[str, Any]) -> dict[str, Any]:
    """What a model was called with, by the names of `MODEL_PARAMETERS`."""
    return dict(zip(MODEL_PARAMETERS, args, strict=False)) | kwargs


def replaced(
    args: tuple[Any, ...], kwargs: dict[str, Any], changed: dict[str, Any]
) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """What a model was called with, other values in their places: users' models have names of
    their own for what is given by position."""
    by_name = zip(MODEL_PARAMETERS, args, strict=False)
    by_position = [changed.get(name, given) for name, given in by_name]
    rest = {name: value for name, value in changed.items() if name in kwargs}
    return (*by_position, *args[len(MODEL_PARAMETERS) :]), {**kwargs, **rest}


def model_of(agent: Agent[Any], config: RunConfig | None) -> tuple[Model, ModelSettings]:
    """The model that a run of an agent would ask, with the settings that it would have."""
    turns: Any = importlib.import_module(TURNS)
    config = config or RunConfig()
    return turns.get_model(agent, config), turns.get_model_settings(agent, config)


def with_settings(config: RunConfig | None, settings: ModelSettings | None) -> RunConfig:
    """A configuration, with settings that win over its own."""
    config = config or RunConfig()
    own = config.model_settings
    both = settings if own is None else own.resolve(settings)
    return dataclasses.replace(config, model_settings=both)


async def first_turn(
    agent: Agent[Any], context: RunContextWrapper[Any], settings: ModelSettings
) -> dict[str, Any]:
    """What the model of an agent is asked in a first turn, but for the input, by the names of
    `Model.stream_response`."""
    turns: Any = importlib.import_module(TURNS)
    return {
        "system_instructions": await agent.get_system_prompt(context),
        "model_settings": settings,
        "tools": await agent.get_all_tools(context),
        "output_schema": turns.get_output_schema(agent),
        "handoffs": await turns.get_handoffs(agent, context),
    }


_COUNTED: Final = frozenset(
    {
        *("input", "instructions", "model", "parallel_tool_calls", "reasoning", "text"),
        *("tool_choice", "tools", "truncation", "extra_headers", "extra_query"),
    }
)
"""What `input_tokens.count` takes of the arguments of `responses.create`."""


async def counted_by_provider(model: OpenAIResponsesModel, asked: Mapping[str, Any]) -> int:
    """How many tokens the provider of a model counts in what it would be asked. Raises what
    `openai` raises."""
    arguments = model._build_response_create_kwargs(**asked)
    given = {name: value for name, value in arguments.items() if name in _COUNTED}
    counted = await model._get_client().responses.input_tokens.count(**given)
    return counted.input_tokens


def is_at_openai(model: OpenAIChatCompletionsModel) -> bool:
    """Whether a model's client leads to OpenAI itself."""
    return ChatCmplHelpers.is_openai(model._get_client())


def origin_of(model: Any) -> Origin:
    """Which provider a model asks, and by which API: what it gives is taken back there alone.

    A model that asks another one is taken for that; one whose module knows the converter to Chat
    Completions, for one of these.
    """
    api: API = "other"
    if isinstance(model, OpenAIResponsesModel):
        api = "responses"
    elif isinstance(model, OpenAIChatCompletionsModel) or _converts(type(model).__mro__):
        api = "chat"
    elif (inner := _inner_model(model)) is not None:
        return origin_of(inner)
    url = getattr(getattr(model, "_client", None), "base_url", None)
    url = url or getattr(model, "base_url", None)
    if url is not None:
        return Origin(api, str(url).partition("://")[2].rstrip("/") or str(url))
    # LiteLLM's `provider/model`, or a model of the user's own.
    name, slash, _ = str(getattr(model, "model", "")).partition("/")
    kind = f"{type(model).__module__}.{type(model).__qualname__}"
    return Origin(api, f"{kind} {name}" if slash else kind)


@functools.cache
def _converts(kinds: tuple[type, ...]) -> bool:
    modules = (sys.modules.get(kind.__module__) for kind in kinds)
    return any(Converter in _values(module) for module in modules if module is not None)


def _values(module: Any) -> list[Any]:
    return [value for value in vars(module).values() if isinstance(value, type)]


def _inner_model(model: Any) -> Model | None:
    values = list(getattr(model, "__dict__", {}).values())
    return next((each for each in values if isinstance(each, Model) and each is not model), None)
