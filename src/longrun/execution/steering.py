"""Steering: how one attempt takes the messages that were put into its run, between two steps.

That it took some, and where, is recorded before its model is asked with them: so the next attempt
puts the same ones in at the same places. A message is never lost: a run that could still take it
does not end without it (`Ending.steered`).
"""

from collections.abc import Callable, Iterable, Sequence
from typing import Any, Protocol

from longrun.history.cleaning import cleaned
from longrun.jsontext import loads
from longrun.store.records import Steer, Step, Taken
from longrun.store.run_log import RunLog


class Store(Protocol):
    """Where the messages are."""

    async def of_unscoped(self, response_id: str, after: int = 0) -> list[Steer]: ...


class Steering:
    """The messages of one attempt.

    Args:
        store: None: there is none, and no message either.
        known: those that were there when the attempt was claimed.
        place: gives the output index before which what is taken now stands.
        took: told how many messages were taken.
    """

    def __init__(
        self,
        store: Store | None,
        run_log: RunLog,
        known: Iterable[Steer],
        place: Callable[[], int],
        took: Callable[[int], None] = lambda messages: None,
    ) -> None:
        self._store = store
        self._log = run_log
        self._place = place
        self._tell = took
        known = list(known)
        run_log.steered = max(run_log.steered, len(known))
        self._taken = [steer for steer in known if steer.output_index is not None]
        self._places: dict[int, int | None] = {each.number: each.output_index for each in known}

    @property
    def taken(self) -> int:
        """How many the run has taken, over all attempts."""
        return len(self._taken)

    @property
    def places(self) -> dict[int, int | None]:
        """Where each message stands that this attempt knows of, by its number (see `Steer`)."""
        late = range(len(self._places), self._log.steered)
        return {**self._places, **dict.fromkeys(late)}

    async def due(self, turn: int, *, replayed: bool) -> list[dict[str, Any]]:
        """What is put in before a model turn: input items, in order.

        Args:
            replayed: the turn is recorded, so what was not put in before it then is not now.
        """
        if not replayed:
            await self.take(turn)
        return items_of(steer for steer in self._taken if steer.turn == turn)

    async def take(self, turn: int) -> None:
        """Take all messages that wait. From now on they stand where the run is."""
        await self.took(await self.waiting(), turn)

    async def waiting(self) -> list[Steer]:
        """The messages that the run has not taken, as of its last commit."""
        if self._store is None or self._log.steered <= self.taken:
            return []
        return await self._store.of_unscoped(self._log.response_id, self.taken)

    async def took(
        self, found: Sequence[Steer], turn: int | None, steps: Sequence[Step] = ()
    ) -> None:
        """Commit that the run has taken what waited, and the step that says so, if there is one."""
        taken = None
        if found:
            taken = Taken(self.taken, len(found), self._place(), turn)
            put_in = [each._replace(output_index=taken.output_index, turn=turn) for each in found]
            self._taken += put_in
            self._places |= {each.number: each.output_index for each in put_in}
        if found or steps:
            self._log.append([], steps=steps, taken=taken)
            await self._log.flush()
        if found:
            self._tell(len(found))


def items_of(steers: Iterable[Steer]) -> list[dict[str, Any]]:
    """The messages as a model gets them."""
    return [cleaned(loads(steer.item)) for steer in steers]
