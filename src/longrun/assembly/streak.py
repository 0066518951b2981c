"""Streaks: deltas of one part that follow each other, which are most of what a model says."""

from dataclasses import dataclass
from typing import Any, Final, Self

from longrun.assembly.gathered import Gathered, ends_in_half
from longrun.assembly.kinds import JSONObject
from longrun.pending import LONGEST, Delta

_OWN: Final = frozenset({"delta", "item_id", "sequence_number"})
"""What each delta says for itself; ids of models tell nothing here (`Turn`)."""


@dataclass(slots=True)
class Streak:
    """The next deltas of a part whose first one went the whole way: what is said of one of them,
    but for its text, is what was said of the first. It is over with any other event of the model.

    Attributes:
        kind: the class of the events.
        fields: of the first one, as it left.
        count: how many fields each of them has.
        same: those that all of them have in common.
        gathered: where the part's text is gathered.
    """

    kind: type[Any]
    fields: JSONObject
    count: int
    same: list[tuple[str, Any]]
    gathered: Gathered

    @classmethod
    def after(cls, event: Any, fields: JSONObject, gathered: Gathered) -> Self | None:
        """The streak that begins with an event; None: each that follows may say something new."""
        if event.__pydantic_extra__ or fields.get("logprobs"):
            return None
        said = event.__dict__
        same = [(key, value) for key, value in said.items() if key not in _OWN]
        return cls(type(event), fields, len(said), same, gathered)

    def next(self, event: Any) -> Delta | None:
        """What leaves for an event; None: it does not belong to the streak."""
        if type(event) is not self.kind or event.__pydantic_extra__:
            return None
        said = event.__dict__
        text = said.get("delta")
        if type(text) is not str or len(text) > LONGEST or len(said) != self.count:
            return None
        for key, value in self.same:
            if said.get(key) != value:
                return None
        if ends_in_half(text):
            return None
        self.gathered.write(text)
        return Delta(self.fields, text)
