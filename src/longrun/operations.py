"""What `/openapi.json` says of an endpoint and its route does not: said where the endpoint is."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Final, Generic, Literal, TypeVar

from pydantic import BaseModel

F = TypeVar("F", bound=Callable[..., Any])
T = TypeVar("T")

_OPERATION: Final = "longrun_operation"
"""The attribute of an endpoint that holds its operation."""


@dataclass(frozen=True, slots=True)
class Operation:
    """An endpoint, as clients see it.

    Attributes:
        gives: the type of the JSON that it answers, or a media type of anything else.
        body: the model that its body is checked with.
        query: the model that its query is checked with.
        streams: the answer may be a stream of events.
        headers: what its own headers mean, by name.
        errors: statuses of errors that do not follow from the rest.
        public: it asks nobody who they are.
        statuses: answers other than 200, which are no errors, and what they mean.
    """

    gives: Any
    body: type[BaseModel] | None = None
    query: Any = None
    streams: bool = False
    headers: Mapping[str, str] = field(default_factory=dict)
    errors: tuple[int, ...] = ()
    public: bool = False
    statuses: Mapping[int, str] = field(default_factory=dict)


def operation(gives: Any, **more: Any) -> Callable[[F], F]:
    """Say what an endpoint takes and gives (`Operation`); its docstring says what it does."""

    def said(endpoint: F) -> F:
        setattr(endpoint, _OPERATION, Operation(gives, **more))
        return endpoint

    return said


def operation_of(endpoint: Any) -> Operation | None:
    """What was said of an endpoint; None: nothing."""
    found: Operation | None = getattr(endpoint, _OPERATION, None)
    return found


class ListOf(BaseModel, Generic[T]):
    """A list that comes whole."""

    object: Literal["list"]
    data: list[T]


class PageOf(ListOf[T], Generic[T]):
    """One page of a list, as `as_page` makes it."""

    first_id: str | None
    last_id: str | None
    has_more: bool


def null_is_absent(schema: dict[str, Any]) -> None:
    """Let each property be null in the schema of a model whose `parse` leaves such ones out."""
    for name, each in schema.get("properties", {}).items():
        if "anyOf" in each:
            if {"type": "null"} not in each["anyOf"]:
                each["anyOf"].append({"type": "null"})
        elif "$ref" in each or each.get("type") != "null":
            beside = {key: each[key] for key in ("default", "title", "description") if key in each}
            schema["properties"][name] = {
                "anyOf": [{k: v for k, v in each.items() if k not in beside}, {"type": "null"}],
                **beside,
            }
