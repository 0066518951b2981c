"""Errors, one tree.

    LongrunError                 has message, type, param, code and HTTP status
    ├── BadRequest               400  the request is wrong; `param` names what
    ├── NotFound                 404  unknown, or not yours
    ├── MethodNotAllowed         405
    ├── BodyTooLarge             413
    ├── UnsupportedMediaType     415  not JSON
    ├── TooManyRequests          429  with Retry-After
    ├── Unavailable              503  with Retry-After: Postgres away, or draining
    │   └── StillRunning         503  draining, and the run goes on: not to be retried
    ├── ConfigurationError       the server does not start
    ├── ReplayMismatch           the agent's code no longer fits what was recorded of the run
    ├── NotStored                what a run wrote cannot be stored: it fails in these words
    │   └── TooLarge             one event, item or step of it is larger than is allowed
    └── Fenced                   another attempt holds the response; never leaves the server

Every answer that is not 2xx has the body
`{"error": {"message", "type", "param", "code"}}` (contract, "Errors"). Messages are written for
the client; the text of any other exception goes to the log and nowhere else.
"""

from typing import ClassVar


class LongrunError(Exception):
    """The base of all errors of longrun.

    Args:
        message: for the client; says what was wrong and what is allowed.
        param: the request parameter at fault, if one is.
        code: overrides the class's machine-readable code.
        retry_after: seconds, for the `Retry-After` header.
    """

    status: ClassVar[int] = 500
    type: ClassVar[str] = "server_error"
    default_code: ClassVar[str | None] = None
    should_retry: ClassVar[bool | None] = None
    """Said to OpenAI's SDKs in `x-should-retry`, which retry 5xx by themselves."""

    def __init__(
        self,
        message: str,
        *,
        param: str | None = None,
        code: str | None = None,
        retry_after: int | None = None,
    ) -> None:
        super().__init__(message)
        self.message = message
        self.param = param
        self.code = code or self.default_code
        self.retry_after = retry_after


class BadRequest(LongrunError):
    status = 400
    type = "invalid_request_error"
    default_code = "invalid_request"


class NotFound(LongrunError):
    status = 404
    type = "invalid_request_error"
    default_code = "not_found"


class MethodNotAllowed(LongrunError):
    status = 405
    type = "invalid_request_error"
    default_code = "method_not_allowed"


class BodyTooLarge(LongrunError):
    status = 413
    type = "invalid_request_error"
    default_code = "body_too_large"


class UnsupportedMediaType(LongrunError):
    status = 415
    type = "invalid_request_error"
    default_code = "unsupported_media_type"


class TooManyRequests(LongrunError):
    status = 429
    type = "too_many_requests"
    default_code = "queue_full"


class Unavailable(LongrunError):
    status = 503
    type = "server_error"
    default_code = "unavailable"


class StillRunning(Unavailable):
    """This server stops while a client waits for a response, whose run goes on elsewhere.

    Asking again would run it twice; `GET /responses/{id}` is the way.
    """

    default_code = "still_running"
    should_retry = False

    def __init__(self, response_id: str) -> None:
        super().__init__(
            f"The server is stopping; the run goes on. Get it with GET /responses/{response_id}."
        )


class ConfigurationError(LongrunError):
    """A setting, an agent or the database does not fit; the server does not start."""

    default_code = "configuration"


class NotStored(LongrunError):
    """What an attempt wrote could not be stored and never will be. The attempt writes nothing
    more; its response still has to be ended, as failed, with this message."""

    default_code = "not_stored"


class TooLarge(NotStored):
    """Something that a run produced is larger than LONGRUN_MAX_ITEM_BYTES allows.

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


class Fenced(LongrunError):
    """The response belongs to another attempt, or is finished: this replica must not write."""

    default_code = "fenced"


class ReplayMismatch(LongrunError):
    """The agent's code was changed so that a replay no longer fits the journal: the run fails."""

    default_code = "replay_mismatch"
