"""What a request can set: what reaches which model's provider, what ends a run, what an operator
forbids or bounds, and what tools know of the request."""

import asyncio
import json
import signal
from collections.abc import AsyncIterator, Iterator
from typing import Any

import openai
import pytest
from openai import AsyncOpenAI

from longrun.parameters import PARAMETERS
from tests import servers
from tests.postgres import Server
from tests.provider import agents as served
from tests.provider.agents import ADD, LOOK, script, turns_of
from tests.provider.server import Provider
from tests.reading import create, finished
from tests.servers import Replica

KNOW = {"call": "know"}

BOUNDED = {
    "LONGRUN_FORBIDDEN_PARAMETERS": "service_tier text.verbosity",
    "LONGRUN_PARAMETER_LIMITS": "temperature=1 max_tool_calls=2 longrun.timeout=600",
    "LONGRUN_FORWARD_HEADERS": "X-Tenant",
}


@pytest.fixture(scope="module")
def environment(running_provider: Provider) -> dict[str, str]:
    return served.environment(running_provider)


@pytest.fixture(scope="module")
def replica(database: Server, environment: dict[str, str]) -> Iterator[Replica]:
    with servers.replicas(
        1, database.url, schema="parameters", agents=served.AGENTS, environment=environment
    ) as started:
        yield started[0]


@pytest.fixture(scope="module")
def bounded(database: Server, environment: dict[str, str]) -> Iterator[Replica]:
    """One whose operator forbids and bounds some of them."""
    with servers.replicas(
        1,
        database.url,
        schema="bounded",
        agents=served.AGENTS,
        environment={**environment, **BOUNDED},
    ) as started:
        yield started[0]


@pytest.fixture
async def client(replica: Replica, provider: Provider) -> AsyncIterator[AsyncOpenAI]:
    async with AsyncOpenAI(base_url=replica.base_url, api_key="none", max_retries=0) as client:
        yield client


SAMPLES: dict[str, tuple[Any, str, Any]] = {
    "instructions": ("Be brief.", "instructions", None),
    "temperature": (0.5, "temperature", 0.5),
    "top_p": (0.5, "top_p", 0.5),
    "presence_penalty": (0.5, "presence_penalty", 0.5),
    "frequency_penalty": (0.5, "frequency_penalty", 0.5),
    "top_logprobs": (2, "top_logprobs", 2),
    "max_output_tokens": (90, "max_output_tokens max_tokens", 90),
    "max_tool_calls": (3, "max_tool_calls", 3),
    "parallel_tool_calls": (False, "parallel_tool_calls", False),
    "reasoning": ({"effort": "low"}, "reasoning.effort reasoning_effort", "low"),
    "text.format": (
        {"type": "json_object"},
        "text.format.type response_format.type",
        "json_object",
    ),
    "text.verbosity": ("low", "text.verbosity verbosity", "low"),
    "tools": ([{"type": "function", "name": "mine", "parameters": {}}], "tools", None),
    "tool_choice": ("required", "tool_choice", "required"),
    "context_management": (
        [{"type": "compaction", "compact_threshold": 50_000}],
        "context_management",
        [{"type": "compaction", "compact_threshold": 50_000}],
    ),
    "truncation": ("auto", "truncation", "auto"),
    "include": (["file_search_call.results"], "include", ["file_search_call.results"]),
    "store": (False, "store", False),
    "user": ("me", "user", "me"),
    "safety_identifier": ("me", "safety_identifier", "me"),
    "prompt_cache_key": ("key", "prompt_cache_key", "key"),
    "prompt_cache_retention": ("24h", "prompt_cache_retention", "24h"),
    "service_tier": ("flex", "service_tier", "flex"),
}
"""Of each parameter that a model gets: what a request says, where the provider finds it, and what
it finds there; None is not looked at."""


def test_each_parameter_that_a_model_gets_has_a_sample() -> None:
    assert set(SAMPLES) == {each.name for each in PARAMETERS if each.models}


def found(body: dict[str, Any], places: str) -> Any:
    for place in places.split():
        value: Any = body
        for name in place.split("."):
            value = value.get(name) if isinstance(value, dict) else None
        if value is not None:
            return value
    return None


