"""Log lines that stay one line each, whatever clients put into what is logged; with fields."""

import datetime
import json
import logging
import re
from typing import Any, Final

LONGEST: Final = 500
"""Characters of a client's that are worth a place in the log."""

# Control characters, what ends lines, what turns the direction of text, and lone surrogates.
_UNSAFE: Final = re.compile(
    "[\x00-\x1f\x7f-\x9f\u2028\u2029\u200e\u200f\u202a-\u202e\u2066-\u2069\ud800-\udfff]"
)

# What a terminal acts upon, or cannot show; line ends and tabs it may act upon.
_ACTED_UPON: Final = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\ud800-\udfff]|\r(?!\n)")

_PLAIN: Final = re.compile(r"[^\s\"'=\\]+")
"""Values that need no quotes behind their name."""

_OF_EVERY_RECORD: Final = frozenset(
    {*logging.LogRecord("", 0, "", 0, "", (), None).__dict__, "message", "asctime"}
)
"""Attributes of a record that are not fields of its own."""


def one_line(text: str) -> str:
    """A client's text as it may stand in a log line: escaped, and not endless."""
    shown = text if len(text) <= LONGEST else text[:LONGEST] + "…"
    return shown if shown.isascii() and shown.isprintable() else _UNSAFE.sub(_escaped, shown)


def on_terminal(text: str) -> str:
    """A text of a client's, a model's or a tool's as a terminal may be given it: in as many lines
    as it has, and with escapes for what would move the cursor, say, or fill the clipboard."""
    return text if text.isprintable() else _ACTED_UPON.sub(_escaped, text)


def _escaped(match: re.Match[str]) -> str:
    return match[0].encode("unicode_escape").decode("ascii")


class Line:
    """What a log line says, and its fields: `run ended response_id=resp_… status=completed`."""

    __slots__ = ("fields", "what")

    def __init__(self, what: str, fields: dict[str, Any]) -> None:
        self.what = what
        self.fields = fields

    def __str__(self) -> str:
        return " ".join([self.what, *(f"{name}={_shown(v)}" for name, v in self.fields.items())])


def tell(log: logging.Logger, what: str, level: int = logging.INFO, **fields: Any) -> None:
    """Log a line with fields, which are attributes of its record too, so that any formatter may
    show them. Fields that are None are left out.

    Args:
        what: always the same for the same kind of event.
    """
    if log.isEnabledFor(level):
        given = {name: value for name, value in fields.items() if value is not None}
        log.log(level, Line(what, given), extra=given, stacklevel=2)


def _shown(value: Any) -> str:
    match value:
        case bool():
            return str(value).lower()
        case float():
            return f"{value:.3f}"
        case list() | tuple():
            return _shown(",".join(str(each) for each in value))
    text = one_line(str(value))
    return text if _PLAIN.fullmatch(text) else json.dumps(text, ensure_ascii=False)


class LineFormatter(logging.Formatter):
    """Escapes control characters in messages; tracebacks, which quote clients too, are indented,
    so that no line of them looks like one of the log."""

    def formatMessage(self, record: logging.LogRecord) -> str:  # noqa: N802
        record.message = _UNSAFE.sub(_escaped, record.message)
        return super().formatMessage(record)

    def formatException(self, ei: object) -> str:  # noqa: N802
        text = super().formatException(ei)  # type: ignore[arg-type]
        return "\n".join("  " + _UNSAFE.sub(_escaped, line) for line in text.splitlines())


class JSONFormatter(logging.Formatter):
    """One JSON object a record, in ASCII: `time` (UTC), `level`, `logger`, `message`, the fields of
    the record, and `exception`, the traceback.

    Args:
        beside: what each of them has besides.
    """

    def __init__(self, beside: dict[str, Any] | None = None) -> None:
        super().__init__()
        self._beside = beside or {}

    def format(self, record: logging.LogRecord) -> str:
        said = record.msg
        when = datetime.datetime.fromtimestamp(record.created, datetime.UTC)
        shown: dict[str, Any] = {
            "time": when.isoformat(timespec="milliseconds").replace("+00:00", "Z"),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": said.what if isinstance(said, Line) else record.getMessage(),
        }
        shown.update(self._beside)
        for name, value in record.__dict__.items():
            if name not in _OF_EVERY_RECORD:
                shown.setdefault(name, round(value, 3) if isinstance(value, float) else value)
        if record.exc_info:
            shown["exception"] = self.formatException(record.exc_info)
        if record.stack_info:
            shown["stack"] = record.stack_info
        # Keys that are no text and values that are no JSON come from libraries.
        return json.dumps(shown, default=str, skipkeys=True)
