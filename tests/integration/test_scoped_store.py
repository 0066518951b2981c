"""Nobody else's, in Postgres: each method of the store that is for a principal, called for another
one with ids that are not theirs, finds what it finds for ids of nothing, and changes nothing.

The methods are found by their parameter `principal`, so that a new one is tried too.
"""

import inspect
import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from itertools import product
from typing import Any

import pytest

from longrun import ids
from longrun.errors import ConversationNotFound, TooManyRequests
from longrun.history.conversation import Before
from longrun.protocol import Allowance, RunRequest
from longrun.store.claims import Claims
from longrun.store.conversations import ConversationItem, Conversations
from longrun.store.database import Database
from longrun.store.histories import Histories
from longrun.store.inputs import Inputs
from longrun.store.overview import Overview, Wanted
from longrun.store.records import Ending, Part, Step
from longrun.store.responses import NewResponse, Page, Responses
from longrun.store.steers import Steers, Submission
from longrun.store.webhooks import Document, WebhookEndpoints
from tests.storing import REPLICA, event, log_of, request_for, writing

OWNER, OTHER = "alice", "alice/below"
"""A principal below is another one."""

LIVE = ("queued", "in_progress")


@dataclass
class Theirs:
    """What is the owner's: a finished response on a conversation with an item of it, and one that
    is live. And one of the other's that claims to continue the owner's."""

    finished: str
    live: str
    conversation: str
    item: str
    claiming: str
    endpoint: str


async def made(store: Database) -> Theirs:
    conversation = ids.new_conversation_id()
    item = ConversationItem("msg_secret", '{"role": "user", "content": "secret"}')
    await Conversations(store).create(conversation, OWNER, '{"secret": "1"}', [item])
    given = [{"role": "user", "content": "secret"}]
    request = replace(
        request_for(ids.new_response_id(), OWNER), conversation_id=conversation, input=given
    )
    await create(Responses(store), request)
    said = ids.item_id(request.response_id, 0, "message")
    async with writing(store) as writer:
        run = log_of(writer, request.response_id)
        run.append(
            [event(1, "response.completed")],
            items=[(0, json.dumps({"id": said, "secret": 1}))],
            steps=[Step("", "model", "1", "secret", "{}")],
            ending=Ending("completed", "{}", [Part(0, said)]),
        )
        await run.flush()
    claiming = replace(request_for(ids.new_response_id(), OTHER), previous_id=request.response_id)
    await create(Responses(store), claiming)
    live = replace(request_for(ids.new_response_id(), OWNER), previous_id=request.response_id)
    await create(Responses(store), live)
    endpoint = ids.new_webhook_endpoint_id()
    document = Document("secret", "http://secret.example/", "whsec_secret")
    await WebhookEndpoints(store).create(endpoint, OWNER, ["response.completed"], document, 10)
    return Theirs(
        *(request.response_id, live.response_id, conversation, said, claiming.response_id),
        endpoint,
    )


def nothing() -> Theirs:
    response = ids.new_response_id()
    item = ids.item_id(response, 0, "message")
    live, claiming = ids.new_response_id(), ids.new_response_id()
    endpoint = ids.new_webhook_endpoint_id()
    return Theirs(response, live, ids.new_conversation_id(), item, claiming, endpoint)


async def everything(store: Database) -> dict[str, list[str]]:
    """All rows of all tables, as text."""
    schema = store.settings.db_schema
    tables = await store.fetch("SELECT tablename FROM pg_tables WHERE schemaname = $1", schema)
    return {
        name: sorted(
            row[0] for row in await store.fetch(f'SELECT t::text FROM "{schema}"."{name}" AS t')
        )
        for (name,) in tables
    }


