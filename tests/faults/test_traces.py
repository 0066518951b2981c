"""Traces: one for each response, over attempts and replicas, without a word of what was said."""

import signal
from collections.abc import Iterator
from typing import Final

import pytest
from openai import AsyncOpenAI

from tests import postgres, servers
from tests.collector import Collector, Received, collecting
from tests.faults.ground import Ground, ground
from tests.provider import agents as served
from tests.provider.agents import script, turns_of
from tests.provider.server import Provider
from tests.reading import create, eventually

CLIENT_TRACE: Final = "4bf92f3577b34da6a3ce929d0e0e4736"
CLIENT_SPAN: Final = "00f067aa0ba902b7"
CANARY: Final = "canary7e21"


@pytest.fixture
def collector() -> Iterator[Collector]:
    with collecting() as made:
        yield made


@pytest.fixture
def found(database: postgres.Server, schema: str, collector: Collector) -> Iterator[Ground]:
    with ground(database, schema, **collector.environment()) as made:
        yield made


def root_of(spans: list[Received]) -> Received:
    [root] = [span for span in spans if span.name.startswith("invoke_agent") and is_root(span)]
    return root


def is_root(span: Received) -> bool:
    return "longrun.status" in span.attributes


async def test_one_trace_over_a_takeover(found: Ground, collector: Collector) -> None:
    one, _two = found.start(2)
    (id_,) = await found.submit(one, gates=("in b",), canary=CANARY, delta=CANARY)
    await found.reach([id_], "in b")
    recorded = "SELECT count(*) = 1 FROM steps WHERE response_id = $1 AND kind = 'tool'"
    await eventually(lambda: found.value(recorded, id_))
    one.signal(signal.SIGKILL)
    await found.reach([id_], "in b", attempt=2)
    found.open("in b")
    await found.all_finished([id_])

    def is_whole() -> bool:
        return any(is_root(span) for span in collector.spans)

    await eventually(is_whole)
    (root,) = [span for span in collector.spans if is_root(span)]
    spans = collector.of(root.trace_id)
    assert root.parent_id == ""
    assert root.attributes["gen_ai.response.id"] == id_
    assert root.attributes["longrun.status"] == "completed"
    assert root.attributes["longrun.attempts"] == 2
    (attempt,) = [span for span in spans if span.attributes.get("longrun.attempt") == 2]
    assert attempt.parent_id == root.span_id
    assert attempt.attributes["longrun.takeover"] is True
    assert root.began <= attempt.began < attempt.ended <= root.ended
    tools = [span for span in spans if span.attributes.get("gen_ai.tool.name") == "work"]
    again = [span for span in tools if span.replica == attempt.replica]
    assert len(again) == 1, "what the first attempt has done is not done again, nor traced"
    by_id = {span.span_id: span for span in spans}
    above = again[0]
    while above.span_id != root.span_id:
        above = by_id[above.parent_id]
    assert CANARY.encode() not in collector.raw


async def test_agents_models_and_tools(
    database: postgres.Server, schema: str, collector: Collector, provider: Provider
) -> None:
    environment = {**served.environment(provider), **collector.environment()}
    with servers.replicas(
        1, database.url, schema=schema, agents=served.AGENTS, environment=environment
    ) as (replica,):
        async with AsyncOpenAI(base_url=replica.base_url, api_key="none") as client:
            made = await client.responses.create(
                model="responses-handoff",
                input=script(*turns_of("responses-handoff")),
                instructions=CANARY,
                extra_headers={"traceparent": f"00-{CLIENT_TRACE}-{CLIENT_SPAN}-01"},
            )
            unsampled = await client.responses.create(
                model="responses-plain",
                input=script(*turns_of("responses-plain")),
                extra_headers={"traceparent": f"00-{'a' * 32}-{'b' * 16}-00"},
            )
            odd = await client.responses.create(
                model="responses-plain",
                input=script(*turns_of("responses-plain")),
                store=False,
                extra_headers={"traceparent": "00-nonsense"},
            )
            compacted = await client.responses.compact(
                model="responses-plain",
                input=CANARY,
                extra_headers={"traceparent": f"00-{CLIENT_TRACE}-{CLIENT_SPAN}-01"},
            )
            assert unsampled.status == odd.status == "completed"
        # What has not been sent yet is sent when it stops.
        replica.signal(signal.SIGTERM)
        assert replica.wait() == 0
    spans = collector.of(CLIENT_TRACE)
    root = root_of(spans)
    [compaction] = [span for span in spans if span.name == "compact responses-plain"]
    assert compaction.parent_id == root.parent_id == CLIENT_SPAN
    assert compaction.attributes["gen_ai.usage.input_tokens"] == compacted.usage.input_tokens
    assert not compaction.failed
    assert made.usage is not None
    assert root.attributes["gen_ai.usage.output_tokens"] == made.usage.output_tokens
    chats = [span for span in spans if span.attributes.get("gen_ai.operation.name") == "chat"]
    assert len(chats) == 3
    told = sum(span.attributes["gen_ai.usage.input_tokens"] for span in chats)
    assert told == made.usage.input_tokens
    assert all(span.attributes["gen_ai.request.model"] for span in chats)
    assert any(span.name.startswith("execute_tool ") for span in spans)
    assert any("longrun.handoff.to" in span.attributes for span in spans)
    assert not [span for span in collector.spans if span.trace_id == "a" * 32], "not sampled"
    names = {s.name for s in collector.spans if s.attributes.get("longrun.response.id") == odd.id}
    assert names == {"invoke_agent responses-plain", "attempt 1"}, "nothing from within"
    assert not any(
        text.encode() in collector.raw for text in (CANARY, made.output_text, "traceback")
    )


async def test_a_collector_that_is_away_costs_no_run(
    database: postgres.Server, schema: str
) -> None:
    environment = {
        "LONGRUN_OTEL": "true",
        "OTEL_EXPORTER_OTLP_ENDPOINT": "http://127.0.0.1:1",
        "OTEL_BSP_SCHEDULE_DELAY": "50",
        "LONGRUN_DRAIN_SECONDS": "1",
    }
    with servers.replicas(1, database.url, schema=schema, environment=environment) as (replica,):
        response = await create(replica, "x")
        assert response["status"] == "completed"
        replica.signal(signal.SIGTERM)
        assert replica.wait(20) == 0
