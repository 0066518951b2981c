"""Pages of lists: as many objects as are wanted, and no more than fit into so many bytes.

What a page has is known with its size before any of it is read.
"""

from collections.abc import Awaitable, Callable, Sequence
from typing import Any, Final

from starlette.types import ASGIApp

from longrun.http.answers import JSONAnswer
from longrun.http.long_answers import LONG, LongAnswer, Room

MOST: Final = 4 * 1024 * 1024
"""Bytes of the objects of a page; one that is larger is alone on its page."""


def fitting(sizes: Sequence[int], limit: int) -> int:
    """How many objects of these sizes, in bytes, are on one page, from the first on: `limit` at
    most, and one at least if there is any."""
    total = 0
    for count, size in enumerate(sizes[:limit]):
        total += size
        if count and total > MOST:
            return count
    return min(len(sizes), limit)


def as_page(data: Sequence[dict[str, Any]], *, has_more: bool) -> dict[str, Any]:
    """One page as the API shows it."""
    return {
        "object": "list",
        "data": data,
        "first_id": data[0]["id"] if data else None,
        "last_id": data[-1]["id"] if data else None,
        "has_more": has_more,
    }


async def answered(room: Room, size: int, read: Callable[[], Awaitable[dict[str, Any]]]) -> ASGIApp:
    """An answer with what `read` gives; a long one is read once there is room for it.

    Args:
        size: of what is read, in bytes.
    """
    return JSONAnswer(await read()) if size < LONG else LongAnswer(room, size, read)
