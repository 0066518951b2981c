"""What operators and clients ask of the service itself: models, health, metrics."""

import json
import re

import httpx2
import openai
import pytest
from openai import AsyncOpenAI
from prometheus_client.parser import text_string_to_metric_families

from tests import servers
from tests.postgres import Server
from tests.reading import (
    Wire,
    create,
    delete,
    eventually,
    in_background,
    metric,
    script,
    stream_url,
)
from tests.servers import Replica


class TestModels:
    async def test_they_are_the_agents(self, clients: list[AsyncOpenAI]) -> None:
        for client in clients:
            models = (await client.models.list()).data
            assert [model.id for model in models] == ["scripted", "chain"]
            assert {model.object for model in models} == {"model"}
            assert all(model.created > 1_700_000_000 for model in models)

    async def test_one_by_its_name(self, clients: list[AsyncOpenAI]) -> None:
        model = await clients[0].models.retrieve("chain")
        assert (model.id, model.object, model.owned_by) == ("chain", "model", "longrun")
        with pytest.raises(openai.NotFoundError) as raised:
            await clients[0].models.retrieve("a/b c")
        assert raised.value.body["code"] == "model_not_found"

    async def test_at_the_root_too(self, two: list[Replica]) -> None:
        at_root = await Wire.fetch(f"{two[0].url}/models")
        assert json.loads(at_root) == json.loads(await Wire.fetch(f"{two[0].base_url}/models"))
        assert json.loads(await Wire.fetch(f"{two[0].url}/models/chain"))["id"] == "chain"


class TestRequestIds:
    @pytest.mark.parametrize(
        "path", ["/models", "/responses/resp_unknown", "/nothing", "/responses"]
    )
    async def test_every_answer_has_one(self, two: list[Replica], path: str) -> None:
        seen = set()
        for _ in range(2):
            async with await Wire.open(two[0].base_url + path) as wire:
                await wire.rest()
                seen.add(wire.headers["x-request-id"])
        assert len(seen) == 2
        for request_id in seen:
            assert re.fullmatch(r"req_[0-9a-f]{32}", request_id)
            await eventually(lambda id_=request_id: id_ in two[0].output())

    async def test_streams_too_and_sdks_read_it(self, clients: list[AsyncOpenAI]) -> None:
        stream = await clients[0].responses.create(model="scripted", input="x", stream=True)
        assert stream.response.headers["x-request-id"].startswith("req_")
        await stream.close()
        response = await clients[0].responses.create(model="scripted", input="x")
        assert response._request_id.startswith("req_")

    @pytest.mark.parametrize(
        ("given", "kept"), [("trace-1.2:3", True), ("a" * 129, False), ("a b", False), ("", False)]
    )
    async def test_one_of_a_proxy_is_kept_if_it_is_plain(
        self, two: list[Replica], given: str, kept: bool
    ) -> None:
        url = two[0].base_url + "/models"
        async with await Wire.open(url, headers={"x-request-id": given}) as wire:
            await wire.rest()
            assert (wire.headers["x-request-id"] == given) == kept


