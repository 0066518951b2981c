"""Where in a run a step is: keys that Postgres takes, whatever models call their calls."""

import pytest

from longrun.execution.replay.scope import LONGEST_PATH, Scope, key_of

ODD = [
    "",
    "a\x00b",
    "a\ud800b",
    "a/b",
    "~a",
    "a\nb",
    "é",
    "s" * 65,
    "signature " * 1000,
]


@pytest.mark.parametrize("plain", ["call_1", "call_AbC-12.3:x", "guardrail judge 1", "s" * 64])
def test_a_usual_call_id_is_its_own_key(plain: str) -> None:
    assert key_of(plain) == plain


def test_an_odd_one_has_a_key_that_is_short_plain_and_its_alone() -> None:
    keys = [key_of(odd) for odd in ODD]
    assert len({*keys, *ODD}) == len(keys) + len(ODD)
    for key in keys:
        assert key.isascii()
        assert key.isprintable()
        assert "/" not in key
        assert len(key) <= 64
        assert key_of(key) != key, "an odd id could be made to look like another's key"


def test_paths_are_bounded_and_differ() -> None:
    one, other = Scope(""), Scope("")
    paths = set()
    for n in range(50):
        one, other = one.inside(f"call_{n}"), other.inside(f"call_{n}" if n else "call_x")
        paths |= {one.path, other.path}
        assert len(one.path) <= LONGEST_PATH
    assert len(paths) == 100
    assert Scope("").inside("call_1").inside("call_2").path == "/call_1/call_2"
