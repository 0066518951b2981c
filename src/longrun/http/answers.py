"""Answers: JSON, and errors in the contract's shape."""

from collections.abc import Mapping
from typing import Any

from starlette.responses import Response

from longrun.errors import LongrunError
from longrun.jsontext import Encoded, dumps, loads
from longrun.store.responses import StoredResponse


class JSONAnswer(Response):
    """A JSON body, encoded by `jsontext`, which takes what agents produce and others refuse."""

    media_type = "application/json"

    def render(self, content: Any) -> bytes:
        return dumps(content)


def as_response(stored: StoredResponse) -> dict[str, Any]:
    """The Response object as it stands: the document with its status and its items."""
    output = [Encoded(item) for item in stored.output]
    return {**loads(stored.document), "status": stored.status, "output": output}


def error_answer(error: LongrunError, headers: Mapping[str, str] | None = None) -> Response:
    """`{"error": {"message", "type", "param", "code"}}`, all four keys (contract, "Errors")."""
    all_headers = dict(headers or {})
    if error.retry_after is not None:
        all_headers["retry-after"] = str(error.retry_after)
    if error.status == 401:
        all_headers["www-authenticate"] = "Bearer"
    if error.should_retry is not None:
        all_headers["x-should-retry"] = str(error.should_retry).lower()
    body = {
        "error": {
            "message": error.message,
            "type": error.type,
            "param": error.param,
            "code": error.code,
        }
    }
    return JSONAnswer(body, status_code=error.status, headers=all_headers)
