"""An application that knows its callers by a header of its own."""

from starlette.requests import HTTPConnection

from longrun import Caller
from tests.scripted import agents

__all__ = ["agents", "authenticate"]


async def authenticate(connection: HTTPConnection) -> Caller | None:
    """Whose badge it is; a badge that is none is a fault of this application."""
    badge = connection.headers.get("x-badge")
    if badge is None:
        return None
    if not badge.isalpha():
        raise ValueError("badges have letters")
    return Caller(badge)
