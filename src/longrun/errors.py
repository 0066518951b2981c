"""All errors of longrun, one tree.

    LongrunError                 carries message, type, param, code and HTTP status
    ├── BadRequest               400  the request is invalid; `param` says where
    │   ├── ConversationLocked   400  another response is on the conversation
    │   ├── NotSteerable         400  a response takes no message (any more)
    │   ├── AlreadyAnswered      400  an approval that another response brought an answer to
    │   └── CompactionUnreadable 400  a compaction item that is not as it was given
    ├── Unauthorized             401  no key, or none that is valid
    ├── Forbidden                403  a caller who is known, and may not do that
    ├── NotFound                 404  unknown, or another principal's
    │   ├── NotServed            404  a protocol or a part of the API that is not served
    │   └── ConversationNotFound 404  of a response that was to be on it
    ├── OtherCell                421  an id names another cell, which `longrun-cell` says
    ├── MethodNotAllowed         405
    ├── RequestTimeout           408  the request did not arrive in time
    ├── BodyTooLarge             413
    ├── UnsupportedMediaType     415  not JSON
    ├── KeyReused                422  an Idempotency-Key that came with another body
    ├── HeadersTooLarge          431
    ├── TooManyRequests          429  with Retry-After
    │   ├── RateLimited          429  more requests in a minute than are allowed
    │   └── TokensSpent          429  the tokens of the day are spent
    ├── Unavailable              503  with Retry-After: Postgres is away, or all replicas drain
    │   ├── NotRunning           503  the application was not started, or has stopped
    │   └── StillRunning         503  draining, while the run continues elsewhere: do not retry
    │       └── AskAgain         503  do, since the Idempotency-Key leads to the same response
    ├── Unreadable               500  what is stored cannot be decrypted
    ├── ConfigurationError       the command cannot do its work; a server does not start
    ├── ReplayMismatch           the agent's code no longer matches what was recorded of the run
    ├── OutputMismatch           the last text of a run is not what `text.format` asks for
    ├── ServerAway               an MCP server that a run needs; the run fails with this message
    ├── NotStored                what a run wrote cannot be stored; the run fails with this message
    │   └── TooLarge             one of its events, items or steps exceeds the limit
    ├── Overtaken                a message came as a run was to end; never leaves the server
    ├── Repeated                 its Idempotency-Key has created a response; never leaves the server
    └── Fenced                   another attempt holds the response; never leaves the server

Every response that is not 2xx has the body
`{"error": {"message", "type", "param", "code"}}` (contract, "Errors"). Messages are written for
the client; the text of any other exception goes to the log and nowhere else.
"""

import math
import time
from typing import ClassVar, Final

DAY: Final = 86_400


def rest_of_day() -> int:
    """Seconds until the next day begins, by UTC."""
    return math.ceil(DAY - time.time() % DAY)


class LongrunError(Exception):
    """Base class of all errors of longrun.

    Args:
        message: for the client; says what is wrong and what is allowed.
        param: the request parameter at fault, if any.
        code: machine-readable; overrides that of the class.
        retry_after: for the `Retry-After` header, in seconds; where it is not a whole number, for
            `retry-after-ms` too.
        lost: the id that leads to nothing here. If it is one of another cell, the client gets
            `OtherCell` in place of this error.
    """

    status: ClassVar[int] = 500
    type: ClassVar[str] = "server_error"
    default_code: ClassVar[str | None] = None
    should_retry: ClassVar[bool | None] = None
    """The value of `x-should-retry`, for OpenAI's SDKs, which otherwise retry every 5xx."""

    def __init__(
        self,
        message: str,
        *,
        param: str | None = None,
        code: str | None = None,
        retry_after: float | None = None,
        lost: str | None = None,
    ) -> None:
        super().__init__(message)
        self.message = message
        self.param = param
        self.code = code or self.default_code
        self.retry_after = retry_after
        self.lost = lost


class BadRequest(LongrunError):
    status = 400
    type = "invalid_request_error"
    default_code = "invalid_request"


class Unauthorized(LongrunError):
    status = 401
    type = "invalid_request_error"
    default_code = "invalid_api_key"


