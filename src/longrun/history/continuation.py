"""The context of a response: what came before it, and what its own request brought.

Clients send a history in four ways: by the response that they continue, by references to items, by
items with our ids, and by items without. An id of ours leads to the stored item, whose model's face
is beside it (`faces.py`); what has none of ours is cleaned (`cleaning.py`). So all four become the
same context, whose holes are mended (`mending.py`), and which is given to each model in the form in
which that one takes it (`targets.py`).
"""

import contextlib
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, NamedTuple

from longrun import ids
from longrun.history.approvals import is_ours
from longrun.history.cleaning import cleaned, kind_of, said
from longrun.history.context_compaction import NOTHING_COMPACTED, Compacted, content_of
from longrun.history.faces import NO_FACE, Face
from longrun.history.mending import mending
from longrun.history.pairs import as_pair
from longrun.jsontext import NotJSON, loads
from longrun.pieces import Pieces, at_once
from longrun.protocol import Context

Item = dict[str, Any]


class Stored(NamedTuple):
    """An item of ours: as clients see it, with its id, and what is stored of its model's face."""

    item: Item
    model: str | None = None


def wanted(items: Iterable[Item]) -> set[str]:
    """The ids of ours that the items of a request name, by reference or as their own."""
    named = (item.get("id") for item in items)
    return {each for each in named if isinstance(each, str) and ids.is_item_id(each)}


def lost_reference(items: Iterable[Item], found: Mapping[str, Stored]) -> tuple[int, str] | None:
    """The first reference among the items of a request that leads to nothing: its place and id."""
    for place, item in enumerate(items):
        if kind_of(item) == "item_reference" and item["id"] not in found:
            return place, item["id"]
    return None


def context_of(
    before: Iterable[tuple[list[Item], list[Stored]]],
    own: Iterable[Item],
    found: Mapping[str, Stored],
    compacted: Mapping[str, Compacted] = NOTHING_COMPACTED,
) -> Context:
    """The context of a response, as `in_context` makes it, in one go."""
    return at_once(in_context(before, own, found, compacted))


def in_context(
    before: Iterable[tuple[list[Item], list[Stored]]],
    own: Iterable[Item],
    found: Mapping[str, Stored],
    compacted: Mapping[str, Compacted] = NOTHING_COMPACTED,
) -> Pieces[Context]:
    """The context of a response, in pieces.

    Args:
        before: the input and the output of each response that it continues, in order.
        own: what its request brought.
        found: the stored items that any of these inputs name, by id. What is not among them was
            deleted: references to it are left out, and what was sent whole is the client's own.
        compacted: what the compaction items of ours among all of these stand for, by their
            `encrypted_content`.
    """
    items: list[Item] = []
    models: dict[str, str] = {}
    count = 0

    def stands_for_others(item: Item) -> bool:
        content = content_of(item)
        if content is None:
            return False
        nonlocal count
        own, one = len(items) - count, compacted[content]
        one.replace_in(items)
        if one.whole:
            # Of what the request brought before it, what it spares is left.
            count = len(items) - min(own, one.spares)
        return True

    def take(stored: Stored) -> None:
        if stands_for_others(stored.item):
            return
        items.append(stored.item)
        if stored.model is not None:
            models[stored.item["id"]] = stored.model

    def take_input(given: Iterable[Item]) -> Pieces[None]:
        for item in given:
            yield
            stored = found.get(item.get("id") or "")
            if stored is not None and _says_the_same(item, stored.item):
                take(stored)
            elif kind_of(item) != "item_reference" and not stands_for_others(item):
                items.append(cleaned(item))

    for given, output in before:
        yield from take_input(given)
        for stored in output:
            take(stored)
            yield
    count = len(items)
    yield from take_input(own)
    return Context(items, models, len(items) - count)


def responses_in(context: Context, most: int = 10) -> list[str]:
    """The responses that gave what comes before a request, the newest first; at most so many."""
    before = context.items[: len(context.items) - context.own]
    found: dict[str, None] = {}
    for item in reversed(before):
        place = ids.place_of_item(item.get("id") or "")
        if place is not None:
            found[place[0]] = None
            if len(found) == most:
                break
    return list(found)


def told(context: Context) -> list[Item]:
    """The items as they go into a run: each in a model's shape, none without its other half."""
    return at_once(telling(context))


def telling(context: Context) -> Pieces[list[Item]]:
    """The same items as `told` gives, made in pieces."""
    items: list[Item] = []
    for item in context.items:
        items += _told(item, context.models)
        yield
    return (yield from mending(items))


def shaped(context: Context) -> Iterator[Item]:
    """The items in a model's shape, also those whose other half is elsewhere."""
    return (item for each in context.items for item in _told(each, context.models))


def _told(item: Item, models: Mapping[str, str]) -> Iterator[Item]:
    item_id = item.get("id")
    ours = isinstance(item_id, str) and ids.is_item_id(item_id)
    if ours and is_ours(item, models):
        return
    face = Face.read(models.get(item_id or "")) if ours else NO_FACE
    # No provider takes one back without the id that it gave it, whoever executed it.
    unknown = not item_id or (ours and "id" not in face.given)
    if kind_of(item) == "mcp_call" and (unknown or "call_id" in face.given):
        yield from as_pair(item)
    else:
        yield {**said(item), "id": item_id} if ours else item


def _says_the_same(sent: Item, stored: Item) -> bool:
    """Whether what a client sent under an id of ours is that item. One that has changed what was
    said means what it sends."""
    kind = kind_of(sent)
    if kind == "item_reference":
        return True
    if kind != kind_of(stored):
        return False
    if kind == "message":
        return _texts(sent) == _texts(stored)
    keys = ("name", "arguments", "input", "call_id")
    return all(_is_same(sent.get(key), stored.get(key)) for key in keys)


def _is_same(sent: Any, stored: Any) -> bool:
    """Whether a client has left a value as it was, or out. Some read arguments and write them anew:
    the same JSON in other words."""
    if sent in (None, stored):
        return True
    with contextlib.suppress(NotJSON, TypeError):
        return bool(loads(sent) == loads(stored))
    return False


def _texts(message: Item) -> str:
    content = message.get("content")
    if isinstance(content, str):
        return content
    parts = [part for part in content or () if isinstance(part, dict)]
    return "".join(str(part.get("text") or part.get("refusal") or "") for part in parts)
