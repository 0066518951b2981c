"""`longrun.fork`: requests that go on from a step of a response, and what they make."""

import asyncio
import json
from collections.abc import AsyncIterator, Iterator
from typing import Any

import httpx2
import pytest
from openai import AsyncOpenAI

from tests import servers
from tests.postgres import Server
from tests.reading import check_complete, create, eventually, script
from tests.servers import Replica

WEATHER = {
    "type": "function",
    "name": "weather",
    "parameters": {"type": "object", "properties": {"city": {"type": "string"}}},
}


@pytest.fixture(scope="module")
def pair(database: Server) -> Iterator[list[Replica]]:
    with servers.replicas(2, database.url, schema="forks_api") as started:
        yield started


@pytest.fixture
async def client(pair: list[Replica]) -> AsyncIterator[httpx2.AsyncClient]:
    async with httpx2.AsyncClient(base_url=pair[1].base_url, timeout=30) as opened:
        yield opened


def of(response_id: str, step: int) -> dict[str, Any]:
    return {"fork": {"response_id": response_id, "step": step}}


async def fork(
    client: httpx2.AsyncClient, response_id: str, step: int, **body: Any
) -> dict[str, Any]:
    answer = await client.post("/responses", json={"longrun": of(response_id, step), **body})
    assert answer.status_code == 200, answer.text
    return dict(answer.json())


async def refused(client: httpx2.AsyncClient, **body: Any) -> tuple[int, str | None, str | None]:
    answer = await client.post("/responses", json=body)
    error = answer.json()["error"]
    return answer.status_code, error["code"], error["param"]


async def steps_of(client: httpx2.AsyncClient, response_id: str) -> list[dict[str, Any]]:
    answer = await client.get(f"/runs/{response_id}/steps")
    assert answer.status_code == 200, answer.text
    return list(answer.json()["data"])


def given_to(response: dict[str, Any]) -> list[dict[str, Any]]:
    """What the model was given, by a last turn that shows it."""
    return list(json.loads(response["output"][-1]["content"][0]["text"]))


def said(items: list[dict[str, Any]]) -> list[str]:
    """What items say, in few words."""
    words = []
    for item in items:
        content = item.get("content") or item.get("output") or item.get("name") or ""
        text = content if isinstance(content, str) else content[0]["text"]
        words.append(text if len(text) < 12 else item.get("role") or item["type"])
    return words


TWO = script(turns=[[["echo", {"text": "a"}], ["echo", {"text": "b"}]]], deltas=1)
SHOW = script(show=True)


async def test_the_steps_of_a_run(client: httpx2.AsyncClient, pair: list[Replica]) -> None:
    source = await create(pair[0], TWO, model="scripted")
    steps = await steps_of(client, source["id"])
    assert [(s["step"], s["kind"], s["turn"], s["name"], s["finished"]) for s in steps] == [
        (1, "model", 0, "scripted", True),
        (2, "tool", 0, "echo", True),
        (3, "tool", 0, "echo", True),
        (4, "model", 1, "scripted", True),
    ]
    assert [s["arguments"] for s in steps] == ["", '{"text": "a"}', '{"text": "b"}', "word0 "]
    assert all(s["recorded_at"] >= source["created_at"] for s in steps)


async def test_as_openai_asks_for_it(pair: list[Replica]) -> None:
    source = await create(pair[0], TWO, model="scripted")
    async with AsyncOpenAI(base_url=pair[1].base_url, api_key="none") as openai:
        stream = await openai.responses.create(
            input=SHOW, stream=True, extra_body={"longrun": of(source["id"], 3)}
        )
        events = [event async for event in stream]
        assert events[0].type == "response.created"
        assert [event.sequence_number for event in events] == list(range(len(events)))
        done = [e.item for e in events if e.type == "response.output_item.done"]
        assert [item.type for item in done] == ["mcp_call", "mcp_call", "message"]
        last = events[-1]
        assert last.type == "response.completed"
        assert [item.id for item in last.response.output] == [item.id for item in done]
        assert last.response.to_dict()["longrun"] == of(source["id"], 3)
    async with httpx2.AsyncClient(base_url=pair[0].base_url, timeout=30) as client:
        body = (await client.get(f"/responses/{last.response.id}?stream=true")).content
        check_complete(body, with_ids=True)
        run = (await client.get(f"/runs/{last.response.id}")).json()
        assert run["forked_from"] == {"response_id": source["id"], "step": 3}
        assert run["input"].startswith('{"')


async def test_what_it_uses_is_its_own(client: httpx2.AsyncClient, pair: list[Replica]) -> None:
    source = await create(pair[0], TWO, model="scripted")
    again = await fork(client, source["id"], 4)
    assert again["output"][-1]["content"] == source["output"][-1]["content"]
    assert again["usage"]["total_tokens"] == 0
    half = await fork(client, source["id"], 3)
    assert 2 * half["usage"]["total_tokens"] == source["usage"]["total_tokens"]


