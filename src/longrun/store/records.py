"""Records of the store: what the tables hold, as everybody else passes it on."""

from collections.abc import Callable, Sequence
from datetime import datetime
from typing import Any, NamedTuple

from longrun.protocol import Status


class Chunk(NamedTuple):
    """Events first..last of one response: newline-separated JSON, none at the end."""

    first: int
    last: int
    data: bytes


class Ended(NamedTuple):
    """A response that has ended, and whose it is: what a standby is asked for."""

    principal: str
    at: datetime


class Submitted(NamedTuple):
    """A response that was just created.

    `status` is what it has then. `answered` is called when its client has got what it gets first:
    a run that starts here waits for that for a moment, so that a run does not stand before
    the first events of others.
    """

    status: Status
    answered: Callable[[], object] = lambda: None


class Step(NamedTuple):
    """One finished model turn or tool call (table `steps`)."""

    scope: str
    kind: str
    key: str
    fingerprint: str
    result: str


class Steer(NamedTuple):
    """A message that was put into a live run (table `steers`).

    `item`: an input item as JSON. `output_index`: before which output index it stands; None: the
    run has not taken it, and it stands behind all output. `turn`: before which model turn it was
    taken; None for a handler.
    """

    number: int
    item: str
    output_index: int | None = None
    turn: int | None = None


class Taken(NamedTuple):
    """That a run has taken messages, `messages` of them from number `first` on; see `Steer`."""

    first: int
    messages: int
    output_index: int
    turn: int | None


class Left(NamedTuple):
    """What earlier attempts left of a response.

    `items` by output index; `chunks` are those in which items begin or end; `end` is the sequence
    number of the last event, -1 where there is none.
    """

    steps: list[Step]
    items: dict[int, str]
    chunks: list[Chunk]
    end: int


class Part(NamedTuple):
    """A part of what a response leaves in its conversation, under the id that it has there.

    `place`: an output index; -1, -2, … are the first, the second, … item of its own input, which is
    `given`, and from -1 - `ids.FIRST_STEER_PLACE` on messages that were put into it, which Postgres
    has. `unkept`: as in `Ending`.
    """

    place: int
    id: str
    given: Any = None
    unkept: bool = False


class Parked(NamedTuple):
    """What waits for approvals (table `parked`): a later response goes on from it.

    `requests`: the output indexes of the `mcp_approval_request` items. `format`: the version of
    ours in which `state`, a JSON object, is written. `written_by`: what else wrote of it, with its
    version, as in `openai-agents 0.24.0`.
    """

    requests: Sequence[int]
    format: int
    written_by: str
    state: str


class Ending(NamedTuple):
    """What a response becomes with its terminal event, and what it leaves in its conversation.

    `reason`: of a failure, for operators. `refused`: the output indexes of items that do not stay;
    they have to be committed before. `tokens`: what the response has used in all.
    `parked`: it asks for approvals, and this waits for them.
    `input_refused`: a guardrail refused its input, so nothing of it is in later contexts.
    `unkept`: the output indexes of items that their model's provider may not have kept, so that
    later contexts do not name them by its ids.
    `steered`: how many messages that were put into it the run has taken: if there are more by now,
    it does not end (`Overtaken`). None: it ends, whatever waits.
    """

    status: Status
    document: str
    said: Sequence[Part] = ()
    reason: str | None = None
    refused: Sequence[int] = ()
    tokens: int = 0
    parked: Parked | None = None
    input_refused: bool = False
    unkept: Sequence[int] = ()
    steered: int | None = None
