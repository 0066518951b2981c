"""What a request wants of the model turns of its run, in the terms of each turn's model.

The SDK has settings for most of it (`parameters.model_settings`). What it has none for is an
argument of some models' clients alone; others would refuse it.
"""

import dataclasses
from collections.abc import Mapping
from typing import Any, Final

from agents import Model, ModelSettings, OpenAIChatCompletionsModel, OpenAIResponsesModel
from agents.models.default_models import gpt_5_reasoning_settings_required
from agents.result import RunResultBase

from longrun.execution.agreement import check_choice, is_there
from longrun.execution.budget import Budget
from longrun.execution.output import RequestedOutput, checked
from longrun.execution.replay import sdk
from longrun.parameters import PARAMETERS

_ENCRYPTED: Final = "reasoning.encrypted_content"


class Demands:
    """Those of one request.

    Args:
        parameters: of the request, as a run acts upon them.
        budget: what is left of what they let the run spend.
    """

    def __init__(self, parameters: Mapping[str, Any], budget: Budget) -> None:
        self._given = parameters
        self._budget = budget
        self._text: Mapping[str, Any] = parameters.get("text") or {}
        self._format: dict[str, Any] = self._text.get("format") or {}
        self._output = None
        if self._format.get("type") == "json_schema":
            self._output = RequestedOutput(self._format)

    def of_turn(
        self, model: Model, asked: Mapping[str, Any], turn: str, *, own: bool
    ) -> dict[str, Any]:
        """What is to be asked otherwise, by the names of `Model.stream_response`.

        Args:
            asked: what the SDK asks.
            turn: the how-manieth, from "0".
            own: it is the run's, and not that of a run inside it, which is its tool's affair.

        Raises:
            BudgetSpent: nothing may be asked any more.
            BadRequest: the tool that the request chooses is not there.
        """
        self._budget.check()
        if not own or not self._given:
            return {}
        first = turn == "0"
        families = families_of(model)
        changed: dict[str, Any] = {}
        settings: ModelSettings = asked["model_settings"]
        extra = {
            each.name: self._given[each.name]
            for each in PARAMETERS
            if each.argument and each.models in families and each.name in self._given
        }
        tokens = self._budget.output_tokens(settings.max_tokens)
        changes: dict[str, Any] = {} if tokens == settings.max_tokens else {"max_tokens": tokens}
        if self._output is not None and asked.get("output_schema") is None:
            changed["output_schema"] = self._output
        elif self._format.get("type") == "json_object" and asked.get("output_schema") is None:
            changes |= self._as_json(families, settings, extra)
        if "OpenAI" in families and self._given.get("store") is False:
            changes["store"] = False
        if "Responses" in families:
            changes |= self._included(model, settings)
            if self._given.get("context_management"):
                changes["context_management"] = self._given["context_management"]
            if self._budget.tool_calls is not None:
                extra["max_tool_calls"] = self._budget.tool_calls
        changes |= self._chosen(families, asked, settings, first, extra, changed)
        if extra:
            changes["extra_args"] = {**(settings.extra_args or {}), **extra}
        if changes:
            changed["model_settings"] = dataclasses.replace(settings, **changes)
        return changed

    def _as_json(
        self, families: frozenset[str], settings: ModelSettings, extra: dict[str, Any]
    ) -> dict[str, Any]:
        """JSON of any shape, for which the SDK has no output type."""
        if "Responses" in families:
            verbosity = {"verbosity": settings.verbosity} if settings.verbosity else {}
            extra["text"] = {"format": {"type": "json_object"}, **verbosity}
            return {"verbosity": None}
        if "Chat Completions" in families:
            extra["response_format"] = {"type": "json_object"}
        return {}

    def _included(self, model: Model, settings: ModelSettings) -> dict[str, Any]:
        """`include`, beside what the agent asks for. A provider that stores nothing wants the
        reasoning of earlier turns back, which so has to come encrypted."""
        wanted = {*(settings.response_include or ()), *self._given.get("include", ())}
        if self._given.get("store") is False and _reasons(model, settings):
            wanted.add(_ENCRYPTED)
        return {"response_include": sorted(wanted)} if wanted else {}

    def _chosen(
        self,
        families: frozenset[str],
        asked: Mapping[str, Any],
        settings: ModelSettings,
        first: bool,
        extra: dict[str, Any],
        changed: dict[str, Any],
    ) -> dict[str, Any]:
        """The choices of tools that the SDK has no words for."""
        choice = self._given.get("tool_choice")
        if not isinstance(choice, dict):
            return {}
        tools, handoffs = asked.get("tools") or (), asked.get("handoffs") or ()
        names = {each.tool_name for each in handoffs}
        if first:
            check_choice(choice, tools, names)
        if choice.get("type") == "function":
            # Of an agent that was handed to, which has no such tool, it is no wish.
            return {} if is_there(choice, tools, names) else {"tool_choice": None}
        if choice.get("type") != "allowed_tools":
            if first and "Responses" in families:
                extra["tool_choice"] = choice
                return {"tool_choice": None}
            return {}
        if "Responses" in families:
            # Required until a tool was called: the SDK takes its own setting back then.
            mode = "required" if settings.tool_choice == "required" else "auto"
            allowed = [tool for tool in choice["tools"] if is_there(tool, tools, names)]
            if not allowed:
                return {"tool_choice": "none"}
            extra["tool_choice"] = {**choice, "tools": allowed, "mode": mode}
            return {"tool_choice": None}
        named = {tool.get("name") or tool["type"] for tool in choice["tools"]}
        changed["tools"] = [tool for tool in tools if tool.name in named]
        changed["handoffs"] = [each for each in handoffs if each.tool_name in named]
        if not changed["tools"] and not changed["handoffs"]:
            return {"tool_choice": None}
        return {}

    def check_output(self, result: RunResultBase) -> None:
        """Whether the last text of a run is what the request asks for. Not where the model ended
        with something else: a call that the client answers, say.

        Raises:
            OutputMismatch: it is not.
        """
        self.check_text(sdk.last_text(result))

    def check_text(self, text: str | None) -> None:
        """The same of a last text, if there is one.

        Raises:
            OutputMismatch: it is not what the request asks for.
        """
        if self._format and text is not None:
            checked(text, self._format)


def families_of(model: Model) -> frozenset[str]:
    """Which of `parameters.Models` a model is of."""
    if isinstance(model, OpenAIResponsesModel):
        return frozenset({"Responses", "OpenAI"})
    if isinstance(model, OpenAIChatCompletionsModel):
        openai = {"OpenAI"} if sdk.is_at_openai(model) else set()
        return frozenset({"Chat Completions", *openai})
    return frozenset()


def _reasons(model: Model, settings: ModelSettings) -> bool:
    """Whether a model reasons, as far as is known: others refuse to tell it encrypted."""
    name = getattr(model, "model", "")
    return settings.reasoning is not None or (
        isinstance(name, str) and gpt_5_reasoning_settings_required(name)
    )
