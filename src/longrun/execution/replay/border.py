"""The border of a run: what its models are given, in the form in which each takes it.

Within a run, items of earlier responses have our ids; outside, a provider sees only what it gave.
"""

from collections.abc import Iterable
from typing import Any

from longrun import ids
from longrun.history.faces import PLACEHOLDER_ID, Face, Origin
from longrun.history.targets import LONGEST_CALL_ID, Known, calls_of, for_target
from longrun.protocol import Context


class Border:
    """That of one run, and of the runs inside it.

    Args:
        context: what the run began with.
        told: the items of it, as they went into the run.

    Attributes:
        calls: by origin, the ids that models gave calls of the context, by those in the run.
    """

    def __init__(self, context: Context, told: Iterable[dict[str, Any]]) -> None:
        self._context: dict[str, Known] = {}
        renames = False
        for item in context.items:
            item_id = item.get("id")
            if isinstance(item_id, str) and ids.is_item_id(item_id):
                model = context.models.get(item_id)
                face = None if model is None else Face.read(model)
                renames = renames or (face is not None and "call_id" in face.given)
                self._context[item_id] = Known({}, face, ids.place_of_item(item_id) or (item_id, 0))
        self._given: dict[str, Face] = {}
        self.calls = calls_of(map(self._known, told)) if renames else {}

    def came_in(self, output: Iterable[Any], origin: str) -> None:
        """A model of the run has given these items."""
        face = Face(origin)
        for item in output:
            item_id = item.get("id") if isinstance(item, dict) else getattr(item, "id", None)
            if isinstance(item_id, str) and item_id != PLACEHOLDER_ID:
                self._given[item_id] = face

    def as_parked(self) -> dict[str, str]:
        """Who gave each item of the run, by its id; for `came_in` in a later response."""
        return {id_: face.origin for id_, face in self._given.items() if face.origin is not None}

    def going_out(self, items: Any, target: Origin) -> Any:
        """The input of a model as it is to have it; text as it is."""
        if not isinstance(items, list) or not all(isinstance(item, dict) for item in items):
            return items
        known, stays = items, []
        if target.api != "chat":
            first = self._stays_from(items, target)
            known, stays = items[:first], items[first:]
        return [*for_target([self._known(item) for item in known], target), *stays]

    def _stays_from(self, items: list[dict[str, Any]], target: Origin) -> int:
        """From which place on all items are in the form that their target takes. In a long run
        nearly all are: it has got them from that target itself."""
        first, origin = len(items), str(target)
        while first and self._stays(items[first - 1], origin, target):
            first -= 1
        # One more is looked at: whether reasoning stays depends on what is behind it.
        return first + 1

    def _stays(self, item: dict[str, Any], origin: str, target: Origin) -> bool:
        """Whether `for_target` leaves an item as it is, wherever it stands."""
        item_id, kind = item.get("id"), item.get("type") or "message"
        face = None
        if isinstance(item_id, str):
            if item_id in self._context:
                return False
            face = self._given.get(item_id)
            if face is not None and face.origin != origin:
                return False
        if kind == "function_call" or kind == "function_call_output":
            call_id = item.get("call_id")
            return type(call_id) is str and len(call_id) <= LONGEST_CALL_ID[target.api]
        return kind == "message" or (kind == "reasoning" and face is not None)

    def _known(self, item: dict[str, Any]) -> Known:
        item_id = item.get("id")
        if not isinstance(item_id, str):
            return Known(item)
        known = self._context.get(item_id)
        if known is None:
            return Known(item, self._given.get(item_id))
        return Known(item, known.face, known.place)
