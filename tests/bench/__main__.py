"""`python -m tests.bench`: measure figures and show them beside their floors."""

import argparse
import signal
import sys
import time
import traceback
from collections.abc import Sequence

from tests import postgres
from tests.bench.figure import Figure, Ground
from tests.bench.figures import FIGURES
from tests.bench.screen import Result, Screen, as_json


def main() -> int:
    """0, whatever the figures; 1 if something was lost, out of order or not measured."""
    options = _parser().parse_args()
    # Postgres and the replicas are stopped on the way out.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))
    screen = Screen()
    results = _measure([FIGURES[name] for name in options.only or FIGURES], options.quick, screen)
    if options.json:
        print(as_json(results))
    else:
        screen.tables(results)
    return 1 if any(result.problems for result in results) else 0


def _parser() -> argparse.ArgumentParser:
    listed = "\n".join(f"  {figure.name:<12} {figure.title}" for figure in FIGURES.values())
    parser = argparse.ArgumentParser(
        prog="python -m tests.bench",
        formatter_class=argparse.RawDescriptionHelpFormatter,
        description="Measure figures, each in turn with its floor, and show the ratio.\n"
        "Exits 0 whatever the figures are; 1 if an event was lost or out of order,\n"
        "or a figure could not be measured.",
        epilog=f"figures:\n{listed}\n\n"
        "example:\n  python -m tests.bench --only latency --only replay --quick",
    )
    parser.add_argument(
        "--only",
        action="append",
        choices=list(FIGURES),
        metavar="NAME",
        help="measure this figure only; may be given again",
    )
    parser.add_argument("--quick", action="store_true", help="fewer and shorter rounds")
    parser.add_argument("--json", action="store_true", help="one JSON document, for programs")
    return parser


def _measure(figures: Sequence[Figure], quick: bool, screen: Screen) -> list[Result]:
    results = []
    with screen.progress(), postgres.embedded() as server:
        for figure in figures:
            result = Result(figure)
            results.append(result)
            began = time.monotonic()
            with screen.step(figure.name) as (said, planned):
                ground = Ground(server, quick, said, planned, result.problems, result.clients)
                try:
                    result.lines = figure.measure(ground)
                except Exception as error:
                    traceback.print_exc()
                    result.problems.append(f"not measured: {type(error).__name__}: {error}")
            result.seconds = time.monotonic() - began
    return results


if __name__ == "__main__":
    sys.exit(main())
