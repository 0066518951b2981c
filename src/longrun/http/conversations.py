"""`/conversations` and their items: create, get, update, list, delete."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, Final, Never, get_args

from openai.types.conversations import Conversation as ConversationObject
from openai.types.conversations import ConversationDeletedResource
from openai.types.responses.response_includable import ResponseIncludable
from pydantic import Field
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import BaseRoute, Route
from starlette.types import ASGIApp

from longrun import ids
from longrun.errors import BadRequest, NotFound
from longrun.history.cleaning import kind_of
from longrun.history.continuation import Stored, lost_reference
from longrun.history.conversation import Before
from longrun.http.access import principal_of, reader_of
from longrun.http.answers import JSONAnswer
from longrun.http.bodies import Bodies, Body
from longrun.http.items import CheckedItems, checked_items
from longrun.http.limits import is_too_deep
from longrun.http.lists import Item, ListedItem, ListQuery, as_item
from longrun.http.long_answers import Room
from longrun.http.options import Metadata
from longrun.http.pages import answered, as_page, fitting
from longrun.http.problems import item_not_found, shortened
from longrun.jsontext import dumps, loads
from longrun.operations import PageOf, operation
from longrun.store.conversations import Conversation, ConversationItem, Conversations
from longrun.store.conversations import ListedItem as ListedOne
from longrun.store.responses import Responses

INCLUDABLE: Final = frozenset(get_args(ResponseIncludable))
"""What `include` may name. All that is known of an item is shown, whether it is named or not."""

MOST_ITEMS: Final = 20
"""Items that one request may add, as with OpenAI."""


class CreateConversation(Body):
    items: Annotated[CheckedItems, Field(fail_fast=True)] = Field(default=[])
    metadata: Metadata = Field(default={})


class UpdateConversation(Body):
    metadata: Metadata = Field(default={})


class AddItems(Body):
    items: CheckedItems


@dataclass(frozen=True, slots=True)
class ConversationsAPI:
    """The endpoints of the Conversations API.

    Args:
        cell: the one in which conversations and items are made.
    """

    conversations: Conversations
    responses: Responses
    bodies: Bodies
    cell: str
    room: Room

    def routes(self) -> list[BaseRoute]:
        """The routes, the same at the root and under `/v1`."""
        one, items = "/conversations/{id}", "/conversations/{id}/items"
        endpoints = (
            ("POST", "/conversations", self.create),
            ("GET", one, self.get),
            ("POST", one, self.update),
            ("DELETE", one, self.delete),
            ("POST", items, self.add_items),
            ("GET", items, self.list_items),
            ("GET", items + "/{item_id}", self.get_item),
            ("DELETE", items + "/{item_id}", self.delete_item),
        )
        return [
            Route(prefix + path, endpoint, methods=[method])
            for prefix in ("", "/v1")
            for method, path, endpoint in endpoints
        ]

    # -- conversations ------------------------------------------------------------------------

    @operation(ConversationObject, body=CreateConversation, errors=(421,))
    async def create(self, request: Request) -> Response:
        """`POST /conversations`: create a conversation, with items or empty."""
        body = await self.bodies.read(request, CreateConversation.parse)
        given = self._checked(body.items)
        found = await self._referred_to(given, principal_of(request))
        made = await self.conversations.create(
            ids.new_conversation_id(self.cell),
            principal_of(request),
            dumps(body.metadata).decode(),
            new_items(given, found, self.cell),
        )
        return JSONAnswer(as_conversation(made))

    @operation(ConversationObject)
    async def get(self, request: Request) -> Response:
        """`GET /conversations/{id}`: a conversation, without its items."""
        return JSONAnswer(as_conversation(await self._known(request, await self._reader(request))))

    @operation(ConversationObject, body=UpdateConversation)
    async def update(self, request: Request) -> Response:
        """`POST /conversations/{id}`: replace its metadata."""
        body = await self.bodies.read(request, UpdateConversation.parse)
        found = await self.conversations.update(
            _id_in(request), principal_of(request), dumps(body.metadata).decode()
        )
        return JSONAnswer(as_conversation(found or _missing(request)))

    @operation(ConversationDeletedResource)
    async def delete(self, request: Request) -> Response:
        """`DELETE /conversations/{id}`: delete it with its items. Responses stay."""
        conversation_id = _id_in(request)
        if not await self.conversations.delete(conversation_id, principal_of(request)):
            _missing(request)
        told = {"id": conversation_id, "object": "conversation.deleted", "deleted": True}
        return JSONAnswer(told)

    # -- items --------------------------------------------------------------------------------

    @operation(PageOf[ListedItem], body=AddItems)
    async def add_items(self, request: Request) -> Response:
        """`POST /conversations/{id}/items`: add items at its end."""
        _check_include(request)
        body = await self.bodies.read(request, AddItems.parse)
        principal = principal_of(request)
        conversation = await self._known(request, principal)
        given = self._checked(body.items)
        found = await self._referred_to(given, principal, conversation.id)
        items = new_items(given, found, self.cell)
        if not await self.conversations.add(conversation.id, principal, items):
            _missing(request)
        return JSONAnswer(as_page([shown(item, found) for item in items], has_more=False))

    @operation(PageOf[ListedItem], query=ListQuery)
    async def list_items(self, request: Request) -> ASGIApp:
        """`GET /conversations/{id}/items`: a page of its items."""
        _check_include(request)
        query = ListQuery.parse(request)
        reader = await self._reader(request)
        await self._known(request, reader)
        found = await self.conversations.listed(
            _id_in(request),
            reader,
            # One more than is shown tells whether there are more.
            limit=query.limit + 1,
            newest_first=query.order == "desc",
            after=query.after,
        )
        if found is None:
            raise BadRequest("after must be the id of one of the listed items.", param="after")
        short = [loads(each.item) for each in found if each.item is not None]
        leads = await self._measured(short, reader, _id_in(request))
        sizes = [each.bytes + _size_behind(each, leads) for each in found]
        count = fitting(sizes, query.limit)

        async def read() -> dict[str, Any]:
            return await self._page(_id_in(request), reader, found[:count], len(found) > count)

        return await answered(self.room, sum(sizes[:count]), read)

    async def _page(
        self, conversation_id: str, reader: str, listed: Sequence[ListedOne], has_more: bool
    ) -> dict[str, Any]:
        long = [each.id for each in listed if each.item is None]
        read = await self.conversations.items(conversation_id, reader, long)
        items = [
            read[each.id] if each.item is None else ConversationItem(each.id, each.item)
            for each in listed
            if each.item is not None or each.id in read
        ]
        # A reference may be long itself, and was not measured then.
        late = await self._measured(
            [loads(each.item) for each in read.values()], reader, conversation_id
        )
        count = fitting([len(each.item) + _size_behind(each, late) for each in items], len(items))
        named = await self._referred_to(
            [loads(each.item) for each in items[:count]], reader, conversation_id
        )
        data = [shown(item, named) for item in items[:count]]
        return as_page(data, has_more=has_more or count < len(items))

    async def _measured(
        self, items: Sequence[Item], principal: str, conversation_id: str
    ) -> dict[str, int]:
        """How many bytes are read for what references among items lead to, by id."""
        references = [item for item in items if kind_of(item) == "item_reference"]
        found = await self.responses.histories.measured(references, principal)
        own = [item["id"] for item in references if item["id"] not in found]
        there = [name for name in own if "\0" not in name]
        return {**found, **await self.conversations.measured(conversation_id, principal, there)}

    @operation(ListedItem)
    async def get_item(self, request: Request) -> Response:
        """`GET /conversations/{id}/items/{item_id}`: one of its items."""
        _check_include(request)
        reader = await self._reader(request)
        await self._known(request, reader)
        found = await self.conversations.item(_id_in(request), reader, _item_id_in(request))
        stored = found or _missing_item(request)
        named = await self._referred_to([loads(stored.item)], reader, _id_in(request))
        return JSONAnswer(shown(stored, named))

    @operation(ConversationObject)
    async def delete_item(self, request: Request) -> Response:
        """`DELETE /conversations/{id}/items/{item_id}`: delete one of its items."""
        conversation = await self._known(request, principal_of(request))
        if not await self.conversations.delete_item(
            conversation.id, principal_of(request), _item_id_in(request)
        ):
            _missing_item(request)
        return JSONAnswer(as_conversation(conversation))

    def _checked(self, given: Sequence[Any]) -> list[Item]:
        return checked_new_items(given, self.bodies.limits.depth)

    async def _referred_to(
        self, items: Sequence[Item], principal: str, conversation_id: str | None = None
    ) -> dict[str, Stored]:
        """What references among items lead to, by id: items of responses, or of the conversation
        itself. Without those that are not there."""
        references = [item for item in items if kind_of(item) == "item_reference"]
        found = await self.responses.histories.named_items(Before.of([], []), references, principal)
        for name in {item["id"] for item in references} - found.keys():
            if conversation_id is not None and "\0" not in name:
                there = await self.conversations.item(conversation_id, principal, name)
                if there is not None:
                    found[name] = Stored(loads(there.item))
        return found

    async def _reader(self, request: Request) -> str:
        owner = self.conversations.owner_unscoped
        return await reader_of(request, _id_in(request), owner, ids.is_conversation_id)

    async def _known(self, request: Request, principal: str) -> Conversation:
        """A principal's conversation; the same error whether it is unknown or another's."""
        found = await self.conversations.get(_id_in(request), principal)
        return found or _missing(request)


def checked_new_items(given: Sequence[Any], depth: int) -> list[Item]:
    """Items to be added.

    Args:
        depth: how many levels of objects and lists they may have, their own list included.

    Raises:
        BadRequest: there are too many, or one of them is wrong.
    """
    if len(given) > MOST_ITEMS:
        raise BadRequest(
            f"items: at most {MOST_ITEMS} elements are allowed, got {len(given)}.",
            param="items",
            code="array_above_max_length",
        )
    if is_too_deep(given, depth):
        raise BadRequest(f"items: nested deeper than {depth} levels.", param="items")
    return checked_items(list(given), "items")


def new_items(
    given: Sequence[Item], found: Mapping[str, Stored], cell: str
) -> list[ConversationItem]:
    """Checked items, each with an id of ours. References are kept as they are: what they lead to
    may be deleted.

    Args:
        found: what the references lead to.
        cell: the one in which they are made.

    Raises:
        BadRequest: one leads to nothing.
    """
    lost = lost_reference(given, found)
    if lost is not None:
        raise item_not_found("items", *lost)
    return [
        ConversationItem(ids.new_item_id(kind_of(_led_to(item, found)), cell), dumps(item).decode())
        for item in given
    ]


def shown(stored: ConversationItem, found: Mapping[str, Stored]) -> Item:
    """An item as lists show it; in place of a reference what that leads to, if it is there."""
    return as_item(_led_to(loads(stored.item), found), stored.id)


def _size_behind(listed: ListedOne | ConversationItem, leads: Mapping[str, int]) -> int:
    """How many bytes what a reference leads to has; 0 of what is none, or was not looked at."""
    if not leads or listed.item is None:
        return 0
    item = loads(listed.item)
    return leads.get(item["id"], 0) if kind_of(item) == "item_reference" else 0


def _led_to(item: Item, found: Mapping[str, Stored]) -> Item:
    if kind_of(item) == "item_reference" and item["id"] in found:
        return found[item["id"]].item
    return item


def as_conversation(stored: Conversation) -> dict[str, Any]:
    """The Conversation object."""
    return {
        "id": stored.id,
        "object": "conversation",
        "created_at": stored.created_at,
        "metadata": loads(stored.metadata),
    }


def not_found(conversation_id: str, param: str) -> NotFound:
    return NotFound(
        f"Conversation with id {shortened(conversation_id)!r} not found.",
        param=param,
        lost=conversation_id,
    )


def _id_in(request: Request) -> str:
    """The id in a path, which Postgres can compare.

    Raises:
        NotFound: it is not one of ours.
    """
    conversation_id: str = request.path_params["id"]
    return conversation_id if ids.is_conversation_id(conversation_id) else _missing(request)


def _item_id_in(request: Request) -> str:
    item_id: str = request.path_params["item_id"]
    return item_id if "\0" not in item_id else _missing_item(request)


def _check_include(request: Request) -> None:
    """Check the `include` of a query, which SDKs write `include[]`, `include[0]` or `include`.

    Raises:
        BadRequest: it names what no item has.
    """
    for key, value in request.query_params.multi_items():
        if key.partition("[")[0] == "include" and value and value not in INCLUDABLE:
            known = ", ".join(sorted(INCLUDABLE))
            raise BadRequest(
                f"include: {shortened(value)!r} is not one of {known}.", param="include"
            )


def _missing(request: Request) -> Never:
    raise not_found(request.path_params["id"], "id")


def _missing_item(request: Request) -> Never:
    item_id = shortened(request.path_params["item_id"])
    raise NotFound(f"Item with id {item_id!r} not found.", param="item_id")
