"""The types of a model's events, as `openai` has them, built before the first run needs them."""

from collections.abc import Iterator
from typing import Any, get_args

from openai.types.responses import Response, ResponseStreamEvent, ResponseUsage
from pydantic import BaseModel


def build() -> None:
    """Build the validators of all events, which `openai` leaves to their first use.

    The first run of a process would do it in the event loop, one type after the other as it comes
    by: 20 ms for the first item that ends, for which its own last delta and all streams wait. All
    together take less than 0.1 s, once in a process.
    """
    types: list[type[BaseModel]] = [Response, ResponseUsage, *_members(ResponseStreamEvent)]
    for each in types:
        each.model_rebuild()


def _members(union: Any) -> Iterator[type[BaseModel]]:
    """The models of a union, which may be annotated."""
    if isinstance(union, type) and issubclass(union, BaseModel):
        yield union
        return
    for each in get_args(union):
        yield from _members(each)
