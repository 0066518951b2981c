"""What is another principal's takes as long as what never was, in as many questions to Postgres:
neither the answer nor its time tells that it is there."""

import statistics
import time
from collections.abc import Awaitable, Callable, Sequence
from typing import Any

import asyncpg
import pytest

from longrun import ids
from longrun.store.claims import Claims
from longrun.store.connections import Session
from longrun.store.conversations import ConversationItem, Conversations
from longrun.store.database import Database
from longrun.store.responses import Responses
from tests.storing import add_response, event, log_of, writing

Ask = Callable[[str], Awaitable[Any]]

PAIRS = 60

TRIES = 5
"""Measurements of which one has to show no difference: other loads may make one in any."""

NEAR = 0.15


async def heavy(store: Database) -> str:
    """A live response of `alice`'s, of which to read anything takes long."""
    response_id = await add_response(store, principal="alice")
    item = '{"text": "' + "x" * 1_000_000 + '"}'
    async with writing(store) as writer:
        run = log_of(writer, response_id)
        for n in range(4):
            run.append([event(n + 1)], items=[(n, item)])
            await run.flush()
    await store.execute(
        f'UPDATE "{store.settings.db_schema}".responses SET document = $2, input = $2'
        " WHERE id = $1",
        response_id,
        item,
    )
    return response_id


async def heavy_conversation(store: Database) -> str:
    items = [
        ConversationItem(ids.new_item_id("message"), '{"text": "' + "x" * 100_000 + '"}')
        for _ in range(20)
    ]
    conversation_id = ids.new_conversation_id()
    await Conversations(store).create(conversation_id, "alice", "{}", items)
    return conversation_id


def of_responses(store: Database) -> dict[str, Ask]:
    responses, claims = Responses(store), Claims(store, "mine")
    return {
        "get": lambda id_: responses.get(id_, "bob"),
        "input": lambda id_: responses.inputs.of(id_, "bob"),
        "continue": lambda id_: responses.histories.chain_end(id_, "bob"),
        "cancel": lambda id_: claims.to_cancel(id_, "bob"),
    }


def of_conversations(store: Database) -> dict[str, Ask]:
    found = Conversations(store)
    return {
        "get": lambda id_: found.get(id_, "bob"),
        "update": lambda id_: found.update(id_, "bob", "{}"),
        "delete": lambda id_: found.delete(id_, "bob"),
        "add": lambda id_: found.add(id_, "bob", []),
    }


async def check(
    asks: dict[str, Ask],
    theirs: str,
    unknown: Callable[[], str],
    questions: Sequence[str],
) -> None:
    for name, ask in asks.items():
        said, count = [], []
        for id_ in (theirs, unknown()):
            before = len(questions)
            answer = await ask(id_)
            said.append(str(answer).replace(id_, "ID"))
            count.append(len(questions) - before)
        assert said[0] == said[1], name
        assert count == [1, 1], name
        ratios: list[float] = []
        for _ in range(TRIES):
            ratios.append(await ratio(ask, theirs, unknown))
            if abs(ratios[-1] - 1) < NEAR:
                break
        else:
            raise AssertionError(f"{name}: another's takes {ratios} times as long")


async def ratio(ask: Ask, theirs: str, unknown: Callable[[], str]) -> float:
    """How much longer it takes to ask for another's, as the median of many, asked in turn."""
    times: tuple[list[float], list[float]] = ([], [])
    for n in range(PAIRS * 2):
        which = (n + n // 2) % 2  # neither of the two is always the first
        id_ = unknown() if which else theirs
        began = time.perf_counter()
        await ask(id_)
        times[which].append(time.perf_counter() - began)
    return statistics.median(times[0]) / statistics.median(times[1])


@pytest.fixture
def questions(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The statements that were sent to Postgres."""
    sent: list[str] = []

    async def fetch(self: Session, query: str, *args: Any, **options: Any) -> Any:
        sent.append(query)
        return await asyncpg.Connection.fetch(self, query, *args, **options)

    monkeypatch.setattr(Session, "fetch", fetch)
    return sent


async def test_responses(store: Database, questions: list[str]) -> None:
    await check(of_responses(store), await heavy(store), ids.new_response_id, questions)


async def test_conversations(store: Database, questions: list[str]) -> None:
    theirs = await heavy_conversation(store)
    await check(of_conversations(store), theirs, ids.new_conversation_id, questions)
