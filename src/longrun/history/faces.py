"""The two faces of an item: the client's, with our id, and the model's, as its provider gave it.

The client's face is stored whole; of the model's only what differs is stored beside it, as a JSON
object (`items.model`): the provider's ids, a call id that was not unique, encrypted reasoning,
`provider_data`. What an item says is the same in both, and is stored once.

    {"from": "responses api.openai.com/v1", "set": {"id": "msg_1"}, "behind": true}
"""

from dataclasses import dataclass, field
from typing import Any, Final, Literal, NamedTuple

from longrun.jsontext import dumps, loads

Item = dict[str, Any]

API = Literal["responses", "chat", "other"]
"""How a model asks its provider: the Responses API, Chat Completions, or in a way of its own."""


class Origin(NamedTuple):
    """Who gave an item, or is to get it: what one provider gave, no other knows."""

    api: API
    provider: str

    def __str__(self) -> str:
        return f"{self.api} {self.provider}"


PLACEHOLDER_ID: Final = "__fake_id__"
"""What the Agents SDK gives items of models that have no ids, as their id."""

_OWN: Final = frozenset({"call_id", "encrypted_content", "id"})
"""Keys whose values may differ between the two faces of an item. All others that both have mean the
same in both, even where ours has lists that clients iterate over without asking."""

_NEVER: Final = frozenset({"status", "type"})
"""Keys that say nothing which the other face does not."""


@dataclass(frozen=True, slots=True)
class Face:
    """How an item's model gave it, beside what clients see.

    Attributes:
        origin: the `Origin` that gave it, as text; None: no model did.
        given: keys of the model's face that the client's has not, or has with another value.
        behind: it stood right behind reasoning, which providers want before it again.
    """

    origin: str | None = None
    given: Item = field(default_factory=dict)
    behind: bool = False

    @classmethod
    def of(cls, shown: Item, given: Item, origin: str | None, *, behind: bool = False) -> "Face":
        """The model's face of an item.

        Args:
            shown: the item as clients see it.
            given: the item as its model gave it; of another type where clients see one item in
                place of a call and its output.
        """
        found = {
            key: value
            for key, value in given.items()
            if value is not None
            and key not in _NEVER
            and (key not in shown or (key in _OWN and shown[key] != value))
        }
        if found.get("id") == PLACEHOLDER_ID:
            del found["id"]
        return cls(origin, found, behind)

    @classmethod
    def read(cls, text: str | None) -> "Face":
        """The face of a row of `items`, by its column `model`."""
        if text is None:
            return NO_FACE
        read = loads(text)
        return cls(read.get("from"), read.get("set") or {}, bool(read.get("behind")))

    def text(self) -> str | None:
        """As it is stored; None where the client's item, cleaned, is the model's."""
        if not self.given and not self.behind:
            return None
        told: Item = {}
        if self.origin is not None:
            told["from"] = self.origin
        if self.given:
            told["set"] = self.given
        if self.behind:
            told["behind"] = True
        return dumps(told).decode()


NO_FACE: Final = Face()
"""Of an item that is the same for clients and models, but for our id and status."""
