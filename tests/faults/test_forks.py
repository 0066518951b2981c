"""Forks: a stored run goes on from one of its steps, as a response of its own, whatever dies."""

import json
import signal
from collections.abc import Iterator
from typing import Any

import httpx2
import pytest

from tests import postgres
from tests.faults.ground import Ground, check_events, ground
from tests.reading import create


@pytest.fixture(scope="module")
def found(database: postgres.Server) -> Iterator[Ground]:
    with ground(database, "forks") as made:
        made.start(2)
        yield made


TURNS = [
    [["work", {"name": "a"}], ["work", {"name": "b"}]],
    [["work", {"name": "c"}]],
]
"""Steps 1 to 3, 4 and 5; the last turn is step 6."""


async def source_of(found: Ground, **more: Any) -> dict[str, Any]:
    text = json.dumps({"turns": TURNS, "deltas": 2, **more})
    return await create(found.replicas[0], text, model="gated")


async def fork(
    found: Ground, response_id: str, step: int, given: Any = None, **more: Any
) -> dict[str, Any]:
    fields = {"longrun": {"fork": {"response_id": response_id, "step": step}}, **more}
    if given is not None:
        fields["input"] = given if isinstance(given, str) else json.dumps(given)
    async with httpx2.AsyncClient(base_url=found.replicas[1].base_url, timeout=30) as client:
        answer = await client.post("/responses", json=fields)
    assert answer.status_code == 200, answer.text
    return dict(answer.json())


def done_in(found: Ground, response_id: str) -> list[str]:
    """What a response has really asked and executed."""
    turns = [f"turn {what}" for what, _, _ in found.effects_of(response_id, "turn")]
    return [*turns, *(what for what, _, _ in found.effects_of(response_id, "tool"))]


def calls_in(response: dict[str, Any]) -> list[str]:
    return [
        json.loads(i["arguments"])["name"] for i in response["output"] if i["type"] == "mcp_call"
    ]


async def test_from_each_step(found: Ground) -> None:
    source = await source_of(found)
    assert calls_in(source) == ["a", "b", "c"]
    whole = ["turn 0", "turn 1", "turn 2", "call_0_0", "call_0_1", "call_1_0"]
    assert sorted(done_in(found, source["id"])) == sorted(whole)
    recorded = ["turn 0", "call_0_0", "call_0_1", "turn 1", "call_1_0", "turn 2"]
    for step in range(7):
        made = await fork(found, source["id"], step)
        assert made["status"] == "completed", made
        assert sorted(done_in(found, made["id"])) == sorted(recorded[step:])
        assert calls_in(made) == ["a", "b", "c"]
        assert made["output"][-1]["content"] == source["output"][-1]["content"]
        assert {i["id"] for i in made["output"]} & {i["id"] for i in source["output"]} == set()
        lines = await found.log_of(made["id"])
        check_events(made["id"], [json.loads(line) for line in lines], "completed")


async def test_with_other_input(found: Ground) -> None:
    source = await source_of(found)
    for step, behind in (
        (2, ["a", "b"]),
        (3, ["a", "b"]),
        (5, ["a", "b", "c"]),
        (6, ["a", "b", "c"]),
    ):
        made = await fork(found, source["id"], step, {"show": True, "turns": []})
        assert made["status"] == "completed", made
        assert calls_in(made) == behind
        given = json.loads(made["output"][-1]["content"][0]["text"])
        kinds = [item.get("type") or item["role"] for item in given]
        assert kinds[0] == kinds[-1] == "user"
        assert kinds.count("function_call") == kinds.count("function_call_output") == len(behind)
        assert json.loads(given[-1]["content"])["show"] is True


async def test_killed_when_its_source_is_gone(found: Ground) -> None:
    """Its replica is killed behind a recorded step and a new one; nothing is done again."""
    source = await source_of(found)
    (victim,) = found.start()
    more = {"turns": [[["work", {"name": "d"}]]], "deltas": 2, "gates": ["delta 1"]}
    longrun = {"fork": {"response_id": source["id"], "step": 4}}
    async with httpx2.AsyncClient(base_url=victim.base_url, timeout=30) as client:
        body = {"input": json.dumps(more), "longrun": longrun, "background": True}
        made = (await client.post("/responses", json=body)).json()
        # It may be queued: whoever executes it reads its own copy.
        assert (await client.delete(f"/responses/{source['id']}")).status_code == 200
    await found.reach([made["id"]], "delta 1")
    pid = await found.pid_of(made["id"])
    for replica in found.replicas:
        if replica.process.pid == pid:
            replica.signal(signal.SIGKILL)
            replica.wait()
    await found.all_at_attempt([made["id"]], 2)
    found.open("delta 1")
    await found.all_finished([made["id"]])
    effects = [
        what for kind in ("turn", "tool") for what, _, _ in found.effects_of(made["id"], kind)
    ]
    # Step 5 is done by the fork; of its own turns only the one that was under way is asked again.
    assert sorted(effects) == sorted(["call_1_0", "0", "call_0_0_2", "1", "1"])
    lines = await found.log_of(made["id"])
    check_events(made["id"], [json.loads(line) for line in lines], "completed")
    for replica in found.replicas:
        if replica.process.poll() is not None:
            found.replicas.remove(replica)
            replica.log.unlink(missing_ok=True)


async def test_messages_that_were_put_in(found: Ground) -> None:
    """A source that was steered is forked from before that; a fork is steered as any other."""
    text = json.dumps({"turns": TURNS, "deltas": 2, "gates": ["in c"]})
    source = (await create(found.replicas[0], text, model="gated", background=True))["id"]
    await found.reach([source], "in c")
    said = {"input": json.dumps({"turns": [], "show": True})}
    async with httpx2.AsyncClient(base_url=found.replicas[1].base_url, timeout=30) as client:
        answer = await client.post(f"/responses/{source}/steer", json=said)
        assert answer.status_code == 200, answer.text
        found.open("in c")
        await found.all_finished([source])
        longrun = {"fork": {"response_id": source, "step": 6}}
        answer = await client.post("/responses", json={"longrun": longrun})
        assert answer.json()["error"]["code"] == "fork_of_steered"
        made = await fork(found, source, 5)
        assert calls_in(made) == ["a", "b", "c"]
        assert made["output"][-1]["content"][0]["text"] == "word0 word1 "
        more = {"turns": [[["work", {"name": "d"}]]], "deltas": 2, "gates": ["in d"]}
        live = await fork(found, source, 3, more, background=True)
        await found.reach([live["id"]], "in d")
        answer = await client.post(f"/responses/{live['id']}/steer", json=said)
        assert answer.status_code == 200, answer.text
        found.open("in d")
        await found.all_finished([live["id"]])
        ended = (await client.get(f"/responses/{live['id']}")).json()
        assert calls_in(ended) == ["a", "b", "d"]
        given = json.loads(ended["output"][-1]["content"][0]["text"])
        assert [item["content"] for item in given if item.get("role") == "user"][1:] == [
            json.dumps(more),
            said["input"],
        ]
