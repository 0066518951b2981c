"""What becomes of approvals: asked by one replica, answered on the other."""

import asyncio
import json
import signal
from collections.abc import AsyncIterator, Iterator
from typing import Any

import pytest
from openai import AsyncOpenAI, BadRequestError

from tests import postgres
from tests.approvals.agents import AGENTS
from tests.faults.ground import Ground, ground
from tests.provider.agents import environment
from tests.provider.server import Provider
from tests.servers import Replica

FAMILIES = ("responses", "chat")
REQUEST = "mcp_approval_request"
CALLER = "x-caller"


@pytest.fixture(scope="module", params=["mcp_call", "function_call"])
def found(
    request: pytest.FixtureRequest, database: postgres.Server, running_provider: Provider
) -> Iterator[Ground]:
    with ground(
        database, f"answers_{request.param}", agents=AGENTS, **environment(running_provider)
    ) as made:
        made.environment["LONGRUN_SERVER_TOOLS"] = request.param
        made.environment |= {
            "LONGRUN_TRUSTED_HEADER": CALLER,
            "LONGRUN_TRUSTED_PROXIES": "127.0.0.1",
        }
        made.start(2)
        yield made


@pytest.fixture
async def asks(found: Ground) -> AsyncIterator[AsyncOpenAI]:
    """A client of the replica that is asked first."""
    async with client_of(found.replicas[0]) as client:
        yield client


@pytest.fixture
async def answers(found: Ground) -> AsyncIterator[AsyncOpenAI]:
    """A client of the other replica."""
    async with client_of(found.replicas[1]) as client:
        yield client


def client_of(replica: Replica, caller: str = "us") -> AsyncOpenAI:
    return AsyncOpenAI(
        base_url=replica.base_url,
        api_key="none",
        max_retries=0,
        default_headers={CALLER: caller},
    )


def script(*turns: Any, then: str = "the end", **more: Any) -> str:
    return json.dumps({"turns": turns, "then": then, **more})


def pay(to: str) -> dict[str, Any]:
    return {"call": "pay", "arguments": {"to": to}}


def requests_in(response: Any) -> list[Any]:
    return [item for item in response.output if item.type == "mcp_approval_request"]


def answer(request: Any, approve: bool = True, reason: str | None = None) -> Any:
    given = {
        "type": "mcp_approval_response",
        "approval_request_id": request.id,
        "approve": approve,
    }
    return given if reason is None else {**given, "reason": reason}


def called(response: Any) -> list[tuple[str, str | None]]:
    """The calls that a response shows as made, with what came of them."""
    found: list[tuple[str, str | None]] = []
    outputs = {
        item.call_id: item.output for item in response.output if item.type == "function_call_output"
    }
    for item in response.output:
        if item.type == "mcp_call":
            error = item.error.content[0]["text"] if item.error else None
            found.append((item.name, error or item.output))
        elif item.type == "function_call":
            found.append((item.name, outputs.get(item.call_id)))
    return found


def effects(found: Ground, word: str) -> list[str]:
    file = found.folder / "effects"
    lines = file.read_text().splitlines() if file.exists() else []
    return [line for line in lines if word in line]


@pytest.mark.parametrize("family", FAMILIES)
async def test_a_call_waits_and_is_made_when_it_is_approved(
    found: Ground, asks: AsyncOpenAI, answers: AsyncOpenAI, family: str
) -> None:
    to = f"ann-{family}"
    first = await asks.responses.create(
        model=f"{family}-asking", input=script([pay(to)], show=True), background=False
    )
    assert first.status == "completed", first.error
    [request] = requests_in(first)
    assert (request.name, json.loads(request.arguments)) == ("pay", {"to": to})
    assert request.server_label == f"{family}-asking"
    assert called(first) == []
    assert effects(found, to) == []
    second = await answers.responses.create(
        model=f"{family}-asking", previous_response_id=first.id, input=[answer(request)]
    )
    assert second.status == "completed", (second.error, found.logs()[-3000:])
    assert called(second) == [("pay", f"paid {to}")]
    assert effects(found, to) == [f"tool pay {to}"]
    given = json.loads(second.output_text)
    assert str(given).count(f"paid {to}") == 1
    assert "approval" not in str(given)


