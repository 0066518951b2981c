"""Answers: JSON, and errors in the contract's shape."""

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Final

from starlette.responses import Response
from starlette.types import Scope

from longrun.errors import LongrunError, OtherCell
from longrun.jsontext import Encoded, dumps, loads
from longrun.store.responses import StoredResponse

CELL: Final = "longrun-cell"
"""The header of a 421: the cell that the request belongs to."""


class JSONAnswer(Response):
    """A JSON body, encoded by `jsontext`, which takes what agents produce and others refuse."""

    media_type = "application/json"

    def render(self, content: Any) -> bytes:
        return dumps(content)


def as_response(stored: StoredResponse) -> dict[str, Any]:
    """The Response object as it stands: the document with its status and its items."""
    output = [Encoded(item) for item in stored.output]
    return {**loads(stored.document), "status": stored.status, "output": output}


_ALSO_SAID: Final = "longrun.headers"
"""Where a request's ASGI scope has headers that its answer has besides its own, whatever it is."""


def also_say(scope: Scope, headers: Iterable[tuple[bytes, bytes]]) -> None:
    """Give the answer of a request these headers, an error's too."""
    scope.setdefault(_ALSO_SAID, []).extend(headers)


def also_said(scope: Scope) -> Sequence[tuple[bytes, bytes]]:
    """The headers that `also_say` was given."""
    said: Sequence[tuple[bytes, bytes]] = scope.get(_ALSO_SAID, ())
    return said


def error_answer(error: LongrunError, headers: Mapping[str, str] | None = None) -> Response:
    """`{"error": {"message", "type", "param", "code"}}`, all four keys (contract, "Errors")."""
    all_headers = dict(headers or {})
    if error.retry_after is not None:
        all_headers["retry-after"] = str(math.ceil(error.retry_after))
        if error.retry_after % 1:
            # Read by OpenAI's SDKs, which otherwise wait for whole seconds.
            all_headers["retry-after-ms"] = str(math.ceil(error.retry_after * 1000))
    if error.status == 401:
        all_headers["www-authenticate"] = "Bearer"
    if error.should_retry is not None:
        all_headers["x-should-retry"] = str(error.should_retry).lower()
    if isinstance(error, OtherCell):
        all_headers[CELL] = error.cell
    body = {
        "error": {
            "message": error.message,
            "type": error.type,
            "param": error.param,
            "code": error.code,
        }
    }
    return JSONAnswer(body, status_code=error.status, headers=all_headers)