class TestHealth:
    async def test_alive_and_ready(self, two: list[Replica]) -> None:
        for replica in two:
            assert json.loads(await Wire.fetch(f"{replica.url}/healthz")) == {"status": "ok"}
            assert json.loads(await Wire.fetch(f"{replica.url}/readyz")) == {
                "status": "ready",
                "problems": [],
            }

    async def test_metrics_are_prometheus_text_without_tenant_data(
        self, two: list[Replica]
    ) -> None:
        secret = "a-very-secret-input"
        response = await create(two[0], secret, metadata={"whose": secret}, user=secret)
        async with await Wire.open(f"{two[0].url}/metrics") as wire:
            await wire.rest()
        assert wire.headers["content-type"].startswith("text/plain")
        text = wire.body.decode()
        families = {family.name: family for family in text_string_to_metric_families(text)}
        assert families["longrun_events_appended"].samples[0].value >= 5
        finished = families["longrun_runs_finished"].samples
        assert any(
            s.labels == {"agent": "scripted", "status": "completed"} and s.value >= 1
            for s in finished
        )
        assert secret not in text
        assert response["id"] not in text
        assert not re.search(r"(resp|msg|fc)_[0-9a-f]{16}", text)

    async def test_a_run_is_counted_and_timed(self, two: list[Replica]) -> None:
        async def values() -> dict[tuple[str, tuple[tuple[str, str], ...]], float]:
            async with await Wire.open(f"{two[1].url}/metrics") as wire:
                await wire.rest()
            families = text_string_to_metric_families(wire.body.decode())
            samples = (sample for family in families for sample in family.samples)
            return {(s.name, tuple(sorted(s.labels.items()))): s.value for s in samples}

        before = await values()
        turns = [[["echo", {"text": "x"}]]]
        await create(two[1], script(turns=turns, deltas=2))
        of_agent = (("agent", "scripted"),)
        completed = (*of_agent, ("status", "completed"))
        ended = "longrun_run_seconds_count", completed

        async def is_counted() -> bool:
            return (await values()).get(ended, 0) > before.get(ended, 0)

        await eventually(is_counted)
        after = await values()
        for name, labels, count in (
            ("longrun_runs_started_total", (*of_agent, ("kind", "first")), 1),
            ("longrun_runs_finished_total", completed, 1),
            ("longrun_run_seconds_count", completed, 1),
            ("longrun_first_output_seconds_count", of_agent, 1),
            ("longrun_steps_total", (("kind", "model"), ("outcome", "done")), 2),
            ("longrun_steps_total", (("kind", "tool"), ("outcome", "done")), 1),
            ("longrun_step_seconds_count", (("kind", "tool"),), 1),
            ("longrun_http_request_seconds_count", (("route", "create"),), 1),
        ):
            assert after[name, labels] - before.get((name, labels), 0) == count, (name, labels)
        tokens = "longrun_tokens_total", (*of_agent, ("kind", "output"))
        assert after[tokens] > before.get(tokens, 0)
        assert after["longrun_cluster_replicas", ()] in (1, 2), "as they were a moment ago"
        assert after["longrun_pool_connections", (("state", "limit"),)] >= 2
        [build] = [labels for name, labels in after if name == "longrun_build_info"]
        assert "openai_agents" in dict(build)

    async def test_live_runs_and_readers_are_counted(self, two: list[Replica]) -> None:
        async def is_idle() -> bool:
            names = ("longrun_runs", "longrun_readers")
            return [await metric(two[0], name) for name in names] == [0, 0]

        await eventually(is_idle)
        response_id = await in_background(two[0], deltas=1000, pause=0.05)
        assert await metric(two[0], "longrun_runs") == 1
        async with await Wire.open(stream_url(two[0], response_id)) as reader:
            await reader.until(lambda body: b"word" in body)
            assert await metric(two[0], "longrun_readers") == 1
        await delete(two[0], response_id)
        await eventually(is_idle)


async def test_behind_a_proxy_that_is_believed_others_are_not_this_machine(
    database: Server, schema: str
) -> None:
    """A server without keys: whoever the proxy names is the client, and needs one."""
    environment = {"LONGRUN_PROXY_HEADERS": "127.0.0.1"}
    with servers.replicas(1, database.url, schema=schema, environment=environment) as (replica,):
        async with httpx2.AsyncClient(base_url=replica.base_url) as client:
            for forwarded, status in (
                ({}, 200),
                ({"x-forwarded-for": "203.0.113.9"}, 401),
                ({"x-forwarded-for": "203.0.113.9, 127.0.0.1"}, 401),
                ({"x-forwarded-for": "127.0.0.1"}, 200),
            ):
                answer = await client.get("/models", headers=forwarded)
                assert answer.status_code == status, forwarded
        counted = (await Wire.fetch(f"{replica.url}/metrics")).decode()
        assert re.search('method="GET",route="list_models",status="200"} 2.0', counted)