async def test_parameters_are_those_of_its_source_but_for_its_own(
    client: httpx2.AsyncClient, pair: list[Replica]
) -> None:
    source = await create(
        pair[0],
        TWO,
        model="scripted",
        instructions="be brief",
        metadata={"a": "b"},
        temperature=0.5,
        user="ann",
        tools=[WEATHER],
        longrun={"timeout": 100, "max_total_tokens": 1000},
    )
    as_before = await fork(client, source["id"], 3, input=SHOW)
    for name in ("instructions", "metadata", "temperature", "user", "tools", "model"):
        assert as_before[name] == source[name], name
    assert as_before["longrun"] == {
        "timeout": 100,
        "max_total_tokens": 1000,
        **of(source["id"], 3),
    }
    assert given_to(as_before)[0] == {"role": "developer", "content": "be brief"}
    other = await fork(
        client,
        source["id"],
        3,
        input=SHOW,
        instructions="be long",
        metadata={"c": "d"},
        temperature=1.5,
    )
    assert (other["metadata"], other["temperature"], other["user"]) == ({"c": "d"}, 1.5, "ann")
    assert given_to(other)[0] == {"role": "developer", "content": "be long"}


async def test_step_0_is_the_request_itself(
    client: httpx2.AsyncClient, pair: list[Replica]
) -> None:
    source = await create(pair[0], SHOW, model="scripted", metadata={"a": "b"})
    again = await fork(client, source["id"], 0)
    assert said(given_to(again)) == said(given_to(source))
    assert again["metadata"] == {"a": "b"}
    items = (await client.get(f"/responses/{again['id']}/input_items")).json()["data"]
    assert [item["content"][0]["text"] for item in items] == [SHOW]
    edited = await fork(client, source["id"], 0, input="other words")
    assert edited["output"][-1]["content"][0]["text"] == "other words"


async def test_what_continues_it_has_all_in_order(
    client: httpx2.AsyncClient, pair: list[Replica]
) -> None:
    before = await create(pair[0], "before", model="scripted")
    source = await create(pair[0], TWO, model="scripted", previous_response_id=before["id"])
    made = await fork(client, source["id"], 3, input="instead")
    assert made["previous_response_id"] == before["id"]
    items = (await client.get(f"/responses/{made['id']}/input_items?order=asc")).json()["data"]
    assert [item["content"][0]["text"] for item in items] == [TWO, "instead"]
    assert (await client.delete(f"/responses/{source['id']}")).status_code == 200
    last = await create(pair[0], SHOW, model="scripted", previous_response_id=made["id"])
    assert said(given_to(last)) == [
        *("before", "before", "user", "echo", "echo: a", "echo", "echo: b"),
        *("instead", "instead", "user"),
    ]


async def test_a_fork_of_a_fork(client: httpx2.AsyncClient, pair: list[Replica]) -> None:
    source = await create(pair[0], TWO, model="scripted")
    more = script(turns=[[["echo", {"text": "c"}]]], deltas=1)
    first = await fork(client, source["id"], 3, input=more)
    steps = await steps_of(client, first["id"])
    assert [s["name"] for s in steps] == [
        "scripted",
        "echo",
        "echo",
        "scripted",
        "echo",
        "scripted",
    ]
    behind = await fork(client, first["id"], 5, input=SHOW)
    shown = said(given_to(behind))
    assert shown.index("echo: c") > shown.index("echo: b")
    assert [s for s in shown if s == "user"] == ["user"] * 3
    # Before the first fork's own input, that is not part of it.
    before = await fork(client, first["id"], 2, input=SHOW)
    shown = said(given_to(before))
    assert "echo: c" not in shown
    assert [s for s in shown if s == "user"] == ["user"] * 2


async def test_a_fork_of_what_is_on_a_conversation_reads_it_as_it_was(
    client: httpx2.AsyncClient, pair: list[Replica]
) -> None:
    on = (await client.post("/conversations", json={})).json()["id"]
    await create(pair[0], "first", model="scripted", conversation=on)
    source = await create(pair[0], TWO, model="scripted", conversation=on)
    await create(pair[0], "later", model="scripted", conversation=on)
    made = await fork(client, source["id"], 3, input=SHOW)
    shown = said(given_to(made))
    assert shown[:2] == ["first", "first"]
    assert "later" not in shown
    assert "conversation" not in made or made["conversation"] is None
    items = (await client.get(f"/conversations/{on}/items?limit=100")).json()["data"]
    assert SHOW not in json.dumps(items)
    again = await fork(client, made["id"], 3, input=SHOW)
    assert said(given_to(again))[:2] == ["first", "first"]
    last = await create(pair[0], SHOW, model="scripted", previous_response_id=made["id"])
    assert said(given_to(last))[:2] == ["first", "first"]