@pytest.mark.parametrize("family", ["responses", "chat"])
@pytest.mark.parametrize("name", list(SAMPLES))
async def test_the_table_says_what_reaches_the_provider(
    replica: Replica, provider: Provider, name: str, family: str
) -> None:
    given, places, expected = SAMPLES[name]
    whole, _, part = name.partition(".")
    fields = {whole: {part: given} if part else given}
    said = json.dumps({"turns": [[LOOK]], "then": "{}"})
    response = await create(replica, said, model=f"{family}-tools", **fields)
    assert response["status"] == "completed", response["error"]
    body = provider.asked[0].body
    models = next(each.models for each in PARAMETERS if each.name == name)
    if name == "instructions":
        assert "Be brief." in json.dumps(body)
    elif name == "tools":
        assert "mine" in json.dumps(body["tools"])
    else:
        here = {"responses": ("all", "Responses", "OpenAI"), "chat": ("all", "Chat Completions")}
        assert found(body, places) == (expected if models in here[family] else None)


ALLOWED: dict[str, Any] = {
    "type": "allowed_tools",
    "mode": "required",
    "tools": [{"type": "function", "name": "look"}],
}


class TestToolChoice:
    async def test_allowed_tools_reach_a_model_that_has_them(
        self, replica: Replica, provider: Provider
    ) -> None:
        said = script([LOOK])
        response = await create(replica, said, model="responses-tools", tool_choice=ALLOWED)
        assert response["status"] == "completed"
        assert response["tool_choice"] == ALLOWED
        first, second = (asked.body for asked in provider.asked)
        assert first["tool_choice"] == ALLOWED
        # Else the model could never end.
        assert second["tool_choice"] == {**ALLOWED, "mode": "auto"}
        assert len(first["tools"]) == 3

    async def test_others_are_given_no_other_tools(
        self, replica: Replica, provider: Provider
    ) -> None:
        said = script([LOOK])
        response = await create(replica, said, model="chat-tools", tool_choice=ALLOWED)
        assert response["status"] == "completed"
        first, second = (asked.body for asked in provider.asked)
        assert [tool["function"]["name"] for tool in first["tools"]] == ["look"]
        assert (first["tool_choice"], second.get("tool_choice")) == ("required", None)

    async def test_a_hosted_tool_for_the_first_turn(
        self, replica: Replica, provider: Provider
    ) -> None:
        choice = {"type": "web_search"}
        said = script([LOOK])
        await create(replica, said, model="responses-hosted", tool_choice=choice)
        assert [asked.body.get("tool_choice") for asked in provider.asked] == [choice, None]

    @pytest.mark.parametrize("family", ["responses", "chat"])
    @pytest.mark.parametrize("kind", ["function", "allowed_tools"])
    async def test_an_agent_that_is_handed_to_need_not_have_the_tool(
        self, replica: Replica, provider: Provider, family: str, kind: str
    ) -> None:
        choice: Any = {"type": "function", "name": f"transfer_to_{family}_tools"}
        if kind == "allowed_tools":
            choice = {"type": kind, "mode": "auto", "tools": [choice]}
        said = json.dumps({"turns": turns_of(f"{family}-handoff")[:1]})
        response = await create(replica, said, model=f"{family}-handoff", tool_choice=choice)
        assert response["status"] == "completed", response["error"]
        assert provider.refused == []
        first, second = (asked.body for asked in provider.asked)
        assert "transfer_to" in json.dumps(first["tools"])
        assert "transfer_to" not in json.dumps([second.get("tools"), second.get("tool_choice")])

    @pytest.mark.parametrize(
        ("choice", "param"),
        [
            ({**ALLOWED, "mode": "never"}, "tool_choice.mode"),
            ({**ALLOWED, "tools": ["look"]}, "tool_choice.tools"),
            ({**ALLOWED, "tools": [{"type": "function"}]}, "tool_choice.tools[0].name"),
            ({**ALLOWED, "tools": [{"type": "web_search"}]}, "tool_choice.tools[0]"),
            ("look", "tool_choice"),
            ({"name": "look"}, "tool_choice.type"),
            ({"type": "function", "function": {"name": "look"}}, "tool_choice.name"),
            ({"type": "function", "name": "lok"}, "tool_choice"),
            ({"type": "mcp"}, "tool_choice.server_label"),
        ],
    )
    async def test_wrong_ones(self, client: AsyncOpenAI, choice: Any, param: str) -> None:
        with pytest.raises(openai.BadRequestError) as refused:
            await client.responses.create(model="responses-tools", input="hi", tool_choice=choice)
        assert refused.value.param == param


