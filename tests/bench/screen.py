"""What a benchmark shows: progress while it measures, a table at the end."""

import json
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, Final

from rich import box
from rich.console import Console
from rich.progress import BarColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn
from rich.table import Table
from rich.text import Text

from tests.bench.figure import Figure, Line

SIGNS: Final = {"<=": "≤", ">=": "≥"}
WIDTH: Final = 34
COLUMNS: Final = {
    "floor": 8,
    "ours": 8,
    "": 12,
    "ratio": 6,
    "rounds": 11,
    "target": 6,
    " ": 6,
}


@dataclass(slots=True)
class Result:
    """One figure, measured."""

    figure: Figure
    lines: list[Line] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)
    clients: list[float] = field(default_factory=list)
    seconds: float = 0.0


class Screen:
    """Progress goes to standard error, the result to standard output."""

    def __init__(self) -> None:
        self._out = Console(highlight=False)
        if not self._out.is_terminal:
            self._out.width = 120
        self._progress = Progress(
            SpinnerColumn(finished_text="[green]✓[/]"),
            TextColumn("[bold]{task.fields[name]:<11}[/]"),
            BarColumn(bar_width=24),
            TimeElapsedColumn(),
            TextColumn("[dim]{task.description}[/]"),
            console=Console(stderr=True, highlight=False),
        )

    @contextmanager
    def progress(self) -> Iterator[None]:
        with self._progress:
            yield

    @contextmanager
    def step(self, name: str) -> Iterator[tuple[Callable[[str], None], Callable[[int], None]]]:
        """A figure begins. Yields what it tells its steps to, and their number."""
        task = self._progress.add_task("starting", name=name, total=None)
        total = 0

        def said(what: str) -> None:
            self._progress.update(task, description=what)
            self._progress.advance(task)

        def planned(more: int) -> None:
            nonlocal total
            total += more
            self._progress.update(task, total=total + 1)

        yield said, planned
        self._progress.update(task, description="", total=max(total, 1), completed=max(total, 1))

    def tables(self, results: Sequence[Result]) -> None:
        for result in results:
            figure = result.figure
            self._out.print(f"\n[bold]{figure.name}[/]  {figure.title}")
            self._out.print(f"[dim]floor: {figure.floor}[/]")
            if result.lines:
                self._out.print(_table(result.lines))
            if result.clients:
                low, high = min(result.clients), max(result.clients)
                self._out.print(
                    f"[dim]the reading client used {low:.0%} to {high:.0%} of a core[/]"
                )
        self._out.print(
            "\n[dim]Floor and ours are medians of rounds measured in turn; the ratio is the median"
            " of the rounds' ratios,\n'rounds' their range.[/]"
        )
        self._problems(results)

    def _problems(self, results: Sequence[Result]) -> None:
        for result in results:
            for problem in result.problems:
                self._out.print(Text(f"✗ {result.figure.name}: {problem}", style="bold red"))
        if not any(result.problems for result in results):
            self._out.print("[green]✓[/] every event was there, once and in order")


def _table(lines: Sequence[Line]) -> Table:
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    table.add_column("", width=WIDTH)
    for column, width in COLUMNS.items():
        table.add_column(column, justify="right", min_width=width, no_wrap=True)
    for line in lines:
        table.add_row(*_cells(line))
    return table


def _cells(line: Line) -> list[Text]:
    low, *_, high = [*line.ratios, line.ratios[-1]]
    target = f"{SIGNS[line.target.sense]} {line.target.ratio:g}" if line.target else "–"
    verdict = {
        None: Text(""),
        True: Text("met", style="green"),
        False: Text("missed", style="bold yellow"),
    }[line.met]
    return [
        Text(line.what),
        Text(_number(line.floor)),
        Text(_number(line.ours)),
        Text(line.unit, style="dim"),
        Text(_number(line.ratio), style="bold"),
        Text(f"{_number(low)}–{_number(high)}", style="dim"),
        Text(target),
        verdict,
    ]


def _number(value: float) -> str:
    return f"{value:,.0f}" if value >= 100 else f"{value:.2f}"


def as_json(results: Sequence[Result]) -> str:
    """All figures as one JSON document, for programs."""
    return json.dumps([_as_dict(result) for result in results], indent=2)


def _as_dict(result: Result) -> dict[str, Any]:
    return {
        "name": result.figure.name,
        "title": result.figure.title,
        "floor_is": result.figure.floor,
        "seconds": round(result.seconds, 1),
        "problems": result.problems,
        "client_cpu": [round(each, 3) for each in result.clients],
        "lines": [
            {
                "what": line.what,
                "unit": line.unit,
                "floor": line.floor,
                "ours": line.ours,
                "ratio": line.ratio,
                "ratios": line.ratios,
                "target": f"{line.target.sense} {line.target.ratio:g}" if line.target else None,
                "met": line.met,
                "rounds": [{"floor": floor, "ours": ours} for floor, ours in line.pairs],
            }
            for line in result.lines
        ],
    }
