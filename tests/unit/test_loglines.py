"""Log lines are one line each, whatever clients put into what is logged."""

import logging
import sys

import pytest

from longrun.loglines import LONGEST, LineFormatter, one_line


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("/v1/responses", "/v1/responses"),
        ("/caf\u00e9", "/caf\u00e9"),
        ("a\nb\r\x1b[31m", "a\\nb\\r\\x1b[31m"),
        ("a\u2028\u0085b\u202e", "a\\u2028\\x85b\\u202e"),
        ("a\ud800", "a\\ud800"),
        ("x" * 1000, "x" * LONGEST + "…"),
    ],
)
def test_what_would_end_a_line_is_escaped(text: str, shown: str) -> None:
    assert one_line(text) == shown


def test_no_line_of_a_record_is_another_s() -> None:
    formatter = LineFormatter("%(levelname)s %(message)s")
    try:
        raise ValueError("a\nERROR forged\x1b[0m")
    except ValueError:
        raised = sys.exc_info()
    record = logging.LogRecord("x", logging.ERROR, "", 0, "%s failed", ("b\nERROR forged",), raised)
    first, *rest = formatter.format(record).split("\n")
    assert first == "ERROR b\\nERROR forged failed"
    assert rest
    assert all(line.startswith("  ") and "\x1b" not in line for line in rest)
