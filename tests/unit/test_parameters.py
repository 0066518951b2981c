"""What of a request reaches the agents of its run."""

from typing import Any

import pytest
from agents import Agent, FunctionTool, ModelSettings, function_tool

from longrun.execution.parameters import input_items, model_settings, with_client_tools
from tests.unit.streams import request


def settings_of(**body: Any) -> ModelSettings | None:
    return model_settings(request(**body).parameters)


class TestModelSettings:
    def test_none_given_none_overridden(self) -> None:
        assert settings_of() is None
        assert settings_of(tool_choice="auto", metadata={"a": "b"}, user="u") is None

    def test_numbers(self) -> None:
        given = {
            "temperature": 0.0,
            "top_p": 0.5,
            "presence_penalty": -1.0,
            "frequency_penalty": 0.0,
            "max_output_tokens": 9,
            "parallel_tool_calls": False,
            "truncation": "auto",
        }
        made = settings_of(**given)
        assert made is not None
        assert (made.temperature, made.top_p, made.max_tokens) == (0.0, 0.5, 9)
        assert (made.presence_penalty, made.frequency_penalty) == (-1.0, 0.0)
        assert (made.parallel_tool_calls, made.truncation) == (False, "auto")

    def test_only_what_was_given_overrides_the_agent_s(self) -> None:
        agent = ModelSettings(temperature=0.9, top_p=0.1, max_tokens=5)
        made = agent.resolve(settings_of(temperature=0))
        assert (made.temperature, made.top_p, made.max_tokens) == (0, 0.1, 5)

    @pytest.mark.parametrize("effort", ["low", "of a model to come"])
    def test_reasoning(self, effort: str) -> None:
        made = settings_of(reasoning={"effort": effort, "summary": "auto"})
        assert made is not None
        assert made.reasoning is not None
        assert (made.reasoning.effort, made.reasoning.summary) == (effort, "auto")

    def test_names_that_are_arguments_of_the_types(self) -> None:
        """`Reasoning.construct(_fields_set=1)` raised within the run."""
        for name in ("_fields_set", "cls", "self", "values", "__class__", "_x"):
            made = settings_of(reasoning={name: 1, "effort": "low"})
            assert made is not None
            assert made.reasoning is not None
            assert made.reasoning.effort == "low"

    @pytest.mark.parametrize(
        ("choice", "expected"),
        [
            ("required", "required"),
            ("none", "none"),
            ({"type": "function", "name": "search"}, "search"),
            ({"type": "web_search_preview"}, None),
        ],
    )
    def test_tool_choice(self, choice: Any, expected: str | None) -> None:
        made = settings_of(tool_choice=choice)
        assert (made and made.tool_choice) == expected


class TestInput:
    def test_is_that_of_the_request(self) -> None:
        assert input_items(request(input="hi")) == [{"role": "user", "content": "hi"}]

    def test_after_the_instructions(self) -> None:
        asked = request(input="hi", instructions="Be brief.")
        assert input_items(asked) == [
            {"role": "developer", "content": "Be brief."},
            {"role": "user", "content": "hi"},
        ]
        assert len(asked.input) == 1, "the request's own input is not changed"


@function_tool
def ours() -> str:
    """Ours."""
    return ""


class TestClientTools:
    def test_without_any_the_agent_is_itself(self) -> None:
        agent: Agent[Any] = Agent(name="agent", tools=[ours])
        for body in ({}, {"tools": []}, {"tools": [{"type": "web_search"}]}):
            assert with_client_tools(agent, request(**body).parameters) is agent

    async def test_stand_beside_the_agent_s_own(self) -> None:
        agent: Agent[Any] = Agent(name="agent", tools=[ours], instructions="Be kind.")
        schema = {"type": "object", "properties": {"city": {"type": "string"}}}
        theirs = {"type": "function", "name": "theirs", "parameters": schema, "description": "T."}
        asked = request(tools=[theirs, {"type": "function", "name": "bare"}])
        extended = with_client_tools(agent, asked.parameters)
        assert [tool.name for tool in extended.tools] == ["ours", "theirs", "bare"]
        assert [tool.name for tool in agent.tools] == ["ours"], "the user's agent is not changed"
        assert extended.instructions == "Be kind."
        _, made, bare = extended.tools
        assert isinstance(made, FunctionTool)
        assert isinstance(bare, FunctionTool)
        assert (made.params_json_schema, made.description) == (schema, "T.")
        assert made.needs_approval is True
        assert bare.params_json_schema == {"type": "object", "properties": {}}
        with pytest.raises(AssertionError):
            await made.on_invoke_tool(None, "{}")  # type: ignore[arg-type]

    def test_strict_ones(self) -> None:
        tool = {"type": "function", "name": "theirs", "strict": True, "parameters": {}}
        made = with_client_tools(Agent(name="agent"), request(tools=[tool]).parameters).tools[0]
        assert isinstance(made, FunctionTool)
        assert made.strict_json_schema is True
