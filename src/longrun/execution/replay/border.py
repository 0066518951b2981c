"""The border of a run: what its models are given, in the form in which each takes it.

Within a run, items of earlier responses have our ids; outside, a provider sees only what it gave.
"""

from collections.abc import Iterable
from typing import Any

from longrun import ids
from longrun.history.faces import PLACEHOLDER_ID, Face, Origin
from longrun.history.targets import Known, calls_of, for_target
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
        for item in context.items:
            item_id = item.get("id")
            if isinstance(item_id, str) and ids.is_item_id(item_id):
                model = context.models.get(item_id)
                face = None if model is None else Face.read(model)
                self._context[item_id] = Known({}, face, ids.place_of_item(item_id) or (item_id, 0))
        self._given: dict[str, Face] = {}
        self.calls = calls_of(map(self._known, told))

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
        return for_target([self._known(item) for item in items], target)

    def _known(self, item: dict[str, Any]) -> Known:
        item_id = item.get("id")
        if not isinstance(item_id, str):
            return Known(item)
        known = self._context.get(item_id)
        return Known(item, self._given.get(item_id)) if known is None else known._replace(item=item)
