"""How the C library keeps memory that is free again.

By itself glibc takes the size of what is freed as a sign of what will be asked for next, and then
keeps blocks of up to 32 MiB: after a few long texts a process stays as large as it ever was, since
something small lies in between. With fixed bounds large blocks go back to the system at once.
"""

import contextlib
import ctypes
import os
import sys
from typing import Final

LARGE: Final = 1024 * 1024
"""Size from which a block goes back to the system when it is freed, in bytes. Smaller ones are
common (chunks, pages, batches of the log): to ask the system for them each time would cost more."""

KEPT: Final = 8 * 1024 * 1024
"""Free bytes at the end of the heap that are kept."""

ARENAS: Final = 2
"""Maximum number of heaps: without it, nearly each thread that a tool runs in gets its own."""

_TRIM_THRESHOLD: Final = -1
_MMAP_THRESHOLD: Final = -3
_ARENA_MAX: Final = -8


def bound() -> None:
    """Set the bounds, where the C library is glibc and its environment says nothing of them."""
    told = any(name.startswith("MALLOC_") or name == "GLIBC_TUNABLES" for name in os.environ)
    if told or not sys.platform.startswith("linux"):
        return
    with contextlib.suppress(OSError, AttributeError):
        library = ctypes.CDLL(None)
        library.gnu_get_libc_version  # noqa: B018 - there in glibc alone
        for what, value in (
            (_MMAP_THRESHOLD, LARGE),
            (_TRIM_THRESHOLD, KEPT),
            (_ARENA_MAX, ARENAS),
        ):
            library.mallopt(what, value)
