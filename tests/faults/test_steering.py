"""Messages that are put into live runs: in once, at one place, whatever dies meanwhile."""

import json
import signal
from collections.abc import Iterator
from typing import Any

import httpx
import pytest
from agents import SQLiteSession

from tests import postgres
from tests.faults.ground import Ground, check_events, ground, script
from tests.reading import create
from tests.servers import Replica
from tests.storing import SEALING

SHOW = {"turns": [], "show": True}
"""As a message: the model answers with all that it is given."""


@pytest.fixture
def found(database: postgres.Server, schema: str) -> Iterator[Ground]:
    with ground(database, f"steering_{schema}") as made:
        yield made


async def steer(replica: Replica, response_id: str, text: str) -> dict[str, Any]:
    async with httpx.AsyncClient(base_url=replica.base_url) as client:
        answer = await client.post(f"/responses/{response_id}/steer", json={"input": text})
    assert answer.status_code == 200, answer.text
    return dict(answer.json())


async def final(found: Ground, response_id: str) -> dict[str, Any]:
    """The response at its end. Its log is looked at, and that no finished tool was called again."""
    await found.all_finished([response_id])
    events = [json.loads(line) for line in await found.log_of(response_id)]
    check_events(response_id, events, "completed")
    recorded = "SELECT key FROM steps WHERE response_id = $1 AND kind = 'tool'"
    tools = [what for what, _, _ in found.effects_of(response_id, "tool")]
    assert sorted(tools) == sorted(row["key"] for row in await found.sql(recorded, response_id))
    return dict(events[-1]["response"])


async def turns(found: Ground, response_id: str) -> int:
    """How many model turns are recorded."""
    query = "SELECT count(*) FROM steps WHERE response_id = $1 AND kind = 'model'"
    return int(await found.value(query, response_id))


def asked(found: Ground, response_id: str) -> int:
    """How often a model was asked."""
    return len(found.effects_of(response_id, "turn"))


def shown(response: dict[str, Any]) -> list[Any]:
    """What the model was given in its last turn: each item in a word or two."""
    items = json.loads(response["output"][-1]["content"][0]["text"])
    return [in_short(item) for item in items]


def in_short(item: dict[str, Any]) -> Any:
    if item.get("type") in ("function_call", "function_call_output"):
        return item["type"], item["call_id"]
    content = item["content"]
    text = content if isinstance(content, str) else content[0]["text"]
    return item["role"], text


async def test_a_message_goes_in_between_two_steps(found: Ground) -> None:
    one, two = found.start(2)
    (id_,) = await found.submit(one, gates=("in b",))
    await found.reach([id_], "in b")
    first = await steer(two, id_, "and then?")
    second = await steer(one, id_, json.dumps(SHOW))
    found.open("in b")
    response = await final(found, id_)
    assert response["status"] == "completed"
    given = shown(response)
    assert given[1:] == [
        ("function_call", "call_0_0"),
        ("function_call", "call_0_1"),
        ("function_call_output", "call_0_0"),
        ("function_call_output", "call_0_1"),
        ("user", "and then?"),
        ("user", json.dumps(SHOW)),
    ]
    assert [item["type"] for item in response["output"]] == ["mcp_call", "mcp_call", "message"]
    async with httpx.AsyncClient(base_url=two.base_url) as client:
        listed = (await client.get(f"/responses/{id_}/input_items?order=asc")).json()["data"]
    assert [item["id"] for item in listed[1:]] == [
        each["input"][0]["id"] for each in (first, second)
    ]
    assert [item["content"][0]["text"] for item in listed[1:]] == ["and then?", json.dumps(SHOW)]


async def test_what_comes_while_the_last_turn_speaks_is_answered(found: Ground) -> None:
    (one,) = found.start()
    (id_,) = await found.submit(one, gates=("delta 2",))
    await found.reach([id_], "delta 2")
    await steer(one, id_, json.dumps(SHOW))
    found.open("delta 2")
    response = await final(found, id_)
    said = "".join(f"word{n} " for n in range(6))
    assert shown(response)[-2:] == [("assistant", said), ("user", json.dumps(SHOW))]
    assert [item["type"] for item in response["output"]][-2:] == ["message", "message"]
    row = await found.row(id_)
    assert (row["status"], row["attempt"]) == ("completed", 1)


async def test_a_message_that_comes_before_the_run_goes_in_behind_its_input(found: Ground) -> None:
    one, two = found.start(2, LONGRUN_MAX_RUNS="1")
    holding = [*await found.submit(one, gates=("in b",)), *await found.submit(two, gates=("in b",))]
    await found.reach(holding, "in b")
    (id_,) = await found.submit(one, gates=("in c",))
    assert (await found.row(id_))["status"] == "queued"
    await steer(two, id_, json.dumps(SHOW))
    found.open("in b")
    response = await final(found, id_)
    assert shown(response)[1:] == [("user", json.dumps(SHOW))]
    assert len(response["output"]) == 1


