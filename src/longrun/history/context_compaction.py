"""Compacted contexts: a summary, and what is kept word for word, in place of what was said before.

An item of the type `compaction` carries one, in its `encrypted_content`. Only those of longrun are
understood here; a provider's own are its own affair, and pass as any other item of its does.
"""

from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field
from types import MappingProxyType
from typing import Any, Final

from longrun.history.cleaning import kind_of
from longrun.jsontext import dumps, loads

Item = dict[str, Any]

COMPACTION: Final = "compaction"
"""The type of the items."""

PREFIX: Final = "longrun."
"""How the `encrypted_content` of ours begins; the next thing in it is its version."""

INTRODUCTION: Final = (
    "The conversation before this message was compacted to save room. This is a summary of it, "
    "tool calls and their results included; go on from there."
)


@dataclass(frozen=True, slots=True)
class Compacted:
    """What stands for a context.

    Attributes:
        summary: of all of it.
        kept: items that are given word for word, before the summary.
        whole: it stands for everything that comes before its item, but for the last `spares`
            items. Else for what whoever asked for it has left out, and what is still there before
            it stays.
    """

    summary: str
    kept: list[Item] = field(default_factory=list)
    whole: bool = False
    spares: int = 0

    @property
    def items(self) -> list[Item]:
        """What a model gets in its place."""
        said = f"{INTRODUCTION}\n\n{self.summary}"
        return [*self.kept, {"type": "message", "role": "user", "content": said}]

    def text(self) -> str:
        """As JSON."""
        return dumps(asdict(self)).decode()

    @classmethod
    def read(cls, text: str) -> "Compacted":
        """What `text` gave."""
        return cls(**loads(text))

    def replace_in(self, items: list[Item]) -> None:
        """Put it into a context, whose next item would be its own."""
        if self.whole:
            end = max(0, len(items) - self.spares)
            items[:end] = self.items
        else:
            items += self.items


NOTHING_COMPACTED: Final[Mapping[str, Compacted]] = MappingProxyType({})


def content_of(item: Item) -> str | None:
    """The `encrypted_content` of a compaction item of ours; None for any other item."""
    content = item.get("encrypted_content")
    ours = kind_of(item) == COMPACTION and isinstance(content, str) and content.startswith(PREFIX)
    return content if ours else None


def contents_of(items: Iterable[Item]) -> set[str]:
    """Those of all of them."""
    return {content for item in items if (content := content_of(item)) is not None}


def is_summary(item: Item) -> bool:
    """Whether an item is the summary of an earlier compaction, as models get it."""
    content = item.get("content")
    return isinstance(content, str) and content.startswith(INTRODUCTION)


def said_by_users(items: Iterable[Item]) -> list[Item]:
    """The messages of users, which a compaction keeps word for word."""
    return [
        item
        for item in items
        if kind_of(item) == "message" and item.get("role") == "user" and not is_summary(item)
    ]
