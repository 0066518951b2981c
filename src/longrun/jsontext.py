"""JSON as agents really produce it: orjson where it can, the standard library where it cannot.

orjson refuses lone surrogates, and integers beyond 64 bits or makes floats of them; models and
tools do emit both. The standard library writes them as `\\udXXX` escapes and long digits: legal
JSON that every client reads. Encoded text never holds a raw newline, a NUL or invalid UTF-8.
"""

import contextlib
import json
from typing import Any, Final

import orjson
from pydantic import BaseModel


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


def _finite(value: Any) -> Any:
    """NaN and infinities as null, which is what orjson writes."""
    if isinstance(value, float):
        return value if value - value == 0 else None
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
        return orjson.dumps(value, default=_default, option=orjson.OPT_NON_STR_KEYS)
    except (TypeError, ValueError, RecursionError):
        text = json.dumps(_finite(value), default=_plain, separators=(",", ":"))
        return text.encode("ascii")


_DIGITS: Final = bytes(ord("0") if chr(byte) in "0123456789" else 0 for byte in range(256))
_LONG_NUMBER: Final = b"0" * 19
"""Perhaps an integer beyond 64 bits, of which orjson would make a float."""


def loads(text: bytes | str) -> Any:
    """Decode JSON text.

    Raises:
        NotJSON: the text is not JSON (NaN and Infinity are not).
    """
    if not _has_long_number(text):
        # `\\ud800` alone is legal JSON that orjson does not take.
        with contextlib.suppress(orjson.JSONDecodeError):
            return orjson.loads(text)
    try:
        decoded = text.decode() if isinstance(text, bytes) else text
        return json.loads(decoded, parse_constant=_refuse, parse_float=_float)
    except (ValueError, RecursionError) as error:
        raise NotJSON(str(error)) from None


def _has_long_number(text: bytes | str) -> bool:
    """Ten times as fast as a regular expression."""
    raw = text if isinstance(text, bytes) else text.encode("utf-8", "surrogatepass")
    return _LONG_NUMBER in raw.translate(_DIGITS)


def _refuse(constant: str) -> Any:
    raise NotJSON(f"{constant} is not JSON")


def _float(digits: str) -> float:
    value = float(digits)
    return value if value - value == 0 else _refuse(digits)
