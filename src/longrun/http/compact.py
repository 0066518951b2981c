"""`POST /responses/compact`: a context as the messages of its users and one item for the rest.

(What happens to the logs of finished responses, `store/compaction.py`, is another thing.)
"""

import time
from collections.abc import Coroutine, Iterator, Sequence
from typing import Any, Literal, Protocol

from openai.types.responses import ResponseCompactionItem, ResponseUsage
from pydantic import BaseModel
from starlette.requests import Request
from starlette.routing import BaseRoute, Route
from starlette.types import ASGIApp, Receive, Scope, Send

from longrun import ids
from longrun.assembly.usage import UsageSum
from longrun.errors import BadRequest, TokensSpent
from longrun.history.context_compaction import COMPACTION, Compacted, said_by_users
from longrun.http.access import caller_of
from longrun.http.answers import JSONAnswer
from longrun.http.asked import Asked, AskedBody
from longrun.http.rates import say_tokens
from longrun.http.waiting import Spaces
from longrun.operations import operation
from longrun.protocol import RunRequest
from longrun.store.context_compactions import ContextCompactions
from longrun.store.limits import SharedLimits

Item = dict[str, Any]


class Summary(Protocol):
    """What a model made of a context."""

    @property
    def text(self) -> str: ...

    @property
    def usage(self) -> UsageSum: ...


class Summarizes(Protocol):
    """What asks the models; the application hands it in."""

    async def summarize(self, request: RunRequest) -> Summary: ...


class CompactContext(AskedBody):
    """The body of `POST /responses/compact`: what is to be compacted, as a request that went on
    with it would say it."""

    instructions: str | None = None
    service_tier: str | None = None
    prompt_cache_key: str | None = None
    prompt_cache_retention: Literal["in_memory", "24h"] | None = None


class KeptMessage(BaseModel):
    """A message of a user, word for word."""

    id: str
    type: Literal["message"]
    role: Literal["user"]
    status: Literal["completed"]
    content: list[dict[str, Any]]


class CompactedContext(BaseModel):
    """The answer. Among its output items `openai` has models' messages alone; it takes these."""

    id: str
    object: Literal["response.compaction"]
    created_at: int
    output: list[KeptMessage | ResponseCompactionItem]
    usage: ResponseUsage


class CompactAPI:
    """The endpoint.

    Args:
        asked: reads what is to be compacted.
        models: ask for summaries.
        compactions: sign what clients keep.
        limits: count what was spent.
        keepalive_interval: seconds of silence after which an answer that takes long sends a space.
    """

    def __init__(
        self,
        *,
        asked: Asked,
        models: Summarizes,
        compactions: ContextCompactions,
        limits: SharedLimits,
        cell: str,
        keepalive_interval: float,
    ) -> None:
        self._asked = asked
        self._models = models
        self._compactions = compactions
        self._limits = limits
        self._cell = cell
        self._keepalive_interval = keepalive_interval

    def routes(self) -> list[BaseRoute]:
        """The route, the same at the root and under `/v1`."""
        return [
            Route(f"{prefix}/responses/compact", self.compact, methods=["POST"])
            for prefix in ("", "/v1")
        ]

    @operation(CompactedContext, body=CompactContext, errors=(404, 421, 429))
    async def compact(self, request: Request) -> ASGIApp:
        """`POST /responses/compact`: compact a context, which later requests then take."""
        asked = await self._asked.of(request, CompactContext.parse)
        await self._check_tokens(request, asked)
        await self._asked.creations.take_run(caller_of(request))

        async def answer(scope: Scope, receive: Receive, send: Send) -> None:
            spaces = Spaces(self._keepalive_interval)
            coming = _outcome(self._models.summarize(asked))
            gone, outcome = await spaces.wait(coming, receive, send)
            if gone:
                raise BadRequest("The connection was closed before the context was compacted.")
            if isinstance(outcome, Exception):
                # An answer that has begun breaks off by it: there is no compaction that says so,
                # and clients would put an empty one in the place of their history.
                raise outcome
            assert outcome is not None
            compacted = JSONAnswer(await self._compacted(asked, outcome))
            await spaces.end_with(compacted, scope, receive, send)

        return answer

    async def _compacted(self, asked: RunRequest, summary: Summary) -> dict[str, Any]:
        """The compaction that a summary makes, whose tokens are counted."""
        spent = summary.usage.total_tokens
        if spent:
            await self._limits.spend(spent, asked.principal, asked.allowance.account)
        content = await self._compactions.content(Compacted(summary.text), asked.principal)
        assert asked.context is not None
        return {
            "id": asked.response_id,
            "object": "response.compaction",
            "created_at": int(time.time()),
            "output": [
                *self._kept(asked.context.items),
                {
                    "id": ids.new_item_id(COMPACTION, self._cell),
                    "type": COMPACTION,
                    "encrypted_content": content,
                },
            ],
            "usage": summary.usage.as_json(),
        }

    async def _check_tokens(self, request: Request, asked: RunRequest) -> None:
        """Whether there are tokens left of the day's.

        Raises:
            TokensSpent: there are none.
        """
        allowance = asked.allowance
        if allowance.max_tokens is None:
            return
        allowance.tokens = await self._limits.tokens_today(asked.principal, allowance.account)
        say_tokens(request.scope, allowance)
        if allowance.tokens >= allowance.max_tokens:
            raise TokensSpent(allowance.max_tokens, allowance.tokens)

    def _kept(self, items: Sequence[Item]) -> Iterator[Item]:
        """The messages of users, as output items."""
        for item in said_by_users(items):
            content = item["content"]
            yield {
                "id": ids.new_item_id("message", self._cell),
                "type": "message",
                "role": "user",
                "status": "completed",
                "content": [{"type": "input_text", "text": content}]
                if isinstance(content, str)
                else content,
            }


async def _outcome(asking: Coroutine[Any, Any, Summary]) -> Summary | Exception:
    """Raises nothing, which would end its group with errors of another kind."""
    try:
        return await asking
    except Exception as error:
        return error