async def test_killed_between_a_message_and_its_taking(found: Ground) -> None:
    one, two = found.start(2)
    (id_,) = await found.submit(one, gates=("delta 2",))
    await found.reach([id_], "delta 2")
    await steer(two, id_, json.dumps(SHOW))
    one.signal(signal.SIGKILL)
    # Asked again, the turn that was under way has the message: nobody has seen its answer.
    response = await final(found, id_)
    assert shown(response)[-2:] == [
        ("function_call_output", "call_0_1"),
        ("user", json.dumps(SHOW)),
    ]
    assert (await found.row(id_))["attempt"] == 2


async def test_killed_between_its_taking_and_the_turn(found: Ground) -> None:
    one, two = found.start(2)
    (id_,) = await found.submit(one, gates=("in b",))
    await found.reach([id_], "in b")
    said = json.dumps({**SHOW, "gates": ["turn 0"]})
    await steer(two, id_, said)
    found.open("in b")
    await found.reach([id_], "turn 0")
    assert await found.value("SELECT turn FROM steers WHERE response_id = $1", id_) == 1
    # One that comes now is behind the turn that is under way, whoever asks it.
    one.signal(signal.SIGKILL)
    await steer(two, id_, said.replace("turn 0", "never"))
    found.open("turn 0")
    response = await final(found, id_)
    given = shown(response)
    assert given.count(("user", said)) == 1
    assert given[-1] == ("user", said.replace("turn 0", "never"))
    assert (await found.row(id_))["attempt"] == 2


async def test_killed_after_the_turn(found: Ground) -> None:
    """The next attempt replays it with the message at the same place, and asks it nothing."""
    one, two = found.start(2)
    (id_,) = await found.submit(one, gates=("in b", "in c"))
    await found.reach([id_], "in b")
    said = json.dumps({"turns": [[["work", {"name": "c"}]]], "show": True})
    await steer(two, id_, said)
    found.open("in b")
    await found.reach([id_], "in c")
    assert await turns(found, id_) == 2
    one.signal(signal.SIGKILL)
    await found.all_at_attempt([id_], 2)
    before = asked(found, id_)
    found.open("in c")
    await found.all_finished([id_])
    events = [json.loads(line) for line in await found.log_of(id_)]
    given = shown(events[-1]["response"])
    assert given[5:] == [
        ("user", said),
        ("function_call", given[6][1]),
        ("function_call_output", given[6][1]),
    ]
    assert asked(found, id_) == before + 1
    assert [attempt for _, attempt, _ in found.effects_of(id_, "tool")] == [1, 1, 1, 2]


async def test_a_message_that_meets_the_end_is_answered(found: Ground) -> None:
    """It comes after the run's last look, before the commit of its end: that is refused."""
    one, two = found.start(2)
    (id_,) = await found.submit(one, gates=("end",))
    await found.reach([id_], "end")
    await steer(two, id_, json.dumps(SHOW))
    found.open("end")
    response = await final(found, id_)
    said = "".join(f"word{n} " for n in range(6))
    assert shown(response)[-2:] == [("assistant", said), ("user", json.dumps(SHOW))]
    assert await turns(found, id_) == 3 == asked(found, id_)
    assert (await found.row(id_))["attempt"] == 2
    assert "goes on" in found.logs()


async def test_what_a_cancelled_response_was_told_is_kept(found: Ground) -> None:
    one, two = found.start(2)
    (id_,) = await found.submit(one, gates=("in b",))
    await found.reach([id_], "in b")
    told = await steer(two, id_, "never mind")
    async with httpx.AsyncClient(base_url=two.base_url) as client:
        assert (await client.post(f"/responses/{id_}/cancel")).json()["status"] == "cancelled"
        late = await client.post(f"/responses/{id_}/steer", json={"input": "too late"})
        assert late.json()["error"]["code"] == "response_already_completed"
        listed = (await client.get(f"/responses/{id_}/input_items")).json()["data"]
        assert listed[0]["id"] == told["input"][0]["id"]
        body = {"model": "gated", "input": json.dumps(SHOW), "previous_response_id": id_}
        following = (await client.post("/responses", json=body, timeout=30)).json()
    assert ("user", "never mind") in shown(following)