class Forbidden(LongrunError):
    status = 403
    type = "invalid_request_error"
    default_code = "forbidden"


class NotFound(LongrunError):
    status = 404
    type = "invalid_request_error"
    default_code = "not_found"


class ConversationNotFound(NotFound):
    def __init__(self, conversation_id: str) -> None:
        super().__init__(
            f"Conversation with id {conversation_id!r} not found.",
            param="conversation",
            lost=conversation_id,
        )


class ConversationLocked(BadRequest):
    """Never 409, which OpenAI's SDKs would retry at once."""

    default_code = "conversation_locked"

    def __init__(self) -> None:
        super().__init__(
            "Another response is being produced on this conversation; wait until it has ended.",
            param="conversation",
        )


class NotSteerable(BadRequest):
    """A response takes no message any more, or never does."""

    default_code = "response_not_active"


class AlreadyAnswered(BadRequest):
    """A request for an approval is answered once; by which response, if that is known."""

    default_code = "approval_already_answered"

    def __init__(
        self, request_id: str | None = None, by: str | None = None, param: str = "input"
    ) -> None:
        which = f"The approval request with id {request_id!r}" if request_id else "This approval"
        said = f" by the response {by}" if by else ""
        super().__init__(f"{which} was already answered{said}.", param=param)


class CompactionUnreadable(BadRequest):
    """A compaction item was changed, or is another principal's, or another server's.

    Args:
        content: its `encrypted_content`.
    """

    default_code = "invalid_encrypted_content"

    def __init__(
        self, content: str, param: str = "previous_response_id", lost: str | None = None
    ) -> None:
        super().__init__(
            "The encrypted content of a compaction item could not be verified.",
            param=param,
            lost=lost,
        )
        self.content = content


class NotServed(NotFound):
    default_code = "not_served"


class OtherCell(LongrunError):
    """What a request names is not here, and its id says that it is of another cell. 421 (RFC 9110,
    section 15.5.20) is what a proxy can tell from any other answer, to send the request there.

    Args:
        id_: what is named.
        cell: whose it is.
        here: the cell of this replica.
    """

    status = 421
    type = "invalid_request_error"
    default_code = "other_cell"

    def __init__(self, id_: str, cell: str, here: str, param: str | None = None) -> None:
        super().__init__(
            f"{id_} belongs to the cell {cell}, but this is the cell {here}. Send the request to "
            "the cell in the header longrun-cell.",
            param=param,
        )
        self.cell = cell


class MethodNotAllowed(LongrunError):
    status = 405
    type = "invalid_request_error"
    default_code = "method_not_allowed"


class RequestTimeout(LongrunError):
    status = 408
    type = "invalid_request_error"
    default_code = "request_timeout"


class BodyTooLarge(LongrunError):
    status = 413
    type = "invalid_request_error"
    default_code = "body_too_large"


class UnsupportedMediaType(LongrunError):
    status = 415
    type = "invalid_request_error"
    default_code = "unsupported_media_type"


class KeyReused(LongrunError):
    """Never 409, which OpenAI's SDKs would retry at once."""

    status = 422
    type = "invalid_request_error"
    default_code = "idempotency_key_reused"

    def __init__(self) -> None:
        super().__init__(
            "This Idempotency-Key was used before with a different body: send the same body, or "
            "another key.",
            param="Idempotency-Key",
        )


class HeadersTooLarge(LongrunError):
    status = 431
    type = "invalid_request_error"
    default_code = "headers_too_large"


class TooManyRequests(LongrunError):
    status = 429
    type = "too_many_requests"
    default_code = "queue_full"


class RateLimited(TooManyRequests):
    """As OpenAI says it: the type names what there was too much of.

    Args:
        limit: so many requests are allowed in a minute.
        which: what they are, as in "that ask for a run".
        retry_after: seconds until there is room for one.
    """

    type = "requests"
    default_code = "rate_limit_exceeded"

    def __init__(self, limit: int, which: str, retry_after: float) -> None:
        super().__init__(
            f"You have sent too many requests {which}: {limit} per minute are allowed. Try again "
            "in "
            f"{max(retry_after, 0.001):.3g} s.",
            retry_after=retry_after,
        )