@pytest.mark.parametrize("family", FAMILIES)
async def test_the_reason_of_a_refusal_reaches_the_model(
    found: Ground, asks: AsyncOpenAI, answers: AsyncOpenAI, family: str
) -> None:
    to = f"bob-{family}"
    first = await asks.responses.create(
        model=f"{family}-asking", input=script([pay(to)], show=True)
    )
    [request] = requests_in(first)
    second = await answers.responses.create(
        model=f"{family}-asking",
        previous_response_id=first.id,
        input=[answer(request, False, "far too dear")],
    )
    assert second.status == "completed", (second.error, found.logs()[-3000:])
    [(name, said)] = called(second)
    assert name == "pay"
    assert "far too dear" in (said or "")
    assert "far too dear" in second.output_text
    assert effects(found, to) == []


# -- several at once --------------------------------------------------------------------------


@pytest.mark.parametrize("family", FAMILIES)
async def test_of_several_each_is_granted_refused_or_asked_again(
    found: Ground, asks: AsyncOpenAI, answers: AsyncOpenAI, provider: Provider, family: str
) -> None:
    word, model = f"several-{family}", f"{family}-asking"
    expert = {"call": "expert", "arguments": {"input": script([pay(f"{word}-inner")])}}
    look = {"call": "look", "arguments": {"word": word}}
    small = {"call": "spend", "arguments": {"amount": 5}}
    big = {"call": "spend", "arguments": {"amount": 50}}
    turn = [pay(f"{word}-a"), look, pay(f"{word}-b"), expert, small, big]
    first = await asks.responses.create(model=model, input=script(turn, show=True))
    assert sorted(called(first)) == [("look", f"found {word}"), ("spend", "spent 5")]
    names = [(item.name, item.server_label) for item in requests_in(first)]
    inside = ("pay", f"{family}-inner")
    assert sorted(names) == sorted([("pay", model), ("pay", model), inside, ("spend", model)])
    by_agent = {item.server_label: item for item in requests_in(first)}
    inner = by_agent[f"{family}-inner"]
    a, b, more = [item for item in requests_in(first) if item != inner]
    second = await answers.responses.create(
        model=model,
        previous_response_id=first.id,
        input=[answer(a), answer(b, False, "not him"), answer(inner)],
    )
    assert second.status == "completed", (second.error, found.logs()[-3000:])
    made = dict(called(second)) | {"pay": None}
    assert made == {"pay": None, "expert": "the end"}
    said = sorted(said or "" for name, said in called(second) if name == "pay")
    assert ["not him" in said[0], said[1]] == [True, f"paid {word}-a"]
    [again] = requests_in(second)
    assert (again.name, again.arguments, again.id != more.id) == ("spend", more.arguments, True)
    third = await asks.responses.create(
        model=model, previous_response_id=second.id, input=[answer(again)]
    )
    assert third.status == "completed", (third.error, found.logs()[-3000:])
    assert called(third) == [("spend", "spent 50")]
    given = third.output_text
    for once in (f"found {word}", f"paid {word}-a", "not him", "spent 50"):
        assert given.count(once) == 1, once
    fourth = await answers.responses.create(
        model=model, previous_response_id=third.id, input=script(show=True)
    )
    outputs = [
        item
        for item in json.loads(fourth.output_text)
        if item.get("type") == "function_call_output" or item.get("role") == "tool"
    ]
    assert (str(outputs).count("spent 50"), str(outputs).count("not him")) == (1, 1)
    assert sorted(effects(found, word)) == sorted(
        [f"tool look {word}", f"tool pay {word}-a", f"tool pay {word}-inner"]
    )
    assert provider.refused == []


async def test_what_else_is_said_comes_behind_what_the_call_gave(
    asks: AsyncOpenAI, answers: AsyncOpenAI
) -> None:
    first = await asks.responses.create(
        model="responses-asking", input=script([pay("also")]), instructions="Be kind."
    )
    [request] = requests_in(first)
    second = await answers.responses.create(
        model="responses-asking",
        previous_response_id=first.id,
        input=[{"role": "user", "content": script(show=True)}, answer(request)],
        instructions="Be quick.",
    )
    given = json.loads(second.output_text)
    kinds = [item.get("type", "message") for item in given]
    assert kinds[-3:] == ["function_call", "function_call_output", "message"]
    assert given[-2]["output"] == "paid also"
    assert "Be quick." in str(given)
    assert "Be kind." not in str(given)


