"""Announcements as NOTIFY payloads."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from longrun import ids
from longrun.store.announcements import decode, encode

thorough = settings(max_examples=150, deadline=None, print_blob=True)

response_ids = st.integers(0, 2**128 - 1).map(lambda n: f"resp_{n:032x}")
reached = st.lists(st.tuples(response_ids, st.integers(0, 2**63 - 1)), max_size=400)

POSTGRES_LIMIT = 8000


@given(reached)
@thorough
def test_what_is_encoded_is_decoded(given_pairs: list[tuple[str, int]]) -> None:
    messages = list(encode(given_pairs))
    assert [pair for message in messages for pair in decode(message)] == given_pairs
    assert all(0 < len(message.encode()) < POSTGRES_LIMIT for message in messages)


def test_as_few_messages_as_they_need() -> None:
    pairs = [(ids.new_response_id(), 10**6) for _ in range(1000)]
    size = len(f"{pairs[0][0]}:{10**6},")
    messages = list(encode(pairs))
    assert len(messages) == -(-1000 * size // 7_900)
    assert all(len(message) <= 7_900 for message in messages)


def test_the_longest_ones_fit() -> None:
    pairs = [(ids.new_response_id(), 2**63 - 1) for _ in range(1000)]
    assert max(len(message) for message in encode(pairs)) < POSTGRES_LIMIT


def test_nothing_is_no_message() -> None:
    assert list(encode([])) == []


@pytest.mark.parametrize(
    "message",
    ["", ",", ":", "x", "x:", ":5", "x:five", "x:-5", "x:²", "x:٣", "x:5-", "x:" + "9" * 30],
)
def test_what_does_not_parse_is_passed_over(message: str) -> None:
    """Anybody can NOTIFY on a channel."""
    assert list(decode(f"a:1,{message},b:2")) == [("a", 1), ("b", 2)]


@given(st.text(max_size=40))
@thorough
def test_any_text_at_all(message: str) -> None:
    for response_id, last in decode(message):
        assert response_id
        assert isinstance(last, int)