def values(theirs: Theirs, newest_first: bool) -> dict[str, Callable[[], Any]]:
    """Arguments by the names of parameters."""
    return {
        "response_id": lambda: theirs.finished,
        "response_ids": lambda: [theirs.finished, theirs.live],
        "conversation_id": lambda: theirs.conversation,
        "item_id": lambda: theirs.item,
        "item_ids": lambda: [theirs.item],
        "after": lambda: None,
        "metadata": lambda: "{}",
        "items": lambda: [ConversationItem("msg_new", "{}")],
        "own": lambda: references(theirs),
        "before": lambda: Before.of([], []),
        "chain": list,
        "found": dict,
        "on": lambda: theirs.finished,
        "limit": lambda: 10,
        "newest_first": lambda: newest_first,
        "new": lambda: Submission([{"role": "user", "content": "of another"}]),
        "kept": lambda: True,
        "check": lambda: lambda agent: None,
        "principal": lambda: OTHER,
        "endpoint_id": lambda: theirs.endpoint,
        "event_types": lambda: ["response.failed"],
        "name": lambda: "other",
        "url": lambda: "http://other.example/",
        "secret": lambda: "whsec_other",
        "overlap": lambda: 1.0,
    }


def references(theirs: Theirs) -> list[dict[str, Any]]:
    """An item of the output, and one of the input."""
    names = (theirs.item, ids.input_item_id(theirs.finished, 0, "message"))
    return [{"type": "item_reference", "id": name} for name in names]


def scoped_methods() -> Iterator[tuple[type[Any], str]]:
    of_principals = (Responses, Histories, Inputs, Conversations, Claims, Overview, Steers)
    for cls in (*of_principals, WebhookEndpoints):
        for name, method in inspect.getmembers(cls, inspect.iscoroutinefunction):
            if not name.startswith("_") and "principal" in inspect.signature(method).parameters:
                yield cls, name


CREATES = {"Conversations.create", "WebhookEndpoints.create"}
"""What makes something new for a principal, and is asked for nothing that is there."""

SCOPED = sorted(scoped_methods(), key=lambda each: (each[0].__name__, each[1]))


def of_replica(cls: type[Any], store: Database) -> Any:
    return Claims(store, REPLICA) if cls is Claims else cls(store)


@pytest.fixture
async def theirs(store: Database) -> Theirs:
    return await made(store)


async def test_9_each_method_for_a_principal_sees_nothing_of_anothers(
    store: Database, theirs: Theirs
) -> None:
    assert {f"{cls.__name__}.{name}" for cls, name in SCOPED} >= {
        *("Responses.get", "Responses.delete", "Histories.before", "Histories.named_items"),
        *("Conversations.get", "Conversations.delete_item", "Claims.to_cancel"),
        *("WebhookEndpoints.get", "WebhookEndpoints.rotate", "WebhookEndpoints.page"),
        *("Steers.accept", "Steers.of", "Inputs.of"),
    }
    before = await everything(store)
    for cls, name in SCOPED:
        if f"{cls.__name__}.{name}" in CREATES:
            continue
        results = []
        for asked, newest_first in product((theirs, nothing()), (True, False)):
            given = values(asked, newest_first)
            parameters = list(inspect.signature(getattr(cls, name)).parameters)[1:]
            unknown = [each for each in parameters if each not in given]
            assert not unknown, f"{cls.__name__}.{name}: say what {unknown} may be in this test"
            arguments = {each: given[each]() for each in parameters}
            if "response_id" in arguments and cls in (Claims, Steers):
                arguments["response_id"] = asked.live
            result = repr(await getattr(of_replica(cls, store), name)(**arguments))
            for one in (asked.finished, asked.live, asked.conversation, asked.item):
                result = result.replace(one, "…")
            results.append(result)
        assert len(set(results)) == 1, f"{cls.__name__}.{name}"
        assert await everything(store) == before, f"{cls.__name__}.{name}"


