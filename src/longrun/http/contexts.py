"""What a new response continues: read when its request comes, which is told what is wrong."""

from collections.abc import Sequence
from typing import Any, Final

from longrun import ids
from longrun.errors import BadRequest
from longrun.history.continuation import context_of, lost_reference
from longrun.history.conversation import Before
from longrun.history.mending import answered_by, unmade
from longrun.http.problems import shortened
from longrun.http.requests import CreateResponse
from longrun.protocol import Context
from longrun.store.responses import Exchange, Responses

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

    async def of(self, body: CreateResponse, principal: str) -> Context:
        """What the run of a request begins with.

        Raises:
            BadRequest: a response that it continues is not there (any more), or has not ended; an
                item that it refers to is not there; it answers a call that nobody made.
        """
        items = body.items()
        before = await self._before(body, items, principal)
        found = await self._responses.named_items(before, items, principal)
        lost = lost_reference(items, found)
        if lost is not None:
            place, item_id = lost
            raise BadRequest(
                f"Item with id {shortened(item_id)!r} not found.",
                param=f"input[{place}].id",
                code="item_not_found",
            )
        context = context_of(before.exchanges, items, found)
        if body.conversation_id is None or not self._queues:
            _check_answers(context)
        return context

    async def _before(
        self, body: CreateResponse, items: Sequence[dict[str, Any]], principal: str
    ) -> Before:
        """What comes before a request. A conversation is read when its run begins; here only where
        something in the request may lead there."""
        on = body.conversation_id
        if on is None:
            chain = await self._chain(body.previous_response_id, principal)
            return await self._responses.before(chain)
        if not any(answered_by(item) or isinstance(item.get("id"), str) for item in items):
            return Before.of([], [])
        return await self._responses.before_on(on, principal)

    async def _chain(self, previous_response_id: str | None, principal: str) -> list[Exchange]:
        if previous_response_id is None:
            return []
        chain: list[Exchange] = []
        if ids.is_response_id(previous_response_id):
            chain = await self._responses.chain(previous_response_id, principal)
        missing = chain[0].previous_id if chain else previous_response_id
        if missing is not None:
            raise BadRequest(
                f"Previous response with id {shortened(missing)!r} not found.",
                param="previous_response_id",
                code="previous_response_not_found",
            )
        if not chain[-1].finished:
            raise BadRequest(
                f"The previous response is still {chain[-1].status}; wait until it has ended.",
                param="previous_response_id",
                code="previous_response_not_finished",
            )
        return chain


def _check_answers(context: Context) -> None:
    found = unmade(context.items, context.own)
    if found is None:
        return
    place, (kind, call_id) = found
    name, key = _CALLED.get(kind, kind), "call_id"
    if kind == "mcp_approval_request":
        key = "approval_request_id"
        words = f"No approval request found for approval response with id {shortened(call_id)!r}."
    else:
        words = f"No tool call found for {name} output with call_id {shortened(call_id)}."
    raise BadRequest(words, param=f"input[{place}].{key}", code="tool_call_not_found")
