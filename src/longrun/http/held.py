"""Chains of responses that are not stored: they live with their connection, in memory alone."""

from dataclasses import dataclass, replace

from longrun.http.bodies import Budget
from longrun.http.requests import CreateResponse
from longrun.jsontext import dumps
from longrun.protocol import RunRequest
from longrun.store.histories import Exchange


@dataclass(frozen=True, slots=True)
class Held:
    """The chain that ends with a response which is not stored.

    Attributes:
        id: of that response.
        principal: whose it is.
        begins: the stored response that the first of the chain continues, if there is one.
        exchanges: what each response that is not stored was given and gave, the oldest first.
    """

    id: str
    principal: str
    begins: str | None
    exchanges: tuple[Exchange, ...]

    @property
    def size(self) -> int:
        """About how many bytes it takes."""
        return sum(
            len(each.input)
            + sum(map(len, each.output))
            + sum(len(m or "") for m in each.models)
            + sum(len(steer.item) for steer in each.steers)
            for each in self.exchanges
        )

    def continued_by(self, run_request: RunRequest) -> RunRequest:
        """A request that continues it, as it is stored: the history that is stored nowhere else is
        a part of its input, so that whoever reads it there, after a takeover too, has all of it."""
        said = [
            item
            for each in map(replace, self.exchanges)
            for given, output in each.parts
            for item in [*given, *(stored.item for stored in output)]
        ]
        given = [*said, *run_request.input]
        return replace(
            run_request,
            previous_id=self.begins,
            input=given,
            input_text=dumps(given).decode(),
        )


class Holder:
    """Where one lane keeps its chain: the one that ends with its latest response.

    Args:
        budget: what all chains of a replica may take together.
        most: bytes that one chain may have.
    """

    def __init__(self, budget: Budget, most: int) -> None:
        self._budget = budget
        self._most = most
        self._held: Held | None = None
        self._charged = 0

    @property
    def held(self) -> Held | None:
        return self._held

    def hold(self, held: Held) -> None:
        """Keep a chain in place of the one before, if there is room; else nothing is kept, and its
        client sends it whole."""
        self.drop()
        size = held.size
        if size <= self._most and self._budget.used + size <= self._budget.size:
            self._budget.used += size
            self._charged = size
            self._held = held

    def drop(self) -> None:
        """Keep nothing."""
        self._budget.used -= self._charged
        self._charged, self._held = 0, None


def held_after(
    before: Held | None, body: CreateResponse, run_request: RunRequest, exchange: Exchange
) -> Held:
    """The chain that a response which is not stored has become the end of.

    Args:
        before: the chain that it continued, if that was held.
        exchange: what it was given and gave, as it was stored.
    """
    # What of its input was the history is in the chain already.
    own = replace(exchange, input=dumps(body.items()).decode())
    begins = before.begins if before is not None else run_request.previous_id
    earlier = before.exchanges if before is not None else ()
    return Held(run_request.response_id, run_request.principal, begins, (*earlier, own))