async def test_without_an_answer_it_goes_on_as_if_nothing_had_been_called(
    found: Ground, asks: AsyncOpenAI, answers: AsyncOpenAI, provider: Provider
) -> None:
    first = await asks.responses.create(model="responses-asking", input=script([pay("never")]))
    second = await answers.responses.create(
        model="responses-asking", previous_response_id=first.id, input=script(show=True)
    )
    assert "never" not in str(json.loads(second.output_text)[1:])
    assert effects(found, "never") == []
    assert provider.refused == []


async def test_a_client_s_own_tool_is_answered_beside_it(
    found: Ground, asks: AsyncOpenAI, answers: AsyncOpenAI
) -> None:
    tools: Any = [{"type": "function", "name": "mine", "parameters": {"type": "object"}}]
    turn = [pay("beside"), {"call": "mine", "arguments": {}}]
    first = await asks.responses.create(
        model="responses-asking", input=script(turn, show=True), tools=tools
    )
    [request] = requests_in(first)
    [call] = [item for item in first.output if item.type == "function_call"]
    assert call.name == "mine"
    second = await answers.responses.create(
        model="responses-asking",
        previous_response_id=first.id,
        input=[
            answer(request),
            {"type": "function_call_output", "call_id": call.call_id, "output": "my own"},
        ],
        tools=tools,
    )
    assert second.status == "completed", (second.error, found.logs()[-3000:])
    assert called(second) == [("pay", "paid beside")]
    assert second.output_text.count("my own") == 1


# -- who asks ---------------------------------------------------------------------------------


@pytest.mark.parametrize("family", FAMILIES)
async def test_an_mcp_server_of_the_agent(
    asks: AsyncOpenAI, answers: AsyncOpenAI, family: str
) -> None:
    turn = [{"call": "slow", "arguments": {"seconds": 0}}, {"call": "process", "arguments": {}}]
    first = await asks.responses.create(model=f"{family}-mcp", input=script(turn))
    assert [name for name, _ in called(first)] == ["process"]
    [request] = requests_in(first)
    assert request.name == "slow"
    second = await answers.responses.create(
        model=f"{family}-mcp", previous_response_id=first.id, input=[answer(request)]
    )
    [(name, said)] = called(second)
    assert (name, "slept" in str(said)) == ("slow", True)


@pytest.mark.parametrize("approve", [True, False])
async def test_a_hosted_mcp_server(
    found: Ground, asks: AsyncOpenAI, answers: AsyncOpenAI, provider: Provider, approve: bool
) -> None:
    to = f"hosted-{approve}"
    first = await asks.responses.create(
        model="responses-hosted",
        input=script([{"approval": "delete", "server": "server"}, pay(to)], show=True),
    )
    hosted, own = requests_in(first)
    assert (hosted.name, own.name) == ("delete", "pay")
    second = await answers.responses.create(
        model="responses-hosted",
        previous_response_id=first.id,
        input=[answer(hosted, approve, None if approve else "keep it"), answer(own)],
    )
    assert second.status == "completed", (second.error, found.logs()[-3000:])
    given = json.loads(second.output_text)
    [said] = [item for item in given if item.get("type") == "mcp_approval_response"]
    assert (said["approve"], "keep it" in str(said)) == (approve, not approve)
    assert effects(found, to) == [f"tool pay {to}"]
    third = await asks.responses.create(
        model="responses-hosted", previous_response_id=second.id, input=script(show=True)
    )
    assert third.status == "completed"
    assert provider.refused == []


async def test_after_a_handoff_its_agent_goes_on(asks: AsyncOpenAI, answers: AsyncOpenAI) -> None:
    handoff = {"call": "transfer_to_chat_other", "arguments": {}}
    first = await asks.responses.create(
        model="chat-asking", input=script([handoff], [pay("handed")], show=True)
    )
    [request] = requests_in(first)
    assert request.server_label == "chat-other"
    second = await answers.responses.create(
        model="chat-asking", previous_response_id=first.id, input=[answer(request)]
    )
    assert second.status == "completed", second.error
    assert called(second) == [("pay", "paid handed")]


