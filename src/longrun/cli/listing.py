"""What `longrun ps` lists: runs, as a server says or as they are in its database."""

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, get_args

import openai
from rich.console import Console
from rich.live import Live
from rich.table import Table
from rich.text import Text

from longrun.cli.server import connected, in_words
from longrun.durations import duration
from longrun.errors import ConfigurationError
from longrun.http.overview import as_run
from longrun.jsontext import dumps
from longrun.loglines import on_terminal
from longrun.protocol import Status
from longrun.settings import Settings
from longrun.store.command import opened_overview
from longrun.store.overview import Wanted

LIVE: Final = ("in_progress", "queued")

INTERVAL: Final = 1.0
"""Seconds between two looks of --watch."""

_COLOURS: Final[dict[str, str]] = {
    "queued": "yellow",
    "in_progress": "cyan",
    "completed": "green",
    "failed": "red",
    "incomplete": "magenta",
    "cancelled": "dim",
}

WIDE: Final = 120
"""Columns of a terminal on which all is shown."""

_OF_WIDE: Final = frozenset({"attempt", "events", "tokens", "replica"})

_NUMBERS: Final = frozenset({"age", "took", "attempt", "events", "tokens"})

Run = dict[str, Any]
"""An entry of `GET /runs`."""

Look = Callable[[], Awaitable[list[Run]]]
Columns = dict[str, Callable[[Run], str | tuple[str, str]]]


@dataclass(frozen=True, slots=True)
class Source:
    """Where runs are looked for. `of_everybody`: whose they are is shown. `nothing`: what is said
    where there are none."""

    opened: AbstractAsyncContextManager[Look]
    of_everybody: bool
    nothing: str


def source_of(
    url: str | None,
    database_url: str | None,
    data_dir: Path | None,
    *,
    limit: int,
    statuses: list[str] | None,
    agent: str | None,
    everybody: bool,
) -> Source:
    """The server at `url`, or the database if one is named.

    Raises:
        ConfigurationError: both are named, or one cannot be used.
    """
    wanted = Wanted(principal="", limit=limit, statuses=statuses, agent=agent)
    if database_url is None and data_dir is None:
        return Source(_server(connected(url), wanted, everybody), everybody, _nothing(wanted))
    if url is not None:
        raise ConfigurationError("--url and --database-url or --data-dir cannot be used together")
    settings = Settings.load(database_url=database_url, data_dir=data_dir)
    return Source(_database(settings, wanted), True, _nothing(wanted))


def _nothing(wanted: Wanted) -> str:
    of = f" of {wanted.agent}" if wanted.agent else ""
    if wanted.statuses is None:
        return f"there are no runs{of}"
    if wanted.statuses == list(LIVE):
        return f"nothing{of} is queued or in progress (--all lists what has ended)"
    return f"no run{of} is {' or '.join(wanted.statuses)}"


def show(source: Source, watch: bool, json: bool) -> None:
    """Print what there is; with `watch`, again and again until Ctrl-C."""
    asyncio.run(_show(source, watch, json))


def statuses_of(text: str) -> list[str]:
    """The statuses of a list with commas.

    Raises:
        ConfigurationError: one is none.
    """
    found = [each.strip() for each in text.split(",")]
    if not set(found) <= set(get_args(Status)):
        raise ConfigurationError(f"--status {text!r}: allowed are {', '.join(get_args(Status))}")
    return found


@asynccontextmanager
async def _database(settings: Settings, wanted: Wanted) -> AsyncIterator[Look]:
    async with opened_overview(settings) as overview:

        async def look() -> list[Run]:
            found, _ = await overview.runs_unscoped(wanted)
            return [as_run(each) for each in found]

        yield look


@asynccontextmanager
async def _server(client: openai.OpenAI, wanted: Wanted, everybody: bool) -> AsyncIterator[Look]:
    query: dict[str, Any] = {"limit": wanted.limit, "model": wanted.agent}
    query["status"] = ",".join(wanted.statuses) if wanted.statuses else None
    given = {name: value for name, value in query.items() if value is not None}
    headers = {"longrun-principal": "*"} if everybody else {}

    def ask() -> list[Run]:
        with in_words(client):
            page: Any = client.get(
                "/runs", cast_to=object, options={"params": given, "headers": headers}
            )
            return list(page["data"])

    async def look() -> list[Run]:
        return await asyncio.to_thread(ask)

    yield look


async def _show(source: Source, watch: bool, json: bool) -> None:
    console = Console(highlight=False)
    columns = _columns(source.of_everybody, console.width >= WIDE)
    async with source.opened as look:
        if json:
            while True:
                print(dumps({"runs": await look()}).decode(), flush=True)
                if not watch:
                    return
                await asyncio.sleep(INTERVAL)
        if not watch:
            console.print(_table(await look(), columns, source.nothing))
            return
        with Live(console=console, auto_refresh=False, screen=console.is_terminal) as live:
            while True:
                live.update(_table(await look(), columns, source.nothing), refresh=True)
                await asyncio.sleep(INTERVAL)


def _columns(of_everybody: bool, wide: bool) -> Columns:
    """By title, what of a run is shown."""
    shown: Columns = {
        "id": lambda run: run["id"],
        "status": _status,
        "agent": lambda run: on_terminal(run["model"]),
        "age": lambda run: duration(time.time() - run["created_at"]),
        "took": lambda run: duration((run["finished_at"] or time.time()) - run["created_at"]),
        "attempt": lambda run: str(run["attempt"]),
        "events": lambda run: str(run["events"]),
        "tokens": lambda run: str((run["usage"] or {}).get("total_tokens", "")),
        "replica": lambda run: (run["replica_id"] or "")[-8:],
        "input": lambda run: on_terminal(run["input"] or ""),
    }
    if of_everybody:
        shown["principal"] = lambda run: on_terminal(run["principal"] or "(none)")
    return shown if wide else {name: shown[name] for name in shown if name not in _OF_WIDE}


def _table(runs: list[Run], columns: Columns, nothing: str) -> Table | Text:
    if not runs:
        return Text(nothing, style="dim")
    table = Table(box=None, pad_edge=False, expand=True)
    for title in columns:
        right = title in _NUMBERS
        table.add_column(
            title,
            no_wrap=True,
            justify="right" if right else "left",
            ratio=1 if title == "input" else None,
        )
    for run in runs:
        # What a client wrote is text, and no markup.
        table.add_row(*(Text.assemble(shown(run)) for shown in columns.values()))
    return table


def _status(run: Run) -> tuple[str, str]:
    said = "waits for approval" if run["waits"] else run["status"]
    return said, _COLOURS[run["status"]]
