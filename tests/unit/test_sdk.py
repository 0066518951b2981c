"""The Agents SDK's names that longrun takes hold of: an SDK without one of them is refused."""

import re
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from agents import Agent, OpenAIChatCompletionsModel, OpenAIResponsesModel
from agents.models.chatcmpl_converter import Converter
from openai import AsyncOpenAI

import longrun
from longrun.errors import ConfigurationError
from longrun.execution.replay import sdk

ORIGINAL_RANK = getattr(sdk.owner_of(sdk.AGENT_RANK), sdk.AGENT_RANK.name)


def test_the_installed_sdk_has_them_all() -> None:
    sdk.check()


@pytest.mark.parametrize("name", sdk.NAMES, ids=str)
def test_each_that_is_missing_is_named(name: sdk.Name, monkeypatch: pytest.MonkeyPatch) -> None:
    owner = sdk.owner_of(name)
    if name.name in getattr(owner, "__dataclass_fields__", ()):
        monkeypatch.delitem(owner.__dataclass_fields__, name.name)
    if hasattr(owner, name.name):
        monkeypatch.delattr(owner, name.name)
    with pytest.raises(ConfigurationError) as refused:
        sdk.check()
    assert str(name) in refused.value.message
    assert "openai-agents<0.25,>=0.24" in refused.value.message


@pytest.mark.parametrize("name", [name for name in sdk.NAMES if name.parameters], ids=str)
def test_each_whose_parameters_changed_is_named(
    name: sdk.Name, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sdk.owner_of(name), name.name, lambda: None)
    with pytest.raises(ConfigurationError, match=re.escape(str(name))):
        sdk.check()


def test_a_whole_module_that_is_gone_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "agents.run_internal.tool_actions", None)
    with pytest.raises(ConfigurationError, match="ShellAction"):
        sdk.check()


def test_no_other_module_knows_a_private_name() -> None:
    """But for the method that a model in place of another has to have."""
    private = {name.name for name in sdk.NAMES if name.name.startswith("_")}
    private |= {"run_internal", "is_sdk_generated_error", "tool_output_committer", "run_loop_task"}
    here = Path(longrun.__file__).parent
    for path in here.rglob("*.py"):
        if path.parent.name == "sdk":
            continue
        found = {word for word in private if re.search(rf"\b{word}\b", path.read_text())}
        assert found <= ({"_cleanup_on_run_end"} if path.name == "taps.py" else set()), path


class TestOrigins:
    """What tells whether what one model gave may go to another as it is."""

    def test_the_api_and_where_it_is(self) -> None:
        client = AsyncOpenAI(base_url="https://gateway.example:8443/openai/v1/", api_key="k")
        where = "gateway.example:8443/openai/v1"
        assert str(sdk.origin_of(OpenAIResponsesModel("gpt", client))) == f"responses {where}"
        assert str(sdk.origin_of(OpenAIChatCompletionsModel("gpt", client))) == f"chat {where}"

    def test_the_provider_that_litellm_is_to_ask(self) -> None:
        """`LitellmModel` is not installed: it is told by the converter that its module knows."""

        class Adapter:
            base_url = None
            Converter = Converter

            def __init__(self, model: str) -> None:
                self.model = model

        one, two, other = map(
            sdk.origin_of, map(Adapter, ("gemini/flash", "gemini/pro", "anthropic/opus"))
        )
        assert one.api == "chat"
        assert one == two != other

    def test_a_model_that_asks_another_one(self) -> None:
        client = AsyncOpenAI(base_url="https://a.example", api_key="k")
        wrapper = SimpleNamespace(inner=OpenAIChatCompletionsModel("gpt", client))
        assert sdk.origin_of(wrapper) == ("chat", "a.example")

    def test_a_model_of_the_users_own(self) -> None:
        assert sdk.origin_of(object()).api == "other"


@pytest.mark.parametrize("count", [1, 4])
def test_agents_of_one_name_keep_their_order_and_others_need_none(
    monkeypatch: pytest.MonkeyPatch, count: int
) -> None:
    names = sdk.owner_of(sdk.AGENT_RANK)
    agents = [Agent(name="same", instructions=text) for text in ("c", "a", "d", "b")][:count]
    root = Agent(name="root", handoffs=[*agents, Agent(name="other")])

    def identities() -> dict[str, Any]:
        found: dict[str, Any] = names._build_agent_identity_map(root)
        return found

    monkeypatch.setattr(names, sdk.AGENT_RANK.name, ORIGINAL_RANK)
    before, ambiguous = identities(), names._get_ambiguous_agent_ids(root)
    assert [before[name].instructions for name in before if "same" in name] == sorted(
        agent.instructions for agent in agents
    )
    made: list[Agent[Any]] = []

    def counted(agent: Agent[Any], **more: Any) -> Any:
        made.append(agent)
        return ORIGINAL_RANK(agent, **more)

    monkeypatch.setattr(names, sdk.AGENT_RANK.name, sdk.ranked_when_asked(counted))
    assert identities() == before
    assert sorted(map(id, made)) == (sorted(map(id, agents)) if count > 1 else [])
    assert names._get_ambiguous_agent_ids(root) == ambiguous
