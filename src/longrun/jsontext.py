"""JSON as agents really produce it: orjson where it can, the standard library where it cannot.

orjson refuses lone surrogates, and integers beyond 64 bits or makes floats of them; models and
tools do emit both. The standard library writes them as `\\udXXX` escapes and long digits: legal
JSON that every client reads. Encoded text never holds a raw newline, a NUL or invalid UTF-8, nor
anything else at which some clients end a line of a stream (Python's `splitlines`, U+2028).
"""

import contextlib
import functools
import json
from typing import Any, Final

import orjson
from pydantic import BaseModel

_MOST_DIGITS: Final = 4300
"""Python's own limit for integers, whose reading takes time by the square of their length."""

_MOST_BITS: Final = 14_000
"""Fewer than the least integer of more digits has."""


_COPIED_TO: Final = 16 * 1024
"""Bytes up to which a text is copied. orjson gives the buffer in which it wrote, which takes 4 KiB
for an event of 130 bytes; events are kept until they are committed, and then for readers."""


class NotJSON(ValueError):
    """The text is not JSON."""


class Encoded:
    """JSON text that is already encoded and goes into a larger document as it is."""

    __slots__ = ("text",)

    def __init__(self, text: bytes | str) -> None:
        self.text = text


def _plain(value: Any) -> Any:
    if isinstance(value, BaseModel):
        return value.model_dump(mode="json", exclude_unset=True, warnings=False)
    if isinstance(value, set | frozenset | tuple):
        return list(value)
    return str(value)


def _default(value: Any) -> Any:
    return orjson.Fragment(value.text) if isinstance(value, Encoded) else _plain(value)


def _decoded(value: Any) -> Any:
    return json.loads(value.text) if isinstance(value, Encoded) else _plain(value)


def _finite(value: Any) -> Any:
    """NaN and infinities as null, which is what orjson writes; integers that Python will not write
    in decimal (over 4,300 digits) in hexadecimal, as text."""
    if isinstance(value, float):
        return value if value - value == 0 else None
    if isinstance(value, int) and value.bit_length() > _MOST_BITS:
        return hex(value)
    if isinstance(value, dict):
        return {str(k): _finite(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(v) for v in value]
    if isinstance(value, Encoded):
        return json.loads(value.text)
    if isinstance(value, BaseModel | set | frozenset):
        return _finite(_plain(value))
    return value


def dumps(value: Any) -> bytes:
    """Encode to one line of UTF-8 JSON. Never raises for what came out of an agent."""
    try:
        text = orjson.dumps(value, default=_default, option=orjson.OPT_NON_STR_KEYS)
        if len(text) < _COPIED_TO:
            text = b"%b" % text
        return text if text.isascii() else _without_line_ends(text)
    except (TypeError, ValueError, RecursionError):
        return _dumps_slowly(value).encode("ascii")


def canonical(value: Any) -> bytes:
    """Decoded JSON as text that is the same for the same values, in whatever order an object has
    its members. Never raises for what `loads` gave."""
    try:
        return orjson.dumps(value, option=orjson.OPT_SORT_KEYS)
    except (TypeError, ValueError, RecursionError):
        return json.dumps(value, sort_keys=True, separators=(",", ":")).encode("ascii")


def _without_line_ends(text: bytes) -> bytes:
    """In JSON they can stand in strings alone, where an escape means the same. Those of ASCII are
    escaped by every encoder. Looking for one byte first takes a fifth of the time."""
    if 0xE2 in text:
        text = text.replace(b"\xe2\x80\xa8", b"\\u2028").replace(b"\xe2\x80\xa9", b"\\u2029")
    if 0xC2 in text:
        text = text.replace(b"\xc2\x85", b"\\u0085")
    return text


def _dumps_slowly(value: Any) -> str:
    try:
        return json.dumps(value, default=_decoded, allow_nan=False, separators=(",", ":"))
    except (TypeError, ValueError, RecursionError):
        pass
    try:
        return json.dumps(_finite(value), default=_plain, separators=(",", ":"))
    except (ValueError, RecursionError):
        shallow = _finite(_shallow(value, frozenset()))
        return json.dumps(shallow, default=_plain, separators=(",", ":"))


_DEEPEST: Final = 200


def _shallow(value: Any, within: frozenset[int]) -> Any:
    """Without what is nested too deeply, or in itself."""
    if not isinstance(value, dict | list | tuple):
        return value
    if id(value) in within or len(within) >= _DEEPEST:
        return "…"
    within = within | {id(value)}
    if isinstance(value, dict):
        return {str(k): _shallow(v, within) for k, v in value.items()}
    return [_shallow(v, within) for v in value]


_DIGITS: Final = bytes(ord("0") if chr(byte) in "0123456789" else 0 for byte in range(256))
_LONG_NUMBER: Final = b"0" * 19
"""Perhaps an integer beyond 64 bits, of which orjson would make a float."""


def loads(text: bytes | bytearray | str, *, most_digits: int = _MOST_DIGITS) -> Any:
    """Decode JSON text.

    Args:
        most_digits: the longest integer that is read.

    Raises:
        NotJSON: the text is not JSON (NaN and Infinity are not), is nested too deeply, or has a
            number that is too long.
    """
    if not _has_long_number(text):
        # `\\ud800` alone is legal JSON that orjson does not take.
        with contextlib.suppress(orjson.JSONDecodeError):
            return orjson.loads(text)
    # Python code is called for each number, so that a thread full of long ones leaves the
    # interpreter to others in between.
    integer = functools.partial(_integer, most_digits)
    try:
        decoded = text if isinstance(text, str) else text.decode()
        return json.loads(decoded, parse_constant=_refuse, parse_int=integer, parse_float=_float)
    except UnicodeDecodeError:
        raise NotJSON("it is not UTF-8") from None
    except RecursionError:
        raise NotJSON("it is nested too deeply") from None
    except ValueError as error:
        raise NotJSON(str(error)) from None


_WINDOW: Final = 1024 * 1024


def _has_long_number(text: bytes | bytearray | str) -> bool:
    """Ten times as fast as a regular expression. By windows: a copy of 32 MB takes 30 ms."""
    raw = text.encode("utf-8", "surrogatepass") if isinstance(text, str) else text
    overlap = len(_LONG_NUMBER) - 1
    return any(
        _LONG_NUMBER in raw[start : start + _WINDOW + overlap].translate(_DIGITS)
        for start in range(0, len(raw), _WINDOW)
    )


def _refuse(constant: str) -> Any:
    raise NotJSON(f"{constant} is not JSON")


def _integer(most_digits: int, digits: str) -> int:
    return int(_not_too_long(digits, most_digits))


def _float(digits: str) -> float:
    value = float(_not_too_long(digits, _MOST_DIGITS))
    if value - value != 0:
        raise NotJSON("a number is out of range")
    return value


def _not_too_long(digits: str, most: int) -> str:
    if len(digits) > most:
        raise NotJSON(f"a number has more than {most} characters")
    return digits