async def test_a_call_that_its_client_answers(
    client: httpx2.AsyncClient, pair: list[Replica]
) -> None:
    asked = script(turns=[[["echo", {"text": "a"}], ["weather", {"city": "Rome"}]]], deltas=1)
    source = await create(pair[0], asked, model="scripted", tools=[WEATHER])
    steps = await steps_of(client, source["id"])
    assert [s["name"] for s in steps] == ["scripted", "echo"]
    [call] = [item for item in source["output"] if item["type"] == "function_call"]
    output = {"type": "function_call_output", "call_id": call["call_id"], "output": "sunny"}
    show = {"role": "user", "content": SHOW}
    answered = await fork(client, source["id"], 2, input=[output, show])
    assert "sunny" in said(given_to(answered))
    without = await fork(client, source["id"], 2, input=[show])
    assert "weather" not in said(given_to(without))


async def test_of_a_live_run(client: httpx2.AsyncClient, pair: list[Replica]) -> None:
    slow = script(turns=[[["echo", {"text": "a"}], ["echo", {"text": "b", "pause": 60}]]])
    source = (await create(pair[0], slow, background=True))["id"]

    async def has_first() -> bool:
        return [s["finished"] for s in await steps_of(client, source)] == [True, True, False]

    await eventually(has_first)
    assert await refused(client, longrun=of(source, 3)) == (
        400,
        "step_not_finished",
        "longrun.fork.step",
    )
    made = await fork(client, source, 1, input=SHOW, background=True)
    other = (await create(pair[1], SHOW, background=True))["id"]
    await client.post(f"/responses/{source}/cancel")
    await client.post(f"/responses/{made['id']}/cancel")
    await eventually(lambda: _is(client, other, "completed"))
    # Of what was cancelled all that was finished stays.
    assert [s["finished"] for s in await steps_of(client, source)] == [True, True, False]


async def _is(client: httpx2.AsyncClient, response_id: str, status: str) -> bool:
    return bool((await client.get(f"/responses/{response_id}")).json()["status"] == status)


async def test_a_handoff(client: httpx2.AsyncClient, pair: list[Replica]) -> None:
    asked = script(turns=[[["transfer_to_scripted", {}]], [["echo", {"text": "a"}]]], deltas=1)
    source = await create(pair[0], asked, model="chain")
    steps = await steps_of(client, source["id"])
    assert [(s["kind"], s["name"]) for s in steps] == [
        ("model", "chain"),
        ("handoff", "transfer_to_scripted"),
        ("model", "scripted"),
        ("tool", "echo"),
        ("model", "scripted"),
    ]
    for step in (2, 4):
        made = await fork(client, source["id"], step, input="and?")
        after = await steps_of(client, made["id"])
        assert after[-1]["name"] == "scripted"
        assert made["model"] == "chain"


async def test_what_is_refused(client: httpx2.AsyncClient, pair: list[Replica]) -> None:
    source = await create(pair[0], TWO, model="scripted")
    id_ = source["id"]
    assert await refused(client, longrun=of(id_, 5)) == (400, "step_not_found", "longrun.fork.step")
    assert await refused(client, longrun=of(id_, -1)) == (400, "invalid_type", "longrun.fork.step")
    where = "longrun.fork.response_id"
    for unknown in ("resp_" + "0" * 32, "nonsense", "resp_\0"):
        assert await refused(client, longrun=of(unknown, 1)) == (404, "not_found", where)
    assert await refused(client, longrun=of(id_, 1), model="chain") == (
        400,
        "fork_of_another_model",
        "model",
    )
    for name in ("previous_response_id", "conversation"):
        body = {"longrun": of(id_, 1), name: id_}
        assert await refused(client, **body) == (400, "invalid_request", name)
    lost = {"type": "item_reference", "id": source["output"][0]["id"].replace("a", "b")}
    if lost["id"] != source["output"][0]["id"]:
        status, code, _ = await refused(client, longrun=of(id_, 1), input=[lost])
        assert (status, code) == (400, "item_not_found")
    no_number = {"fork": {"response_id": id_}}
    assert (await refused(client, longrun=no_number))[0] == 400
    unstored = await create(pair[0], TWO, model="scripted", store=False)
    assert await refused(client, longrun=of(unstored["id"], 1)) == (404, "not_found", where)
    answer = await client.get("/runs/resp_" + "0" * 32 + "/steps")
    assert answer.status_code == 404


async def test_its_own_may_be_unstored(client: httpx2.AsyncClient, pair: list[Replica]) -> None:
    source = await create(pair[0], TWO, model="scripted")
    made = await fork(client, source["id"], 3, input="and?", store=False)
    assert made["status"] == "completed"
    assert (await client.get(f"/responses/{made['id']}")).status_code == 404


async def test_many_forks_at_once(client: httpx2.AsyncClient, pair: list[Replica]) -> None:
    source = await create(pair[0], TWO, model="scripted")
    made = await asyncio.gather(
        *(fork(client, source["id"], 3, input=f"number {n}") for n in range(10))
    )
    texts = [each["output"][-1]["content"][0]["text"] for each in made]
    assert texts == [f"number {n}" for n in range(10)]
