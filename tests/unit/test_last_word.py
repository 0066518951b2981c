"""Who begins a run that continues others."""

from typing import Any

from agents import Agent, handoff

from longrun import ids
from longrun.execution.last_word import reached, who_begins
from longrun.protocol import Context, RunRequest
from longrun.store.histories import Spoken
from longrun.store.records import Step
from tests.storing import request_for

EARLIER = [ids.new_response_id() for _ in range(12)]


class Found:
    """What `Histories` finds."""

    def __init__(self, spoken: Spoken | None) -> None:
        self.spoken = spoken
        self.asked: list[str] = []

    async def last_spoken(self, response_ids: Any, principal: str) -> Spoken | None:
        self.asked = list(response_ids)
        return self.spoken


def continuing(*items: dict[str, Any], own: int = 0) -> RunRequest:
    made = request_for(ids.new_response_id(), agent="front")
    object.__setattr__(made, "context", Context(list(items), {}, own))
    return made


def item(n: int, index: int = 0) -> dict[str, Any]:
    return {"id": ids.item_id(EARLIER[n], index, "message")}


async def begins(found: Any, request: RunRequest, *steps: Step, last: bool = True) -> str | None:
    return await who_begins(request, steps, found, last=last)


async def test_the_one_that_spoke_last() -> None:
    found = Found(Spoken("front", '{"agent":"expert","input_digest":"x"}'))
    request = continuing(item(0), item(0, 1), {"role": "user"}, item(1), item(2), own=1)
    assert await begins(found, request) == "expert"
    assert found.asked == [EARLIER[1], EARLIER[0]], "what the request brings itself is no turn"
    assert await begins(found, continuing(*map(item, range(12)))) == "expert"
    assert found.asked == EARLIER[:1:-1]


async def test_not_where_another_model_was_asked_for_or_nobody_spoke_or_nothing_came() -> None:
    other = Found(Spoken("other", '{"agent":"expert"}'))
    assert await begins(other, continuing(item(0))) is None
    assert await begins(Found(None), continuing(item(0))) is None
    same = Found(Spoken("front", '{"agent":"expert"}'))
    assert await begins(same, continuing(item(0)), last=False) is None
    assert await begins(same, continuing(item(0), own=1)) is None
    assert same.asked == []


async def test_an_attempt_begins_as_the_one_before_it_did() -> None:
    found = Found(Spoken("front", '{"agent":"expert"}'))
    steps = [
        Step("/call", "model", "0", '{"agent":"nested"}', "{}"),
        Step("", "model", "1", '{"agent":"boss"}', "{}"),
        Step("", "model", "0", '{"agent":"front"}', "{}"),
    ]
    assert await begins(found, continuing(item(0)), *steps) == "front"


def test_an_agent_is_found_through_handoffs_and_their_circles() -> None:
    boss: Agent[Any] = Agent(name="boss")
    expert: Agent[Any] = Agent(name="expert", handoffs=[handoff(boss)])
    front: Agent[Any] = Agent(name="front", handoffs=[expert])
    expert.handoffs.append(front)
    assert reached(front, "boss") is boss
    assert reached(boss, "front") is boss, "nobody hands back from there"
    assert reached(front, "front") is front
    assert reached(front, "gone") is front
    assert reached(front, None) is front
