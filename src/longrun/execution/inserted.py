"""What the request of a fork brings: its run puts it behind the turns that are recorded."""

from collections.abc import Iterator, Sequence
from typing import Any, Final, NamedTuple

from agents import RunResultStreaming

from longrun.execution.replay.journal import fingerprint
from longrun.execution.replay.once import Due, Once
from longrun.history.continuation import shaped
from longrun.history.mending import paired
from longrun.jsontext import dumps, loads
from longrun.protocol import Context, RunRequest

NO_SESSION: Final = (
    "The application uses a session, which cannot be rewound to the step that the response was "
    "forked from."
)


class Insert(NamedTuple):
    """One part of a fork's input.

    Attributes:
        number: which part it is, from 1.
        turn: the model turn that it comes behind.
        place: of its first item in the whole input.
    """

    number: int
    turn: int
    place: int
    context: Context

    def behind(self, result: RunResultStreaming) -> list[Any]:
        """What the run goes on with: all so far, and this. Calls that wait for an approval, or for
        the client, count as not made, unless this has their outputs."""
        so_far: list[Any] = list(result.to_input_list(mode="normalized"))
        return paired([*so_far, *shaped(self.context)])

    async def record(self, once: Once, output: int) -> None:
        """Note that what was said before this ends before an output index: so it stands in the
        right place in the contexts of later responses."""

        async def where() -> int:
            return output

        await once.value(
            Due("", "input", str(self.number), fingerprint(turn=str(self.turn))),
            where,
            encode=lambda index: dumps({"input": self.place, "output": index}).decode(),
            decode=lambda recorded: int(loads(recorded)["output"]),
            counted=False,
        )


class Inserted:
    """All parts, in order; none for what is not forked."""

    def __init__(self, request: RunRequest) -> None:
        parts = zip(request.inserts, request.inserted, strict=bool(request.inserted))
        self._parts = [
            Insert(number, turn, place, context)
            for number, ((turn, place), context) in enumerate(parts, 1)
        ]

    def __iter__(self) -> Iterator[Insert]:
        return iter(self._parts)

    def __bool__(self) -> bool:
        return bool(self._parts)

    def with_all(self, context: Context) -> Context:
        """A context, and all parts behind it: who gave what."""
        items, models = list(context.items), dict(context.models)
        for part in self._parts:
            items += part.context.items
            models |= part.context.models
        return Context(items, models, context.own) if self._parts else context

    def behind(self, told: Sequence[Any]) -> Sequence[Any]:
        """Items as they go into a run, and those of all parts."""
        return [*told, *(item for part in self._parts for item in shaped(part.context))]
