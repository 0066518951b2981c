"""A context as the model that gets it is to have it: no provider knows what another one gave.

What a provider gave goes back to it in its own form. Any other gets what the items say, without
ids; reasoning and calls of hosted tools, which only their provider knows, are left out. Where an
item has lost the reasoning that it must follow, or reasoning what must follow it, it goes without
its id, or not at all.
"""

import hashlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, Final, NamedTuple

from longrun.history import chat
from longrun.history.cleaning import kind_of, needs_id, said
from longrun.history.faces import PLACEHOLDER_ID, Face, Origin
from longrun.history.mending import Call, answered_by, call_of
from longrun.history.pairs import as_pair

Item = dict[str, Any]

Place = tuple[str, int]
"""Where an item was given: a response, and the output index there."""

LONGEST_CALL_ID: Final = {"chat": 40, "responses": 64, "other": 64}
"""Characters of a call's id, by API. An adapter takes what it gave itself, however long."""


class Known(NamedTuple):
    """An item of a model's input, and what is known of it.

    `face` is None of what no model is known to have given: users' items, outputs of tools, what
    clients and code brought along. `place` is that of an item of an earlier response: only such a
    one has another form in this run than its model knows.
    """

    item: Item
    face: Face | None = None
    place: Place | None = None

    def is_of(self, target: Origin) -> bool:
        return self.face is not None and self.face.origin == str(target)

    @property
    def is_reasoning(self) -> bool:
        return kind_of(self.item) == "reasoning"

    def follows(self, before: "Known") -> bool:
        """Whether it was given right behind that one."""
        if self.place is None or before.place is None:
            return False
        (response, index), (other, its) = self.place, before.place
        return response == other and index == its + 1


Formed = tuple[Known, Item | None]
"""An item, and the form in which its target takes it; None: it cannot be given."""


def for_target(items: Sequence[Known], target: Origin) -> list[Item]:
    """The input of a model, each item in the form in which `target` takes it."""
    parted = [part for known in items for part in _parted(known, target)]
    formed = [(known, _formed(known, target)) for known in parted]
    if target.api == "responses":
        formed = list(_with_neighbours(formed, target))
    lost = {call_of(known.item) for known, form in formed if form is None} - {None}
    kept = [
        (known, form)
        for known, form in formed
        if form is not None and answered_by(known.item) not in lost
    ]
    names = dict(_names(kept, target))
    if target.api == "chat":
        kept = [kept[place] for place in chat.ordered([known.item for known, _ in kept])]
    found = [_named(known, form, names, target) for known, form in kept]
    return list(map(chat.with_placeholder, found)) if target.api == "chat" else found


def _parted(known: Known, target: Origin) -> Iterable[Known]:
    """A call that another provider, or a handler, has executed: it is told as a call and its
    output, which any model knows."""
    face = known.face
    foreign = face is not None and face.origin is not None and not known.is_of(target)
    if kind_of(known.item) != "mcp_call" or not foreign:
        return (known,)
    call, *output = as_pair(known.item)
    call.pop("id", None)
    return [Known(call), *map(Known, output)] if output else ()


def _formed(known: Known, target: Origin) -> Item | None:
    item, face, place = known
    own = known.is_of(target)
    form = item
    if face is not None and face.origin is not None and not own:
        if known.is_reasoning:
            return None
        form = said(item)
    elif place is not None:
        form = {key: value for key, value in item.items() if key != "id"}
        if face is not None:
            # Not its call id: that of its output would have to be the same (`calls_of`).
            form.update((key, each) for key, each in face.given.items() if key != "call_id")
    if target.api == "chat":
        return chat.taken(form, own=own or item.get("id") == PLACEHOLDER_ID)
    if needs_id(form) and form.get("id", PLACEHOLDER_ID) == PLACEHOLDER_ID:
        # Where a model of the user's own gives no ids, it wants none. What has the SDK's
        # placeholder comes from this very run.
        given = own or item.get("id") == PLACEHOLDER_ID
        return form if given and target.api == "other" else None
    return form


# -- neighbours -------------------------------------------------------------------------------


