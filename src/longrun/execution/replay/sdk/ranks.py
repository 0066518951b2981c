"""The order of agents that have one name: looked into only where there are two of them."""

import functools
from collections.abc import Callable, Iterator
from typing import Any

Key = tuple[int, str, int]


class Rank:
    """Where an agent comes among others of its name; made when it is first asked for."""

    __slots__ = ("_made", "_make")

    def __init__(self, make: Callable[[], Key]) -> None:
        self._make = make
        self._made: Key | None = None

    @property
    def _key(self) -> Key:
        if self._made is None:
            self._made = self._make()
        return self._made

    def __lt__(self, other: "Rank") -> bool:
        return self._key < other._key

    def __iter__(self) -> Iterator[Any]:
        return iter(self._key)


def ranked_when_asked(original: Callable[..., Key]) -> Callable[..., Rank]:
    """What stands for the SDK's function: the text that it makes of an agent, with all of its
    tools, is a fifth of what a short run takes, and more where there are many tools."""

    def rank(agent: Any, *, root_agent: Any, original_index: int) -> Rank:
        make = functools.partial(
            original, agent, root_agent=root_agent, original_index=original_index
        )
        return Rank(make)

    return rank
