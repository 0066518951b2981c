"""The Responses API's words that more than one layer needs: statuses and terminal events."""

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final, Literal

Status = Literal["queued", "in_progress", "completed", "failed", "incomplete", "cancelled"]

WebhookEvent = Literal[
    "response.completed",
    "response.failed",
    "response.cancelled",
    "response.incomplete",
    "response.action_required",
]
"""What webhooks tell of a background response: how it ended, and that its end asks for approvals,
named as OpenAI names the same of its agents' sessions (`agent.session.action_required`)."""

TERMINAL_EVENT_OF: Final[dict[Status, str]] = {
    "completed": "response.completed",
    "failed": "response.failed",
    "incomplete": "response.incomplete",
    # No stream event has the name of this status, and openai-node throws on an unknown one.
    "cancelled": "response.failed",
}
"""The one table of statuses: those that end a response are here, with the event that says so."""

TERMINAL_EVENTS: Final = frozenset(TERMINAL_EVENT_OF.values())
"""The last event of a log is one of these, and no other event is (contract, "Streams")."""

_TERMINAL_PREFIXES: Final = tuple(
    b'{"type":"' + name.encode() + b'"' for name in sorted(TERMINAL_EVENTS)
)


def is_terminal(status: Status) -> bool:
    """Whether a response of this status has ended: nothing about it changes any more."""
    return status in TERMINAL_EVENT_OF


def ends_log(data: bytes) -> bool:
    """Whether a chunk (newline-separated events, `type` first in each) ends its log."""
    return data[data.rfind(b"\n") + 1 :].startswith(_TERMINAL_PREFIXES)


def untold() -> dict[str, Any]:
    """The fields of a Response object of which its request says nothing, as they are then. Open
    Responses wants each of them present, numbers and `service_tier` never null."""
    return {
        "completed_at": None,
        "status": "in_progress",
        "error": None,
        "incomplete_details": None,
        "instructions": None,
        "max_output_tokens": None,
        "max_tool_calls": None,
        "parallel_tool_calls": True,
        "previous_response_id": None,
        "prompt_cache_key": None,
        "reasoning": None,
        "safety_identifier": None,
        "service_tier": "default",
        "temperature": 1.0,
        "text": {"format": {"type": "text"}},
        "top_p": 1.0,
        "presence_penalty": 0.0,
        "frequency_penalty": 0.0,
        "top_logprobs": 0,
        "tool_choice": "auto",
        "tools": [],
        "truncation": "disabled",
        "usage": None,
        "user": None,
        "metadata": {},
    }


GOES_ON: Final = "goes_on"
"""Beside the parameters that a run acts upon: the id of the response from which it goes on."""


GENERATE: Final = "generate"
"""Beside them too: False where nothing is to be generated, so that the response is its input alone,
for later ones to continue."""


@dataclass(frozen=True, slots=True)
class Context:
    """All that a run begins with: what came before it, and what its own request brought.

    Attributes:
        items: with our ids where they are ours, as clients see them.
        models: what is stored of the model's face of those that have one, by id
            (`history/faces.py`).
        own: how many of the items, at the end, the request brought itself.
    """

    items: list[dict[str, Any]] = field(default_factory=list)
    models: Mapping[str, str] = field(default_factory=dict)
    own: int = 0


@dataclass(slots=True)
class Allowance:
    """What bounds the creation of a response, and what was found of it then.

    Attributes:
        max_live: how many responses may be queued or running at once; None: no limit.
        max_tokens: how many tokens may have been spent today; None: no limit.
        account: who acts for the principal, and whose limits hold; None: the principal.
        tokens: how many were spent, as was found at the creation; None: nobody looked.
    """

    max_live: int | None = None
    max_tokens: int | None = None
    account: str | None = None
    tokens: int | None = None


INSERTS: Final = "inserts"
"""Beside the parameters too, of a fork: pairs of a turn, and of the place in the input from which
on it comes behind that turn."""


@dataclass(frozen=True, slots=True)
class Forking:
    """What the creation of a fork brings besides its request.

    Attributes:
        steps: those that it begins with, as rows of `steps`: scope, kind, key, fingerprint, result.
        conversation_id, context_end: what it reads of a conversation, as its source does.
    """

    steps: Sequence[tuple[str, str, str, str, str]] = ()
    conversation_id: str | None = None
    context_end: int | None = None


@dataclass(frozen=True, slots=True)
class Once:
    """What creates a response once: the client's key, and what stands for the body that it came
    with."""

    key: str
    digest: bytes


@dataclass(frozen=True, slots=True)
class RunRequest:
    """A response to be produced: what `http` understood of a request, and `execution` runs.

    `document` is the Response object without `output`, with every field that can be known at the
    start. `input` is what this request brought, as it is stored, `input_text` the same as JSON
    where that was made already; `context` is what its run begins with, which is not stored with the
    response but read along the chain that begins at `previous_id`, or from the conversation (None:
    it was not read, and is the input alone). `parameters` are those of the request that a run acts
    upon, by their names in the API. `allowance`, `forking` and `once` are for its creation
    alone. Of a
    fork, `context` ends before the first part of its input that comes behind a recorded turn, and
    `inserted` has those parts, in the order of `inserts`.
    """

    response_id: str
    principal: str
    agent: str
    background: bool
    stored: bool
    input: list[dict[str, Any]]
    document: dict[str, Any]
    parameters: dict[str, Any] = field(default_factory=dict)
    previous_id: str | None = None
    conversation_id: str | None = None
    input_text: str | None = None
    context: Context | None = None
    inserted: Sequence[Context] = ()
    allowance: Allowance = field(default_factory=Allowance)
    forking: Forking | None = None
    once: Once | None = None

    @property
    def timeout(self) -> float | None:
        """Seconds that the request gives its response, over all attempts and the queue."""
        seconds: float | None = self.parameters.get("longrun", {}).get("timeout")
        return seconds

    @property
    def goes_on(self) -> str | None:
        """The response from which the run goes on, since its input answers the approvals that
        that one asked for; None for a run that begins anew."""
        response_id: str | None = self.parameters.get(GOES_ON)
        return response_id

    @property
    def forked_from(self) -> str | None:
        """The response from a step of which this one goes on."""
        response_id: str | None = (
            self.parameters.get("longrun", {}).get("fork", {}).get("response_id")
        )
        return response_id

    @property
    def inserts(self) -> list[tuple[int, int]]:
        """Of a fork: after which turns parts of its input come, and with which item each begins."""
        return [(turn, place) for turn, place in self.parameters.get(INSERTS, ())]

    @property
    def inputs(self) -> list[list[dict[str, Any]]]:
        """The input that the run begins with, and the parts that come behind recorded turns."""
        places = [0, *(place for _, place in self.inserts), len(self.input)]
        return [self.input[begin:end] for begin, end in itertools.pairwise(places)]
