"""A response to be created: what is sent of it, and why it may be refused."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import inf
from typing import Any, Final

from asyncpg import Record

from longrun.errors import (
    ConversationLocked,
    ConversationNotFound,
    LongrunError,
    Repeated,
    TokensSpent,
    TooManyRequests,
)
from longrun.history.approvals import answers_to
from longrun.protocol import RunRequest, Status
from longrun.settings import Settings
from longrun.store.idempotency import columns_of_key
from longrun.store.records import Chunk
from longrun.store.requests import columns_of
from longrun.store.sealing import Sealing, chunk_place, step_place

_OF_BATCHES: Final = {
    "id": "ids",
    "principal": "principals",
    "agent": "agents",
    "status": "statuses",
    "background": "backgrounds",
    "stored": "stored",
    "attempt": "attempts",
    "replica_id": "replica_ids",
    "document": "documents",
    "input": "inputs",
    "request": "requests",
    "previous_id": "previous_ids",
    "account": "accounts",
    "run_timeout": "run_timeouts",
    "last": "lasts",
    "events": "events",
}
"""The parameters of `create_responses` that are those of `create_response` as lists."""

_OF_STEPS: Final = (
    "step_scopes",
    "step_kinds",
    "step_keys",
    "step_fingerprints",
    "step_results",
)


_OF_NO_FORK: Final = dict.fromkeys(
    ("forked_from", "forked_conversation_id", "forked_context_end", *_OF_STEPS)
)


@dataclass(frozen=True, slots=True)
class NewResponse:
    """A response to be created, with the first events of its log.

    `replica_id` is who starts its run at once, as attempt 1; None: it is queued. `timeout` is what
    its agent may take, in seconds, if that is less than the settings and the request allow.
    """

    request: RunRequest
    events: Sequence[bytes]
    replica_id: str | None = None
    timeout: float | None = None

    @property
    def status(self) -> Status:
        return "queued" if self.replica_id is None else "in_progress"

    @property
    def chunk(self) -> Chunk:
        """Its first events, as its log has them."""
        return Chunk(0, len(self.events) - 1, b"\n".join(self.events))

    def may_wait(self, settings: Settings) -> bool:
        """Whether it is queued where another response is on its conversation."""
        return self.replica_id is None and settings.conversation_overlap == "queue"


def columns_of_one(new: NewResponse, settings: Settings, sealing: Sealing) -> dict[str, Any]:
    """The parameters of `create_response`, sealed where that is set up."""
    request, allowance = new.request, new.request.allowance
    first, last, events = new.chunk
    answered = answers_to(request.input, request.goes_on) if request.goes_on else None
    return {
        **columns_of(request, sealing),
        "status": new.status,
        "attempt": 0 if new.replica_id is None else 1,
        "replica_id": new.replica_id,
        "last": last,
        "events": sealing.seal(chunk_place(request.response_id, first, last), events),
        "run_timeout": min(settings.run_timeout, request.timeout or inf, new.timeout or inf),
        "max_queued": settings.max_queued,
        "may_wait": new.may_wait(settings),
        "max_live": allowance.max_live,
        "max_tokens": allowance.max_tokens,
        "account": allowance.account,
        "asked_by": request.goes_on,
        "answered": answered and list(answered),
        **_columns_of_fork(request, sealing),
        **columns_of_key(request, sealing),
        "key_seconds": settings.idempotency_key_seconds,
    }


def _columns_of_fork(request: RunRequest, sealing: Sealing) -> dict[str, Any]:
    """Those that only a fork has, and the steps that it begins with."""
    forking = request.forking
    if forking is None:
        return dict(_OF_NO_FORK)
    steps: dict[str, list[str]] = {name: [] for name in _OF_STEPS}
    for step in forking.steps:
        place = (request.response_id, *step[:3])
        sealed = (
            sealing.seal_text(step_place(*place, column), text)
            for column, text in zip(("fingerprint", "result"), step[3:], strict=True)
        )
        for name, value in zip(_OF_STEPS, (*step[:3], *sealed), strict=True):
            steps[name].append(value)
    return {
        "forked_from": request.forked_from,
        "forked_conversation_id": forking.conversation_id,
        "forked_context_end": forking.context_end,
        **{name: values or None for name, values in steps.items()},
    }


def columns_of_many(columns: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """The parameters of `create_responses`, of those of `create_response` for each; or for none."""
    many: dict[str, Any] = {
        plural: [each[name] for each in columns] for name, plural in _OF_BATCHES.items()
    }
    queued = any(each["status"] == "queued" for each in columns)
    claims = [
        (place, key_hash)
        for place, each in enumerate(columns, 1)
        for key_hash in each["key_hashes"] or ()
    ]
    return {
        **many,
        "key_places": [place for place, _ in claims],
        "key_hashes": [key_hash for _, key_hash in claims] or None,
        "body_hashes": [each["body_hash"] for each in columns],
        "key_seconds": columns[0]["key_seconds"] if columns else None,
        # A list for each, which Postgres takes as one list only if all are of one length.
        "hashes": [_as_array(each["metadata_hashes"]) for each in columns],
        "max_queued": columns[0]["max_queued"] if queued else None,
        "max_lives": _unless_none([each["max_live"] for each in columns]),
        "most_tokens": _unless_none([each["max_tokens"] for each in columns]),
    }


def _as_array(numbers: Sequence[int] | None) -> str | None:
    return None if numbers is None else "{" + ",".join(map(str, numbers)) + "}"


def _unless_none(values: list[int | None]) -> list[int | None] | None:
    return None if all(value is None for value in values) else values


def refusal(new: NewResponse, row: Record, settings: Settings) -> LongrunError:
    """Why `create_response` created nothing, by its answer."""
    if row.get("repeated"):
        return Repeated()
    conversation_id, allowance = new.request.conversation_id, new.request.allowance
    if conversation_id is not None and row["busy"] is None:
        return ConversationNotFound(conversation_id)
    if conversation_id is not None and row["busy"] and not new.may_wait(settings):
        return ConversationLocked()
    if allowance.max_live is not None and row["crowded"]:
        return TooManyRequests(
            f"You have {allowance.max_live} responses that are queued or running, as many as "
            "you may have at once.",
            code="too_many_runs",
            retry_after=5,
        )
    spent, most = row.get("tokens"), allowance.max_tokens
    if spent is not None and most is not None and spent >= most:
        return TokensSpent(most, spent)
    return TooManyRequests("Too many responses are queued; try again later.", retry_after=5)