async def test_9_pages_and_requests_say_whose_they_are(store: Database, theirs: Theirs) -> None:
    before, responses = await everything(store), Responses(store)
    for newest_first in (True, False):
        # Older ones and newer ones of the owner's take no place.
        page = await responses.listed(Page(OTHER, 1, newest_first=newest_first))
        assert [each.id for each in page] == [theirs.claiming]
    for wanted in (Wanted(OTHER, 1), Wanted(OTHER, 1, text="["), Wanted(OTHER, 1, statuses=LIVE)):
        found, _ = await Overview(store).runs(wanted)
        assert [each.columns["id"] for each in found] == [theirs.claiming]
    assert [each.id for each in await responses.histories.chain(theirs.claiming, OTHER)] == [
        theirs.claiming
    ]
    assert await responses.histories.chain_end(theirs.claiming, OTHER) == (
        theirs.finished,
        "in_progress",
    )
    asked = replace(
        request_for(theirs.live, OTHER),
        previous_id=theirs.finished,
        conversation_id=theirs.conversation,
        input=references(theirs),
    )
    assert "secret" not in repr((await responses.histories.with_context(asked)).context)
    on = replace(request_for(ids.new_response_id(), OTHER), conversation_id=theirs.conversation)
    with pytest.raises(ConversationNotFound):
        await create(responses, on)
    assert await everything(store) == before
    # What is live of the owner's counts for nobody else.
    await create(
        responses,
        replace(request_for(ids.new_response_id(), OTHER), allowance=Allowance(max_live=2)),
    )
    with pytest.raises(TooManyRequests):
        await create(
            responses,
            replace(request_for(ids.new_response_id(), OTHER), allowance=Allowance(max_live=2)),
        )
    queued = replace(request_for(ids.new_response_id(), OWNER), allowance=Allowance(max_live=2))
    await responses.create(NewResponse(queued, [event(0, "response.created")]))
    more = replace(request_for(ids.new_response_id(), OTHER), allowance=Allowance(max_live=3))
    await create(responses, more)
    # The same questions, of the owner's, find something.
    assert len(await responses.listed(Page(OWNER, 10))) == 3
    mine = replace(asked, principal=OWNER, conversation_id=None)
    assert "secret" in repr((await responses.histories.with_context(mine)).context)


async def test_9_the_owner_is_found(store: Database, theirs: Theirs) -> None:
    """That each question has an answer for whom it is for: else none of the above shows a thing."""
    responses, conversations = Responses(store), Conversations(store)
    assert await responses.get(theirs.finished, OWNER) is not None
    assert await responses.inputs.of(theirs.finished, OWNER) is not None
    assert await Overview(store).run(theirs.finished, OWNER) is not None
    assert await responses.histories.chain(theirs.finished, OWNER) != []
    assert (await responses.histories.chain_end(theirs.finished, OWNER))[0] is None
    assert "secret" in repr(await responses.histories.before([], OWNER, theirs.finished))
    assert "secret" in repr(await responses.histories.last_spoken([theirs.finished], OWNER))
    for reference in references(theirs):
        assert "secret" in repr(
            await responses.histories.named_items(Before.of([], []), [reference], OWNER)
        )
    assert "secret" in repr(await responses.histories.before_on(theirs.conversation, OWNER))
    assert await conversations.get(theirs.conversation, OWNER) is not None
    assert await conversations.item(theirs.conversation, OWNER, theirs.item) is not None
    new = Submission([{"role": "user", "content": "secret"}])
    assert await Steers(store).accept(theirs.live, OWNER, new) is not None
    assert "secret" in repr(await Steers(store).of(theirs.live, OWNER))
    assert await Claims(store, REPLICA).to_cancel(theirs.live, OWNER) is not None
    assert await conversations.delete_item(theirs.conversation, OWNER, theirs.item)
    assert await responses.delete(theirs.finished, OWNER)


async def create(responses: Responses, request: RunRequest) -> None:
    await responses.create(NewResponse(request, [event(0, "response.created")], REPLICA))