class TestWithTheSDK:
    """Guardrails, sessions, handoffs and agents as tools."""

    @pytest.fixture
    def found(self, database: postgres.Server, schema: str) -> Iterator[Ground]:
        agents = "tests.faults.steered_agents:agents"
        with ground(database, f"steering_{schema}", agents=agents) as made:
            made.start()
            yield made

    async def begun(self, found: Ground, model: str, at: str, **fields: Any) -> str:
        asked = json.dumps({**script(gates=[at]), **fields})
        made = await create(found.replicas[0], asked, model=model, background=True)
        await found.reach([made["id"]], at)
        return str(made["id"])

    async def test_its_session_has_it_at_its_place(self, found: Ground) -> None:
        id_ = await self.begun(found, "guarded", "in b")
        await steer(found.replicas[0], id_, "one")
        found.open("in b")
        await final(found, id_)
        items = await SQLiteSession(id_, found.folder / "sessions").get_items()
        assert [in_short(item)[0] for item in items[1:]] == [
            *["function_call"] * 2,
            *["function_call_output"] * 2,
            *("user", "assistant"),
        ]

    async def test_its_session_has_what_met_the_last_turn(self, found: Ground) -> None:
        id_ = await self.begun(found, "guarded", "delta 2", turns=())
        await steer(found.replicas[0], id_, json.dumps(SHOW))
        found.open("delta 2")
        response = await final(found, id_)
        said = [role for role, _ in shown(response)]
        assert said == ["user", "assistant", "user"]
        items = await SQLiteSession(id_, found.folder / "sessions").get_items()
        assert [in_short(item)[0] for item in items] == ["user", "assistant", "user", "assistant"]

    async def test_a_guardrail_that_refuses_it_ends_the_response(self, found: Ground) -> None:
        id_ = await self.begun(found, "guarded", "in b")
        await steer(found.replicas[0], id_, "something forbidden")
        found.open("in b")
        await found.all_finished([id_])
        row = await found.row(id_)
        assert (row["status"], row["input_refused"]) == ("failed", True)

    async def test_what_an_output_guardrail_refuses_is_not_saved_by_a_message(
        self, found: Ground
    ) -> None:
        id_ = await self.begun(found, "guarded", "delta 2", turns=(), delta="secret ")
        await steer(found.replicas[0], id_, "and now?")
        found.open("delta 2")
        await found.all_finished([id_])
        events = [json.loads(line) for line in await found.log_of(id_)]
        assert (await found.row(id_))["status"] == "failed"
        assert events[-1]["response"]["output"] == []

    async def test_after_a_handoff_the_next_agent_has_it(self, found: Ground) -> None:
        turns = [[["work", {"name": "b"}], ["transfer_to_second", {}]]]
        id_ = await self.begun(found, "handing", "in b", turns=turns)
        await steer(found.replicas[0], id_, json.dumps(SHOW))
        found.open("in b")
        response = await final(found, id_)
        assert shown(response)[-1] == ("user", json.dumps(SHOW))
        query = "SELECT fingerprint FROM steps WHERE response_id = $1 AND key = '1'"
        if not SEALING.knows_keys:
            assert json.loads(await found.value(query, id_))["agent"] == "second"

    async def test_an_agent_that_is_a_tool_does_not_have_it(self, found: Ground) -> None:
        inner = json.dumps({"turns": [[["work", {"name": "b"}]]], "gates": ["in b"]})
        id_ = await self.begun(found, "asking", "in b", turns=[[["ask", {"input": inner}]]])
        await steer(found.replicas[0], id_, json.dumps(SHOW))
        found.open("in b")
        response = await final(found, id_)
        assert response["output"][0]["output"] == "word0 word1 word2 "
        assert shown(response)[-1] == ("user", json.dumps(SHOW))


async def test_what_comes_before_an_approval_goes_in_behind_what_it_allows(
    database: postgres.Server, schema: str
) -> None:
    agents = "tests.faults.paying_agents:agents"
    with ground(database, f"steering_{schema}", agents=agents) as found:
        one, two = found.start(2)
        turns = [[["work", {"name": "b"}], ["pay", {}]]]
        asked = json.dumps({**script(gates=["in b", "in c"]), "turns": turns})
        made = await create(one, asked, model="paying", background=True)
        await found.reach([made["id"]], "in b")
        told = json.dumps({"turns": [[["work", {"name": "c"}]]], "show": True})
        await steer(two, made["id"], told)
        found.open("in b")
        response = await final(found, made["id"])
        request = response["output"][-1]
        assert request["type"] == "mcp_approval_request"
        answer = {"type": "mcp_approval_response", "approval_request_id": request["id"]}
        following = await create(
            one,
            [{**answer, "approve": True}],
            model="paying",
            background=True,
            previous_response_id=made["id"],
        )
        await found.reach([following["id"]], "in c")
        await steer(two, following["id"], json.dumps(SHOW))
        one.signal(signal.SIGKILL)
        found.open("in c")
        await found.all_finished([following["id"]])
        events = [json.loads(line) for line in await found.log_of(following["id"])]
        said = [text for role, text in shown(events[-1]["response"]) if role == "user"]
        assert said[1:] == [told, json.dumps(SHOW)]
        paid = [attempt for _, attempt, _ in found.effects_of(following["id"], "tool")]
        assert len(paid) in (2, 3), "paid once; the work that was under way may be done again"