# -- how they are seen ------------------------------------------------------------------------


async def test_streams_polls_and_lists_show_them(asks: AsyncOpenAI, answers: AsyncOpenAI) -> None:
    async with asks.responses.stream(
        model="responses-asking", input=script([pay("seen")], then="ok"), background=True
    ) as stream:
        events = [event async for event in stream]
        first = await stream.get_final_response()
    types = [e.type for e in events if getattr(e, "item", None) and e.item.type == REQUEST]
    assert types == ["response.output_item.added", "response.output_item.done"]
    polled = await answers.responses.retrieve(first.id)
    [request] = requests_in(polled)
    assert request == requests_in(first)[0]
    async with answers.responses.stream(
        model="responses-asking", input=[answer(request)], previous_response_id=first.id
    ) as stream:
        events = [event async for event in stream]
        second = await stream.get_final_response()
    assert second.output_text == "ok"
    assert events[0].type == "response.created"
    brought = await asks.responses.input_items.list(second.id)
    assert [item.type for item in brought.data] == ["mcp_approval_response"]
    for item in second.output:
        if item.type == "mcp_call":
            assert item.approval_request_id == request.id


async def test_on_a_conversation(
    asks: AsyncOpenAI, answers: AsyncOpenAI, provider: Provider
) -> None:
    conversation = await asks.conversations.create()
    first = await asks.responses.create(
        model="responses-asking",
        input=script([pay("talk")], show=True),
        conversation=conversation.id,
    )
    [request] = requests_in(first)
    second = await answers.responses.create(
        model="responses-asking", input=[answer(request)], conversation=conversation.id
    )
    assert called(second) == [("pay", "paid talk")]
    items = await asks.conversations.items.list(conversation.id, order="asc")
    kinds = [item.type for item in items.data]
    assert kinds[0] == "message"
    assert kinds[-1] == "message"
    assert REQUEST in kinds
    assert "mcp_approval_response" in kinds
    third = await asks.responses.create(
        model="responses-asking", input=script(show=True), conversation=conversation.id
    )
    assert str(json.loads(third.output_text)).count("'output': 'paid talk'") == 1
    assert provider.refused == []


# -- what is refused --------------------------------------------------------------------------


async def refused(client: AsyncOpenAI, **body: Any) -> Any:
    with pytest.raises(BadRequestError) as raised:
        await client.responses.create(**{"model": "responses-asking", **body})
    return raised.value.body


async def test_answers_that_cannot_be_given(
    found: Ground, asks: AsyncOpenAI, answers: AsyncOpenAI
) -> None:
    first = await asks.responses.create(
        model="responses-asking", input=script([pay("no-a"), pay("no-b")])
    )
    a, b = requests_in(first)
    of = {"previous_response_id": first.id}
    other = await asks.responses.create(model="responses-asking", input=script(), **of)
    nobody = a.id[:-6] + "0000ff"

    async def code(client: AsyncOpenAI = answers, **body: Any) -> tuple[str, str]:
        said = await refused(client, **body)
        return said["code"], said["param"]

    where = "input[0].approval_request_id"
    unknown = ("tool_call_not_found", where)
    wrong: Any = {**answer(a), "approve": "yes"}
    assert await code(**of, input=[wrong]) == ("invalid_type", "input[0].approve")
    wrong = {**answer(a), "reason": 1}
    assert await code(**of, input=[wrong]) == ("invalid_type", "input[0].reason")
    assert await code(input=[answer(a)]) == ("approval_not_continued", "previous_response_id")
    elsewhere = {"previous_response_id": other.id, "input": [answer(a)]}
    assert await code(**elsewhere) == ("approval_not_continued", where)
    assert await code(**of, input=[{**answer(a), "approval_request_id": nobody}]) == unknown
    assert await code(**of, input=[{**answer(a), "approval_request_id": "mcpr_1"}]) == unknown
    assert await code(**of, input=[answer(a), answer(a)]) == (
        "approval_already_answered",
        "input[1].approval_request_id",
    )
    another = {**of, "model": "chat-asking", "input": [answer(a)]}
    assert await code(**another) == ("approval_of_another_model", "model")
    stranger = answers.with_options(default_headers={CALLER: "a stranger"})
    theirs = await stranger.responses.create(model="responses-asking", input=script())
    mine = {"previous_response_id": theirs.id, "input": [answer(a)]}
    assert await code(stranger, **mine) == unknown
    assert (await code(stranger, **of, input=[answer(a)]))[0] == "previous_response_not_found"
    await answers.responses.create(model="responses-asking", input=[answer(a)], **of)
    assert await code(**of, input=[answer(a)]) == ("approval_already_answered", where)
    assert await code(**of, input=[answer(b)]) == ("approval_passed", where)
    assert effects(found, "no-") == ["tool pay no-a"]
    await asks.responses.delete(first.id)
    assert (await code(**of, input=[answer(b)]))[0] == "previous_response_not_found"


