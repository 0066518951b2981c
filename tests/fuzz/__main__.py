"""`python -m tests.fuzz`: an hour of whatever comes, against two replicas with two tenants."""

import argparse
import random
import sys
import time
import traceback
from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Final

from tests import postgres
from tests.fuzz import api, frames, journeys, wire
from tests.fuzz.ground import Ground, ground

Part = Callable[[Ground, int, int], None]

PARTS: Final[dict[str, tuple[Part, int]]] = {
    "alone": (api.alone, 20),
    "chained": (api.chained, 20),
    "journeys": (journeys.journeys, 15),
    "wire": (wire.wire, 150),
    "frames": (frames.frames_of_http2, 150),
}
"""Each part, and how many examples one round of it has."""


def main() -> int:
    """Run; 0 if nothing was found."""
    arguments = _arguments()
    parts = {name: PARTS[name] for name in arguments.only or PARTS}
    first = arguments.seed if arguments.seed is not None else random.SystemRandom().randrange(10**6)
    until = time.monotonic() + arguments.minutes * 60
    found, number = 0, first
    with postgres.embedded() as server, _ground(server.url, arguments) as here:
        again = "".join(f" --{name}" for name in ("sealed", "keyless") if vars(arguments)[name])
        for name, (part, _) in parts.items():
            _tried(here, name, part, first, 3, again)
        print("warm", here.size(), flush=True)
        rounds = arguments.rounds
        while number < first + rounds if rounds else time.monotonic() < until:
            for name, (part, examples) in parts.items():
                ok = _tried(here, name, part, number, examples, again)
                found += not ok
                left = max(0, until - time.monotonic()) / 60
                print(
                    f"{'ok   ' if ok else 'FOUND'} {name:9} seed {number}  "
                    f"{here.answers} answers, {found} finds, {here.size()}, {left:.1f} min left",
                    flush=True,
                )
                if not ok and not arguments.go_on:
                    return 1
            number += 1
        told = ", ".join(f"{count} × {status}" for status, count in sorted(here.statuses.items()))
        print(f"statuses: {told}")
    return 1 if found else 0


def _ground(url: str, arguments: argparse.Namespace) -> AbstractContextManager[Ground]:
    return ground(url, sealed=arguments.sealed, keyless=arguments.keyless)


def _tried(here: Ground, name: str, part: Part, number: int, examples: int, again: str) -> bool:
    """One round of a part. False: it found something, which is printed, as small as it gets."""
    try:
        part(here, number, examples)
        here.at_rest()
    except Exception as error:
        traceback.print_exception(error, limit=-4)
        print("\nthe smallest that does it:", *here.said[-30:], sep="\n  ")
        print(
            f"again: python -m tests.fuzz --only {name} --seed {number} --rounds 1{again}",
            flush=True,
        )
        return False
    return True


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz", description=__doc__)
    parser.add_argument("minutes", nargs="?", type=float, default=60, help="how long (60)")
    parser.add_argument("--seed", type=int, help="of the first round; else drawn, and printed")
    parser.add_argument("--rounds", type=int, help="so many rounds, in place of minutes")
    parser.add_argument("--only", nargs="*", choices=PARTS, help="these parts")
    parser.add_argument("--go-on", action="store_true", help="do not stop at the first find")
    parser.add_argument("--sealed", action="store_true", help="encrypt what is stored")
    parser.add_argument(
        "--keyless", action="store_true", help="a server without keys: one client, and web pages"
    )
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())
