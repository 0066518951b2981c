"""Approvals in the store: parked with the end, answered with a creation, gone with their row."""

import asyncio
import dataclasses

import pytest

from longrun import ids
from longrun.errors import AlreadyAnswered
from longrun.history.approvals import answers_in, answers_to
from longrun.protocol import GOES_ON
from longrun.store.approvals import Approvals
from longrun.store.database import Database
from longrun.store.records import Ending, Parked
from longrun.store.responses import NewResponse, Responses
from tests.storing import add_response, event, log_of, request_for, writing

STATE = Parked((1, 3), 1, "the tests", '{"a": "\\u0000"}')


async def parked(store: Database, principal: str = "alice", state: Parked = STATE) -> str:
    """A response that has ended, and asks for approvals at the output indexes 1 and 3."""
    response_id = await add_response(store, principal=principal)
    async with writing(store) as writer:
        run = log_of(writer, response_id)
        run.append([event(1, "response.completed")], ending=Ending("completed", "{}", parked=state))
        await run.flush()
    return response_id


def answering(response_id: str, *indexes: int, principal: str = "alice") -> NewResponse:
    """A response that goes on from another, with answers to these of its requests."""
    answers = [
        {
            "type": "mcp_approval_response",
            "approval_request_id": ids.item_id(response_id, index, "mcp_approval_request"),
            "approve": True,
        }
        for index in indexes
    ]
    request = dataclasses.replace(
        request_for(ids.new_response_id(), principal),
        input=answers,
        parameters={GOES_ON: response_id},
        previous_id=response_id,
    )
    return NewResponse(request, [event(0, "response.created")])


async def answered(store: Database, response_id: str) -> dict[int, str | None]:
    """Of the requests of a response, which response has answered each."""
    found = await Approvals(store).find([(response_id, n) for n in range(5)], "alice")
    return {
        index: asked.answered_by if asked.answered else asked.answered_by and "passed"
        for (_, index), asked in found.items()
    }


async def test_what_is_parked_comes_with_the_end_and_is_read_again(store: Database) -> None:
    response_id = await parked(store)
    read = await Approvals(store).parked_unscoped(response_id)
    assert read == STATE._replace(requests=[1, 3])
    assert await answered(store, response_id) == {1: None, 3: None}


async def test_a_request_is_answered_once_and_by_none_but_its_principal(store: Database) -> None:
    response_id = await parked(store)
    first, both = answering(response_id, 3), answering(response_id, 1, 3)
    responses = Responses(store)
    await responses.create(first)
    with pytest.raises(AlreadyAnswered):
        await responses.create(both)
    # Nothing of it is left: neither the response nor its other answer.
    assert await responses.get(both.request.response_id, "alice") is None
    # What was not answered is asked again by the response that went on.
    assert await answered(store, response_id) == {1: "passed", 3: first.request.response_id}
    assert await Approvals(store).find([(response_id, 1)], "mallory") == {}


async def test_of_answers_at_once_one_wins(store: Database) -> None:
    response_id = await parked(store)
    tried = [answering(response_id, 1) for _ in range(8)]
    done = await asyncio.gather(
        *(Responses(store).create(each) for each in tried), return_exceptions=True
    )
    assert [type(each) for each in done if each is not None] == [AlreadyAnswered] * 7


@pytest.mark.parametrize("expired", [False, True])
async def test_it_goes_with_its_response(store: Database, expired: bool) -> None:
    response_id = await parked(store)
    responses = Responses(store)
    await responses.create(answering(response_id, 1))
    if expired:
        await responses.delete_unscoped(response_id)
    else:
        await responses.delete(response_id, "alice")
    schema = store.settings.db_schema
    left = await store.fetch(
        f'SELECT response_id FROM "{schema}".parked UNION '
        f'SELECT response_id FROM "{schema}".answers'
    )
    assert left == []
    with pytest.raises(AlreadyAnswered):
        await responses.create(answering(response_id, 3))


async def test_an_end_that_a_failover_lost_parks_again(store: Database) -> None:
    response_id = await parked(store)
    schema = store.settings.db_schema
    await store.execute(
        f'UPDATE "{schema}".responses SET status = $2, finished_at = NULL WHERE id = $1',
        response_id,
        "in_progress",
    )
    async with writing(store) as writer:
        run = log_of(writer, response_id, first=2)
        again = STATE._replace(requests=(2,), state='{"again": true}')
        run.append([event(2, "response.completed")], ending=Ending("completed", "{}", parked=again))
        await run.flush()
    assert await answered(store, response_id) == {2: None}


def test_answers_are_read_from_the_input_of_their_response() -> None:
    one, other = ids.new_response_id(), ids.new_response_id()
    given = [*answering(one, 1).request.input, *answering(other, 2).request.input]
    given[0]["approve"], given[0]["reason"] = False, "too dear"
    assert answers_to([{"role": "user", "content": "hm"}, *given], one) == {1: (False, "too dear")}
    assert len(answers_in(given)) == 2
