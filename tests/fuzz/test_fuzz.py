"""A short fuzz, the same each time; `make fuzz` goes on for an hour, each time elsewhere."""

from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from urllib.parse import quote

import pytest

from tests.fuzz import api, frames, journeys, wire
from tests.fuzz.ground import Found, Ground, ground
from tests.postgres import Server

SEED = 20261125


@pytest.fixture(scope="module")
def here(database: Server) -> Iterator[Ground]:
    with ground(database.url) as made:
        yield made


@pytest.mark.parametrize(
    ("part", "examples"),
    [
        pytest.param(api.alone, 5, id="alone"),
        pytest.param(api.chained, 15, id="chained"),
        pytest.param(journeys.journeys, 10, id="journeys"),
        pytest.param(wire.wire, 100, id="wire"),
        pytest.param(frames.frames_of_http2, 100, id="frames"),
    ],
)
def test_whatever_comes(
    here: Ground, part: Callable[[Ground, int, int], None], examples: int
) -> None:
    part(here, SEED, examples)
    here.at_rest()


FORGED = "2026-11-25 00:00:00,000 INFO    longrun.http: GET /forged 200 1.0 ms req_forged"


@pytest.mark.parametrize("end", ["\n", "\r\n", "\r", "\x85", "\u2028", "\x0b", "\x1b[2K\r"])
def test_no_line_of_the_log_is_a_client_s(here: Ground, end: str) -> None:
    """In a path, as it is or encoded, and in what a failed request says of itself."""
    line = quote(f"{end}{FORGED}")
    for path in (f"/responses/{line}", f"/{line}", f"/responses?after={line}"):
        here.ask(here.tenants[0], "GET", path)
    raw = f"GET /responses/{end.strip()}{FORGED.replace(' ', end)} HTTP/1.1\r\nhost: a\r\n\r\n"
    wire.check(here, wire.exchange(here, raw.encode()))
    here.at_rest()
    for replica in here.replicas:
        lines = replica.output().splitlines()
        assert not [each for each in lines if each.startswith(FORGED[:30])]


class TestWhatIsLookedAt:
    """The oracle itself: it sees what it is to see."""

    def test_another_s_canary(self, here: Ground) -> None:
        alice, bob = here.tenants
        with pytest.raises(Found, match="what is bob's was shown"):
            here.ask(alice, "GET", f"/models/{bob.canary}")

    @pytest.mark.parametrize(
        "line",
        [
            "forged",
            "2026-11-25 00:00:00,000 ERROR   longrun: x",
            "  Traceback (most recent call last):",
        ],
    )
    def test_a_line_of_the_log(self, here: Ground, tmp_path: Path, line: str) -> None:
        log = tmp_path / "log"
        right = f"{FORGED}\n  and more of it\n"
        log.write_text(right)
        here._check_log(replace(here.replicas[0], log=log))
        log.write_text(f"{right}{line}\n{right}")
        with pytest.raises(Found, match="log"):
            here._check_log(replace(here.replicas[0], log=log))

    def test_what_is_not_promised(self, here: Ground) -> None:
        del here.judge_of_document.document["paths"]["/models"]["get"]["responses"]["200"]
        with pytest.raises(Found, match="status 200 is not in the document"):
            here.ask(here.tenants[0], "GET", "/models")