async def test_what_is_not_stored_here_is_not_at_the_provider_and_reasoning_comes_back(
    replica: Replica, provider: Provider
) -> None:
    """The provider refuses reasoning that it did not store, unless it comes encrypted."""
    said = script([{"reasoning": "hm"}, LOOK], [{"reasoning": "so"}, {"text": "there"}])
    response = await create(replica, said, model="responses-reasoning", store=False)
    assert provider.refused == []
    assert response["status"] == "completed", response["error"]
    assert [asked.body["store"] for asked in provider.asked] == [False, False]


class TestBudgets:
    """The provider's model gives five tokens an item, and takes ten for each that it is given."""

    TURNS = ([LOOK, ADD], [LOOK])

    @pytest.mark.parametrize(
        ("fields", "reason", "turns"),
        [
            ({"max_tool_calls": 1}, "max_tool_calls", 1),
            ({"max_tool_calls": 2}, "max_tool_calls", 2),
            ({"max_tool_calls": 3}, None, 3),
            ({"max_output_tokens": 20}, "max_output_tokens", 1),
            ({"max_output_tokens": 26}, "max_output_tokens", 2),
            ({"max_output_tokens": 31}, None, 3),
            ({"longrun": {"max_total_tokens": 20}}, "max_total_tokens", 1),
            ({"longrun": {"max_total_tokens": 21}}, "max_total_tokens", 2),
            ({"longrun": {"max_total_tokens": 1000}}, None, 3),
        ],
    )
    async def test_over_all_turns(
        self,
        replica: Replica,
        provider: Provider,
        fields: dict[str, Any],
        reason: str | None,
        turns: int,
    ) -> None:
        response = await create(replica, script(*self.TURNS), model="responses-tools", **fields)
        assert response["status"] == ("incomplete" if reason else "completed"), response["error"]
        assert response["incomplete_details"] == ({"reason": reason} if reason else None)
        assert len(provider.asked) == turns
        # What the last turn called was not executed.
        executed = [item for item in response["output"] if item.get("output") is not None]
        assert len(executed) == {1: 0, 2: 2, 3: 3}[turns]

    async def test_each_turn_is_asked_for_what_is_left(
        self, replica: Replica, provider: Provider
    ) -> None:
        await create(
            replica,
            script(*self.TURNS),
            model="responses-tools",
            max_output_tokens=40,
            max_tool_calls=4,
        )
        asked = [
            (each.body["max_output_tokens"], each.body["max_tool_calls"]) for each in provider.asked
        ]
        assert asked == [(40, 4), (30, 2), (25, 1)]

    async def test_a_client_s_own_tools_do_not_count(
        self, replica: Replica, provider: Provider
    ) -> None:
        mine = {"type": "function", "name": "mine", "parameters": {}}
        response = await create(
            replica,
            script([{"call": "mine"}, {"call": "mine"}]),
            model="responses-tools",
            tools=[mine],
            max_tool_calls=1,
        )
        assert response["status"] == "completed"

    async def test_a_time(self, replica: Replica, provider: Provider) -> None:
        said = script({"items": [{"text": "late"}], "gate": "never"})
        response = await create(replica, said, model="responses-plain", longrun={"timeout": 0.5})
        provider.gates.open("never")
        assert response["status"] == "incomplete"
        assert response["incomplete_details"] == {"reason": "timeout"}

    async def test_clients_take_the_reasons(self, client: AsyncOpenAI) -> None:
        async with client.responses.stream(
            model="responses-tools",
            input=script(*self.TURNS),
            extra_body={"longrun": {"max_total_tokens": 1}},
        ) as stream:
            types = [event.type async for event in stream]
        assert types[-1] == "response.incomplete"

    @pytest.mark.parametrize(
        ("given", "param"),
        [
            ({"timeout": 0}, "longrun.timeout"),
            ({"timeout": "1"}, "longrun.timeout"),
            ({"max_total_tokens": 1.5}, "longrun.max_total_tokens"),
            ({"max_tokens": 1}, "longrun.max_tokens"),
            ([], "longrun"),
        ],
    )
    async def test_wrong_ones(self, client: AsyncOpenAI, given: Any, param: str) -> None:
        with pytest.raises(openai.BadRequestError) as refused:
            await client.responses.create(input="hi", extra_body={"longrun": given})
        assert refused.value.param == param


