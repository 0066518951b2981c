"""Log lines are one line each, whatever clients put into what is logged."""

import json
import logging
import re
import sys
from typing import Any

import pytest

from longrun.loglines import LONGEST, JSONFormatter, LineFormatter, on_terminal, one_line, tell


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


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("caf\u00e9 \U0001f600\n\tb\r\n", "caf\u00e9 \U0001f600\n\tb\r\n"),
        ("\x1b[2J\x9b\x07\x00a\rb", "\\x1b[2J\\x9b\\x07\\x00a\\rb"),
        ("a\ud800b", "a\\ud800b"),
    ],
)
def test_what_a_terminal_would_act_upon_is_escaped(text: str, shown: str) -> None:
    assert on_terminal(text) == shown


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


def shown_by(formatter: logging.Formatter, what: str, **fields: Any) -> str:
    """A line with fields, as a formatter shows it."""
    records: list[logging.LogRecord] = []
    log = logging.Logger("longrun.runs")
    log.addFilter(lambda record: not records.append(record))
    tell(log, what, **fields)
    return formatter.format(records[0])


FIELDS = {"agent": "a b=c", "replica": "r_1", "duration": 1.23456, "alone": True, "none": None}


def test_fields_follow_what_a_line_says() -> None:
    formatter = LineFormatter("%(levelname)s %(name)s: %(message)s")
    shown = shown_by(formatter, "run ended", **FIELDS, models=["a", "b"], forged="x\nERROR y")
    assert shown == (
        'INFO longrun.runs: run ended agent="a b=c" replica=r_1 duration=1.235 alone=true'
        ' models=a,b forged="x\\\\nERROR y"'
    )


def test_fields_are_members_of_a_json_line() -> None:
    line = json.loads(shown_by(JSONFormatter(), "run ended", **FIELDS))
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z", line.pop("time"))
    assert line == {
        "level": "info",
        "logger": "longrun.runs",
        "message": "run ended",
        "agent": "a b=c",
        "replica": "r_1",
        "duration": 1.235,
        "alone": True,
    }


def test_any_formatter_finds_the_fields() -> None:
    formatter = logging.Formatter("%(message)s | %(agent)s")
    assert shown_by(formatter, "run started", agent="x") == "run started agent=x | x"


def test_json_is_one_line_whatever_is_in_it() -> None:
    try:
        raise ValueError("a\u2028b\ud800")
    except ValueError:
        raised = sys.exc_info()
    record = logging.LogRecord("x", logging.ERROR, "", 0, "%s\nfailed", ("b\x1b",), raised)
    record.of_a_library = {1: object()}
    text = JSONFormatter().format(record)
    assert text.isascii()
    assert len(text.splitlines()) == 1
    line = json.loads(text)
    assert line["message"] == "b\x1b\nfailed"
    assert line["exception"].startswith("Traceback")
    assert "ValueError: a\u2028b" in line["exception"]