async def test_a_conversation_that_went_on(asks: AsyncOpenAI, answers: AsyncOpenAI) -> None:
    on: Any = {"conversation": (await asks.conversations.create()).id}
    first = await asks.responses.create(model="chat-asking", input=script([pay("late")]), **on)
    [request] = requests_in(first)
    await answers.responses.create(model="chat-asking", input=script(), **on)
    said = await refused(answers, model="chat-asking", input=[answer(request)], **on)
    assert said["code"] == "approval_passed"


@pytest.mark.parametrize(
    "change",
    ["format = 99", "written_by = 'openai-agents 9.9.9, RunState 99.1'"],
    ids=["ours", "the SDK's"],
)
async def test_what_this_version_cannot_read(
    found: Ground, asks: AsyncOpenAI, answers: AsyncOpenAI, change: str
) -> None:
    first = await asks.responses.create(model="chat-asking", input=script([pay("unread")]))
    [request] = requests_in(first)
    await found.sql(f"UPDATE parked SET {change} WHERE response_id = $1", first.id)
    said = await refused(
        answers, model="chat-asking", input=[answer(request)], previous_response_id=first.id
    )
    assert said["code"] == "approval_not_readable"
    assert "99" in said["message"] or "9.9.9" in said["message"]


async def test_what_is_not_stored_cannot_wait(asks: AsyncOpenAI) -> None:
    first = await asks.responses.create(
        model="chat-asking", input=script([pay("unstored")]), store=False
    )
    assert first.status == "failed"
    assert first.error is not None
    assert "'pay' needs an approval" in first.error.message


# -- replicas that die ------------------------------------------------------------------------


async def test_what_was_done_when_a_replica_dies_is_not_done_again(
    found: Ground, asks: AsyncOpenAI, provider: Provider
) -> None:
    """The one that goes on dies behind the approved calls, in the model's turn."""
    display = found.schema.removeprefix("answers_")
    gate = f"after-approval-{display}"
    first = await asks.responses.create(
        model="responses-asking",
        input=script(
            [pay(f"fine-{display}"), pay(f"good-{display}")],
            {"items": [{"text": "hm"}], "gate": gate},
            show=True,
        ),
    )
    [doomed] = found.start(1)
    async with client_of(doomed) as client:
        second = await client.responses.create(
            model="responses-asking",
            previous_response_id=first.id,
            input=[answer(each) for each in requests_in(first)],
            background=True,
        )
    await asyncio.to_thread(provider.gates.reached, gate)
    doomed.signal(signal.SIGKILL)
    doomed.wait()
    await found.all_at_attempt([second.id], 2)
    provider.gates.open(gate)
    await found.all_finished([second.id])
    ended = await asks.responses.retrieve(second.id)
    assert ended.status == "completed", (ended.error, found.logs()[-3000:])
    said = [(name, said) for name, said in called(ended)]
    assert said == [("pay", f"paid fine-{display}"), ("pay", f"paid good-{display}")]
    assert sorted(effects(found, f"-{display}"))[-2:] == [
        f"tool pay fine-{display}",
        f"tool pay good-{display}",
    ]