class TokensSpent(TooManyRequests):
    """The tokens of a day are spent, until it ends (UTC)."""

    type = "tokens"
    default_code = "rate_limit_exceeded"
    should_retry = False

    def __init__(self, limit: int, spent: int) -> None:
        super().__init__(
            f"You have used {spent:,} tokens today; {limit:,} per day are allowed. The next day "
            "begins at 00:00 UTC.",
            retry_after=rest_of_day(),
        )


class Unavailable(LongrunError):
    status = 503
    type = "server_error"
    default_code = "unavailable"


class NotRunning(Unavailable):
    """A request came to an application whose lifespan was not run. A mounted one is not started by
    the one that it is mounted in."""

    default_code = "not_running"

    def __init__(self) -> None:
        super().__init__(
            "This application is not running. If it is mounted in another application, that one "
            "has to start it, as in FastAPI(lifespan=agents_app.lifespan)."
        )


class StillRunning(Unavailable):
    """The server stops while a client waits for a response whose run continues elsewhere.

    Repeating the request would start a second run; the client should GET the response instead.
    """

    default_code = "still_running"
    should_retry: ClassVar[bool | None] = False

    def __init__(self, response_id: str, *, retry_after: float | None = None) -> None:
        super().__init__(
            "The server is stopping. The run continues elsewhere: fetch the response with "
            f"GET /responses/{response_id}.",
            retry_after=retry_after,
        )


class AskAgain(StillRunning):
    """The same for a request with an Idempotency-Key, which leads to the same response when it is
    repeated."""

    should_retry = None

    def __init__(self, response_id: str) -> None:
        super().__init__(response_id, retry_after=1)


class Unreadable(LongrunError):
    """What is stored of a response or a conversation cannot be decrypted: its key is not in this
    replica's ring, or it was tampered with. The log says which."""

    default_code = "unreadable"

    def __init__(self) -> None:
        super().__init__("The stored content cannot be read by this server.")


class ConfigurationError(LongrunError):
    """A setting, an agent or the database cannot be used; the command ends with this message, and
    this exit status."""

    default_code = "configuration"
    exit_status: int = 2


class NotStored(LongrunError):
    """What an attempt wrote cannot be stored, now or later. The attempt writes nothing more; its
    response must still be ended as failed, with this message."""

    default_code = "not_stored"


class TooLarge(NotStored):
    """Something a run produced exceeds LONGRUN_MAX_ITEM_BYTES.

    Args:
        what: for the client, as in "an output item".
        size: in bytes, as JSON.
    """

    default_code = "too_large"

    def __init__(self, what: str, size: int, limit: int) -> None:
        super().__init__(
            f"The run produced {what} of {size:,} bytes; at most {limit:,} are allowed"
            " (LONGRUN_MAX_ITEM_BYTES)."
        )


class ServerAway(LongrunError):
    """An MCP server cannot be reached; a run that needs its tools fails with this message.

    Args:
        agent: the name of the one whose tools they are.
    """

    default_code = "server_away"

    def __init__(self, agent: str) -> None:
        super().__init__(f"An MCP server of the agent {agent!r} cannot be reached.")


class Repeated(LongrunError):
    """The Idempotency-Key of a request has created a response already: that is the answer."""

    default_code = "repeated"

    def __init__(self) -> None:
        super().__init__("This Idempotency-Key has created a response.")


class Fenced(LongrunError):
    """The response belongs to another attempt, or has ended: this attempt must not write."""

    default_code = "fenced"


class Overtaken(LongrunError):
    """More messages were put into a run than it had taken when it was to end: this attempt has not
    ended its response, and the next one takes them."""

    default_code = "overtaken"

    def __init__(self) -> None:
        super().__init__("A message came at the moment of the run's end.")


class ReplayMismatch(LongrunError):
    """The agent's code has changed, a replay no longer matches the journal, and the run fails."""

    default_code = "replay_mismatch"


class OutputMismatch(LongrunError):
    """The last text of a run is not what its request asks for; the run fails with this message."""

    default_code = "output_mismatch"
