"""Ids: `resp_` plus 32 hex digits of a UUIDv7 (RFC 9562), so that ids sort by time.

Ids that clients name end with `ce11` and two digits for the cell in which they were made, so that
a proxy can route by the id alone (deploy/README.md, "Past one Postgres"). Ids made by earlier
versions have random digits there: one in 65,536 of them seems to name a cell. That is why a replica
first looks for what is asked of it, and only then at the cell.
"""

import os
import re
import threading
import time
from typing import Final

FIRST_CELL: Final = "00"
"""The cell of those who have only one."""

_MARK: Final = 0xCE11
"""Says that a cell follows, in what is otherwise random: an id stays a UUIDv7, and what is running
of the version before knows it."""

ITEM_PREFIXES: Final = {
    "message": "msg",
    "reasoning": "rs",
    "function_call": "fc",
    "function_call_output": "fco",
    "web_search_call": "ws",
    "file_search_call": "fs",
    "code_interpreter_call": "ci",
    "image_generation_call": "ig",
    "computer_call": "cu",
    "computer_call_output": "cuo",
    "mcp_call": "mcp",
    "mcp_list_tools": "mcpl",
    "mcp_approval_request": "mcpr",
    "custom_tool_call": "ctc",
    "custom_tool_call_output": "ctco",
    "local_shell_call": "lsh",
    "local_shell_call_output": "lsho",
    "shell_call": "sh",
    "shell_call_output": "sho",
    "apply_patch_call": "apc",
    "apply_patch_call_output": "apco",
    "compaction": "cmp",
}

_WITH_CELL: Final = re.compile(
    rf"[a-z]{{2,5}}_[0-9a-f]{{12}}7[0-9a-f]{{13}}{_MARK:04x}([0-9a-f]{{2}})(?:[0-9a-f]{{6}})?"
)

_lock = threading.Lock()
_last = 0


def uuid7_hex(cell: str | None = None) -> str:
    """32 hex digits of a UUIDv7, strictly growing within this process.

    Args:
        cell: two hex digits, which its last six say; 38 random bits are left. None: all 62 are
            random.

    The 12 bits after the version hold the fraction of the millisecond and count on when
    two ids fall into the same one (RFC 9562, section 6.2, method 3).
    """
    global _last
    nanoseconds = time.time_ns()
    stamp = (nanoseconds // 1_000_000) << 12 | (nanoseconds % 1_000_000) * 4096 // 1_000_000
    with _lock:
        stamp = max(stamp, _last + 1)
        _last = stamp
    tail = int.from_bytes(os.urandom(8)) & (1 << 62) - 1
    if cell is not None:
        tail = tail >> 24 << 24 | _MARK << 8 | int(cell, 16)
    value = (stamp >> 12) << 80 | 0x7 << 76 | (stamp & 0xFFF) << 64 | 0b10 << 62 | tail
    return f"{value:032x}"


def new_response_id(cell: str = FIRST_CELL) -> str:
    return "resp_" + uuid7_hex(cell)


def cell_of(id_: str) -> str | None:
    """The cell in which a response, a conversation or an item was made, by its id; None: the id is
    not one of ours, or from before ids had one."""
    found = _WITH_CELL.fullmatch(id_)
    return found[1] if found else None


def created_at(response_id: str) -> int:
    """When an id of ours was made, in seconds since the epoch."""
    return int(made_at(response_id))


def made_at(response_id: str) -> float:
    """As `created_at`, to the millisecond."""
    return int(response_id.removeprefix("resp_")[:12], 16) / 1000


def response_ids_from(seconds: float) -> str:
    """What sorts before all ids of responses that are made from a moment on, in seconds since the
    epoch, and behind all that are made before it."""
    return f"resp_{max(0, int(seconds * 1000)):012x}"


def age(response_id: str) -> float:
    """Seconds since an id of ours was made, by this machine's clock; never negative."""
    return max(time.time() - made_at(response_id), 0.0)


def new_conversation_id(cell: str = FIRST_CELL) -> str:
    return "conv_" + uuid7_hex(cell)


def new_webhook_endpoint_id(cell: str = FIRST_CELL) -> str:
    return "we_" + uuid7_hex(cell)


def new_item_id(item_type: str, cell: str = FIRST_CELL) -> str:
    """The id of an item that belongs to no response: one that a client adds to a conversation."""
    return f"{ITEM_PREFIXES.get(item_type, 'item')}_{uuid7_hex(cell)}"


def new_request_id() -> str:
    return "req_" + uuid7_hex()


def new_replica_id() -> str:
    return "replica_" + uuid7_hex()


def item_id(response_id: str, output_index: int, item_type: str) -> str:
    """The id of the output item at an index of a response.

    Derived, not drawn: an index is used once over all attempts, so the id is unique, and a run
    that is taken over gives its items the ids that they had. The cell stands before the index.
    """
    prefix = ITEM_PREFIXES.get(item_type, "item")
    return f"{prefix}_{response_id.removeprefix('resp_')}{output_index:06x}"


_FIRST_INPUT: Final = 0x800000
"""Input items are numbered from here on, above all output indexes."""


def input_item_id(response_id: str, place: int, item_type: str) -> str:
    """The id of the input item at a place of a response's own input: the same at every look."""
    return item_id(response_id, input_index(place), item_type)


def place_of_item(item_id: str) -> tuple[str, int] | None:
    """The response and the index that an item id of ours was made of; None for any other id."""
    prefix, _, digits = item_id.rpartition("_")
    if not _is_of_item(prefix, digits) or len(digits) != 38:
        return None
    return f"resp_{digits[:32]}", int(digits[32:], 16)


def input_index(place: int) -> int:
    """The index in the id of the input item at a place of a response's own input."""
    return _FIRST_INPUT + place


def input_place(index: int) -> int | None:
    """The place of an input item, by the index in its id; None for an output item's."""
    return index - _FIRST_INPUT if index >= _FIRST_INPUT else None


FIRST_STEER_PLACE: Final = 0x400000
"""Messages that are put into a run while it is live count as input items, from this place on."""


def steer_place(number: int) -> int:
    """The place among input items of a message that was put into a run, by its number."""
    return FIRST_STEER_PLACE + number


def steer_id(response_id: str, number: int) -> str:
    """The id of a request that put messages into a run, by the number of its first message."""
    return f"steer_{response_id.removeprefix('resp_')}{number:06x}"


def is_item_id(text: str) -> bool:
    """Whether `text` has the shape of an item id of ours, of a response or of a conversation."""
    prefix, _, digits = text.rpartition("_")
    return _is_of_item(prefix, digits)


def _is_of_item(prefix: str, digits: str) -> bool:
    return prefix != "" and len(digits) in (32, 38) and digits[12] == "7" and _is_hex(digits)


def is_response_id(text: str) -> bool:
    """Whether `text` has the shape of an id of ours; anything else is simply unknown."""
    return _is_id(text, "resp_")


def is_conversation_id(text: str) -> bool:
    """Whether `text` has the shape of an id of a conversation of ours."""
    return _is_id(text, "conv_")


def is_webhook_endpoint_id(text: str) -> bool:
    """Whether `text` has the shape of an id of a webhook endpoint of ours."""
    return _is_id(text, "we_")


def _is_id(text: str, prefix: str) -> bool:
    digits = text.removeprefix(prefix)
    return len(text) == len(prefix) + 32 and len(digits) == 32 and _is_hex(digits)


def _is_hex(text: str) -> bool:
    # In C: a context of 10,000 items asks this some ten thousand times.
    return not text.strip("0123456789abcdef")
