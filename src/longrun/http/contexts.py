"""What a new response continues: read when its request comes, which is told what is wrong."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any, Final

from longrun import ids
from longrun.errors import BadRequest, CompactionUnreadable
from longrun.history.approvals import REQUEST
from longrun.history.context_compaction import content_of
from longrun.history.continuation import in_context, lost_reference
from longrun.history.conversation import Before
from longrun.history.mending import answered_by, unmade
from longrun.http.held import Held
from longrun.http.problems import item_not_found, shortened
from longrun.http.requests import CreateResponse
from longrun.pieces import with_turns
from longrun.protocol import Context, Status, is_terminal
from longrun.store.histories import Exchange
from longrun.store.responses import Responses

_CALLED: Final = {
    "apply_patch_call": "apply patch call",
    "computer_call": "computer call",
    "custom_tool_call": "custom tool call",
    "function_call": "function call",
    "local_shell_call": "local shell call",
    "shell_call": "shell call",
}
"""How OpenAI's errors call them."""


class Contexts:
    """The contexts of requests.

    Args:
        responses: where what they continue is stored.
        queues: responses on a conversation wait for each other, so that what a request answers
            may not have been called yet.
    """

    def __init__(self, responses: Responses, *, queues: bool) -> None:
        self._responses = responses
        self._queues = queues

    async def of(
        self, body: CreateResponse, principal: str, held: Held | None = None
    ) -> Context | None:
        """What the run of a request begins with. None: it is read when the run begins, since
        nothing in the request can be wrong about it; so a long chain holds up no answer.

        Args:
            held: the chain that it continues, where that is not stored.

        Raises:
            BadRequest: a response that it continues is not there (any more), or has not ended; an
                item that it refers to is not there; it answers a call that nobody made.
            CompactionUnreadable: a compaction item is not as it was given.
        """
        items = body.items()
        previous = body.previous_response_id
        if held is None and not _leads_back(items):
            if previous is not None:
                await self._check_chain(previous, principal)
                return None
            # Nothing that is stored is a part of it, nor is anything answered.
            return await with_turns(in_context((), items, {}))
        if held is not None:
            chain = [*await self._chain(held.begins, principal), *map(replace, held.exchanges)]
            before = await self._responses.histories.before(chain, principal)
        else:
            before = await self._before(body, items, principal)
        found = await self._responses.histories.named_items(before, items, principal)
        lost = lost_reference(items, found)
        if lost is not None:
            raise item_not_found("input", *lost)
        try:
            compacted = await self._responses.histories.compacted(before, items, found, principal)
        except CompactionUnreadable as error:
            raise _placed(error, items) from None
        context = await with_turns(in_context(before.exchanges, items, found, compacted))
        # A fork may answer what a recorded step has called.
        later = body.fork is not None or (body.conversation_id is not None and self._queues)
        _check_answers(context, all_made=not later)
        return context

    async def _before(
        self, body: CreateResponse, items: Sequence[dict[str, Any]], principal: str
    ) -> Before:
        """What comes before a request. A conversation is read when its run begins; here only where
        something in the request may lead there."""
        on = body.conversation_id
        if on is None:
            chain = await self._chain(body.previous_response_id, principal)
            return await self._responses.histories.before(chain, principal)
        if not _leads_back(items):
            return Before.of([], [])
        return await self._responses.histories.before_on(on, principal)

    async def _chain(self, previous_response_id: str | None, principal: str) -> list[Exchange]:
        if previous_response_id is None:
            return []
        await self._check_chain(previous_response_id, principal)
        return await self._responses.histories.chain(previous_response_id, principal)

    async def _check_chain(self, previous_response_id: str, principal: str) -> None:
        missing: str | None = previous_response_id
        status: Status = "completed"
        if ids.is_response_id(previous_response_id):
            missing, status = await self._responses.histories.chain_end(
                previous_response_id, principal
            )
        if missing is not None:
            raise BadRequest(
                f"Previous response with id {shortened(missing)!r} not found.",
                param="previous_response_id",
                code="previous_response_not_found",
                lost=missing,
            )
        if not is_terminal(status):
            raise BadRequest(
                f"The previous response is still {status}; wait until it has ended.",
                param="previous_response_id",
                code="previous_response_not_finished",
            )


def _leads_back(items: Sequence[dict[str, Any]]) -> bool:
    """Whether something in a request may be about what came before it: a call that it answers, an
    item that it names; or has to be looked at."""
    return any(
        answered_by(item) or isinstance(item.get("id"), str) or content_of(item) for item in items
    )


def _placed(error: CompactionUnreadable, items: Sequence[dict[str, Any]]) -> CompactionUnreadable:
    """The same error, which says where in a request the item is, if it is there."""
    for place, item in enumerate(items):
        if content_of(item) == error.content:
            param = f"input[{place}].encrypted_content"
            return CompactionUnreadable(error.content, param, item.get("id"))
    return error


def _check_answers(context: Context, *, all_made: bool) -> None:
    """Whether all that a request answers was called.

    Args:
        all_made: else calls may still be made before it begins; but nobody answers a request for
            an approval before it was made, and has its id.
    """
    found = unmade(context.items, context.own)
    if found is None or not (all_made or found[1][0] == REQUEST):
        return
    place, (kind, call_id) = found
    name, key = _CALLED.get(kind, kind), "call_id"
    if kind == REQUEST:
        key = "approval_request_id"
        words = f"No approval request found for approval response with id {shortened(call_id)!r}."
    else:
        words = f"No tool call found for {name} output with call_id {shortened(call_id)}."
    raise BadRequest(words, param=f"input[{place}].{key}", code="tool_call_not_found")
