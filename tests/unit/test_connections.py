"""Connections: which of several hosts is chosen."""

import pytest

from longrun.store.connections import choice_of_host


@pytest.mark.parametrize(
    ("url", "options"),
    [
        ("postgresql://u:p@one/d", {}),
        ("postgresql://u:p,q@one/d", {}),
        ("postgresql:///d?host=/var/run/postgresql", {}),
        ("postgresql://u@one:5432,two:5433/d", {"target_session_attrs": "primary"}),
        ("postgresql:///d?host=one,two", {"target_session_attrs": "primary"}),
        ("postgresql://u@one,two/d?target_session_attrs=any", {}),
    ],
)
def test_of_several_it_is_the_primary_unless_the_url_says(
    url: str, options: dict[str, str]
) -> None:
    assert choice_of_host(url) == options