class TestOperators:
    @pytest.mark.parametrize(
        ("fields", "param", "said"),
        [
            ({"service_tier": "flex"}, "service_tier", "service_tier is not allowed here."),
            (
                {"text": {"verbosity": "low"}},
                "text.verbosity",
                "text.verbosity is not allowed here.",
            ),
            ({"temperature": 1.5}, "temperature", "temperature may be at most 1 here."),
            ({"max_tool_calls": 3}, "max_tool_calls", "max_tool_calls may be at most 2 here."),
            (
                {"longrun": {"timeout": 601}},
                "longrun.timeout",
                "longrun.timeout may be at most 600 here.",
            ),
        ],
    )
    async def test_forbid_and_bound(
        self, bounded: Replica, fields: dict[str, Any], param: str, said: str
    ) -> None:
        async with AsyncOpenAI(base_url=bounded.base_url, api_key="n", max_retries=0) as client:
            with pytest.raises(openai.BadRequestError) as refused:
                await client.responses.create(input="hi", extra_body=fields)
        assert refused.value.param == param
        assert refused.value.body["message"] == said  # type: ignore[index]

    async def test_what_is_allowed_passes(self, bounded: Replica, provider: Provider) -> None:
        fields = {"temperature": 1, "max_tool_calls": 2, "text": {"format": {"type": "text"}}}
        response = await create(bounded, "hi", model="responses-plain", **fields)
        assert response["status"] == "completed"

    async def test_a_budget_s_bound_holds_where_none_is_given(
        self, bounded: Replica, provider: Provider
    ) -> None:
        response = await create(bounded, script([LOOK, LOOK, LOOK]), model="responses-tools")
        assert response["incomplete_details"] == {"reason": "max_tool_calls"}
        assert response["max_tool_calls"] == 2
        assert response["longrun"] == {"timeout": 600}


class TestCurrent:
    async def test_tools_know_the_request(self, bounded: Replica, provider: Provider) -> None:
        async with AsyncOpenAI(base_url=bounded.base_url, api_key="n", max_retries=0) as client:
            response = await client.responses.create(
                model="responses-knowing",
                input=script([KNOW]),
                metadata={"ticket": "7"},
                user="me",
                extra_headers={"X-Tenant": "acme", "X-Other": "no"},
            )
        (known,) = outputs(response.to_dict())
        assert known == {
            "attempt": 1,
            "metadata": {"ticket": "7"},
            "user": "me",
            "headers": {"x-tenant": "acme"},
        }
        assert "acme" not in json.dumps(response.to_dict()["metadata"])

    async def test_without_any(self, replica: Replica, provider: Provider) -> None:
        response = await create(replica, script([KNOW]), model="responses-knowing")
        (known,) = outputs(response)
        assert known == {"attempt": 1, "metadata": {}, "user": None, "headers": {}}


def outputs(response: dict[str, Any]) -> list[Any]:
    """What its calls of `know` gave."""
    given = [item["output"] for item in response["output"] if item.get("output")]
    return [json.loads(each) for each in given if each.startswith("{")]


async def test_all_of_it_holds_after_a_takeover(
    database: Server, environment: dict[str, str], provider: Provider
) -> None:
    """What tools know, what the model is told, and what was spent."""
    gate = "parameters taken over"
    turns = ([KNOW, LOOK], {"items": [KNOW], "gate": gate}, [KNOW])
    with servers.replicas(
        2,
        database.url,
        schema="parameters_over",
        agents=served.AGENTS,
        environment={**environment, **BOUNDED, "LONGRUN_PARAMETER_LIMITS": ""},
    ) as (victim, successor):
        async with AsyncOpenAI(base_url=victim.base_url, api_key="n", max_retries=0) as client:
            begun = await client.responses.create(
                model="responses-knowing",
                input=script(*turns),
                background=True,
                metadata={"ticket": "7"},
                user="me",
                max_tool_calls=3,
                max_output_tokens=100,
                extra_headers={"X-Tenant": "acme"},
            )
        await asyncio.to_thread(provider.gates.reached, gate)
        victim.signal(signal.SIGKILL)
        provider.gates.open(gate)
        response = await finished(successor, begun.id)
    assert response["incomplete_details"] == {"reason": "max_tool_calls"}
    first, second = outputs(response)
    assert {**second, "attempt": 1} == first
    assert second["attempt"] == 2
    assert [asked.body["max_output_tokens"] for asked in provider.asked] == [100, 90, 90, 85]
    assert [asked.body["user"] for asked in provider.asked] == ["me"] * 4
