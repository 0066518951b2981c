"""Log lines that stay one line each, whatever clients put into what is logged."""

import logging
import re
from typing import Final

LONGEST: Final = 500
"""Characters of a client's that are worth a place in the log."""

# Control characters, what ends lines, what turns the direction of text, and lone surrogates.
_UNSAFE: Final = re.compile(
    "[\x00-\x1f\x7f-\x9f\u2028\u2029\u200e\u200f\u202a-\u202e\u2066-\u2069\ud800-\udfff]"
)


def one_line(text: str) -> str:
    """A client's text as it may stand in a log line: escaped, and not endless."""
    shown = text if len(text) <= LONGEST else text[:LONGEST] + "…"
    return shown if shown.isascii() and shown.isprintable() else _UNSAFE.sub(_escaped, shown)


def _escaped(match: re.Match[str]) -> str:
    return match[0].encode("unicode_escape").decode("ascii")


class LineFormatter(logging.Formatter):
    """Escapes control characters in messages; tracebacks, which quote clients too, are indented,
    so that no line of them looks like one of the log."""

    def formatMessage(self, record: logging.LogRecord) -> str:  # noqa: N802
        record.message = _UNSAFE.sub(_escaped, record.message)
        return super().formatMessage(record)

    def formatException(self, ei: object) -> str:  # noqa: N802
        text = super().formatException(ei)  # type: ignore[arg-type]
        return "\n".join("  " + _UNSAFE.sub(_escaped, line) for line in text.splitlines())
