"""Which trace a response belongs to."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from longrun.execution.tracing.identity import Caller, Identity

TRACE, SPAN = "4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7"


@pytest.mark.parametrize(
    ("header", "sampled"),
    [
        (f"00-{TRACE}-{SPAN}-01", True),
        (f"00-{TRACE}-{SPAN}-00", False),
        (f"01-{TRACE}-{SPAN}-03-more", True),
    ],
)
def test_a_header_that_is_valid(header: str, sampled: bool) -> None:
    assert Caller.parse(header) == Caller(int(TRACE, 16), int(SPAN, 16), sampled)


@pytest.mark.parametrize(
    "header",
    [
        *(None, "", "00", f"ff-{TRACE}-{SPAN}-01", f"00-{TRACE}-{SPAN}-01-more"),
        *(f"00-{'0' * 32}-{SPAN}-01", f"00-{TRACE}-{'0' * 16}-01", f"00-{TRACE.upper()}-{SPAN}-01"),
    ],
)
def test_one_that_is_not(header: str | None) -> None:
    assert Caller.parse(header) is None
    assert Identity.of("resp_1", header) == Identity.of("resp_1", None)


@given(st.text())
def test_any_header(header: str) -> None:
    Identity.of("resp_1", header)


def test_each_replica_makes_the_same_one() -> None:
    first, second = Identity.of("resp_1", None), Identity.of("resp_2", None)
    assert first == Identity.of("resp_1", None)
    assert first.trace_id != second.trace_id
    assert first.root_id != second.root_id
    assert Identity.of("resp_1", f"00-{TRACE}-{SPAN}-01").root_id == first.root_id