def _with_neighbours(formed: Sequence[Formed], target: Origin) -> Iterator[Formed]:
    """Without reasoning that has lost what was given behind it, nor what was given behind reasoning
    that is lost. What this run itself has got, the Agents SDK keeps together."""
    kept = [known for known, form in formed if form is not None]
    standing = _standing(kept, target)
    before: Known | None = None
    for known, form in formed:
        if form is not None and known.is_reasoning:
            form = form if id(known) in standing else None
        elif form is not None and not _is_held(known, before, target):
            form = {key: value for key, value in form.items() if key != "id"}
            form = None if needs_id(form) else form
        if form is not None:
            before = known
        yield known, form


def _is_held(known: Known, before: Known | None, target: Origin) -> bool:
    """Whether an item may have its id: what was given behind reasoning only behind that."""
    if known.face is None or known.place is None or not known.is_of(target):
        return True
    if not known.face.behind:
        return True
    return before is not None and before.is_reasoning and known.follows(before)


def _standing(kept: Sequence[Known], target: Origin) -> set[int]:
    """The reasoning that has behind it what was given behind it, by `id()`."""
    standing: set[int] = set()
    behind: Known | None = None
    for known in reversed(kept):
        if known.is_reasoning and _stands(known, behind, target, standing):
            standing.add(id(known))
        behind = known
    return standing


def _stands(known: Known, behind: Known | None, target: Origin, standing: set[int]) -> bool:
    if known.place is None:
        return known.face is not None or _is_free(known.item) or _is_given(behind)
    if behind is None or behind.face is None or not behind.face.behind:
        return False
    if not behind.follows(known) or not behind.is_of(target):
        return False
    return not behind.is_reasoning or id(behind) in standing


def _is_free(reasoning: Item) -> bool:
    """Whether a client's reasoning can be given whatever follows it."""
    return "id" not in reasoning


def _is_given(known: Known | None) -> bool:
    """Whether a model has given an item, as far as its type tells."""
    if known is None or answered_by(known.item) is not None:
        return False
    return kind_of(known.item) != "message" or known.item.get("role") == "assistant"


# -- call ids ---------------------------------------------------------------------------------


def calls_of(items: Iterable[Known]) -> dict[str, dict[str, str]]:
    """Of the calls of earlier responses whose models gave another id than they have in the run: the
    given one by that one, by origin."""
    found: dict[str, dict[str, str]] = {}
    for item, face, place in items:
        if place is None or face is None or face.origin is None:
            continue
        given, call_id = face.given.get("call_id"), item.get("call_id")
        if isinstance(given, str) and isinstance(call_id, str):
            found.setdefault(face.origin, {})[call_id] = given
    return found


def _names(kept: Sequence[tuple[Known, Item]], target: Origin) -> Iterator[tuple[Call, str]]:
    """Other ids for calls whose own would be too long for a provider that did not give them; and
    for requests for an approval the ids that their provider gave."""
    longest = LONGEST_CALL_ID[target.api]
    for known, form in kept:
        call = call_of(known.item)
        if call is None:
            continue
        kind, call_id = call
        if kind == "mcp_approval_request":
            yield call, str(form.get("id"))
            continue
        foreign = not known.is_of(target) and known.item.get("id") != PLACEHOLDER_ID
        if foreign and len(call_id) > longest:
            digest = hashlib.sha256(call_id.encode("utf-8", "surrogatepass"))
            yield call, f"call_{digest.hexdigest()[:32]}"


def _named(known: Known, form: Item, names: Mapping[Call, str], target: Origin) -> Item:
    call, answered = call_of(known.item), answered_by(known.item)
    name = names.get(call or answered or ("", ""))
    if name is not None and kind_of(form) == "mcp_approval_response":
        form = {**form, "approval_request_id": name}
    elif name is not None and kind_of(form) != "mcp_approval_request":
        form = {**form, "call_id": name}
    if target.api == "responses" and kind_of(form) == "local_shell_call_output":
        # OpenAI's type of it has no other field for its call; models of the user's own read what
        # the SDK gives them.
        call_id = form.get("call_id") or form.get("id")
        form = {**{key: each for key, each in form.items() if key != "call_id"}, "id": call_id}
    return form
