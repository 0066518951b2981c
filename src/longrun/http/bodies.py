"""Request bodies: read within a limit, and decoded."""

from typing import Any, Final

from starlette.requests import ClientDisconnect, Request

from longrun.errors import BadRequest, BodyTooLarge, UnsupportedMediaType
from longrun.jsontext import NotJSON, loads

DROPPED_BYTES: Final = 64 * 1024 * 1024
"""How much of a body that is too large is read and dropped, so that its client, which reads only
when it has sent all, gets the answer: closing before that resets the connection."""


async def read_json(request: Request, limit: int) -> Any:
    """The JSON body of a request.

    Raises:
        UnsupportedMediaType: not `application/json`.
        BodyTooLarge: more than `limit` bytes.
        BadRequest: not JSON.
    """
    media_type = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if media_type != "application/json" and not media_type.endswith("+json"):
        raise UnsupportedMediaType("The body must be JSON, with Content-Type: application/json.")
    too_large = BodyTooLarge(f"The body is larger than {limit} bytes.")
    length = request.headers.get("content-length", "")
    if length.isdigit() and int(length) > limit + DROPPED_BYTES:
        raise too_large
    body, size = bytearray(), 0
    try:
        async for part in request.stream():
            size += len(part)
            if size <= limit:
                body += part
            elif size > limit + DROPPED_BYTES:
                break
    except ClientDisconnect:
        raise BadRequest("The connection was closed before the body was complete.") from None
    if size > limit:
        raise too_large
    try:
        return loads(bytes(body))
    except NotJSON as error:
        raise BadRequest(f"The body is not valid JSON: {error}.", code="invalid_json") from None
