"""What `longrun serve` does with its settings: one process, or several, and what it says of it."""

import logging
import sys
from dataclasses import dataclass

from rich.console import Console

from longrun.loglines import JSONFormatter, LineFormatter, tell
from longrun.serving import cores
from longrun.serving.worker import Worker
from longrun.settings import Settings


def serve(settings: Settings, worker: Worker | None, console: Console) -> int:
    """Serve until it is stopped; returns the exit status.

    Args:
        worker: this process, if it is one of several: it leaves what is to be said to its parent.
        console: for people.

    Raises:
        ConfigurationError: the server cannot start; says why.
    """
    _log_to_stderr(settings.log_level, settings.log_format, worker.number if worker else None)
    said = _Said(settings, console)
    count = cores.available() if settings.workers == "auto" else settings.workers
    if worker is None and count > 1:
        return _serve_with_workers(settings, count, said)
    from longrun.app import Longrun, create_app
    from longrun.serving import server

    application: list[Longrun] = []

    def make_app() -> Longrun:
        application.append(create_app(settings=settings))
        if worker is None:
            said.starting()
        else:
            application[0].exposition = worker.exposition
            application[0].beside = lambda: worker.amiss
        return application[0]

    def started(url: str) -> None:
        if worker is None:
            said.started(url, application[0].models)
        else:
            worker.ready(application[0].models)

    server.run(make_app, settings, started, worker)
    if worker is not None:
        worker.ended()
    return 0


def _serve_with_workers(settings: Settings, count: int, said: "_Said") -> int:
    from longrun.serving import parent

    said.starting()
    return parent.run(settings, count, lambda url, models: said.started(url, models, count))


@dataclass(frozen=True, slots=True)
class _Said:
    """What is said of a start: to people, or to the log."""

    settings: Settings
    console: Console

    def starting(self) -> None:
        if self.settings.database_url is None and self.settings.log_format == "text":
            where = self.settings.data_dir
            self.console.print(f"[dim]starting the embedded Postgres in {where}/ …[/]")

    def started(self, url: str, models: list[str], workers: int = 1) -> None:
        if self.settings.log_format == "json":
            more = {"workers": workers} if workers > 1 else {}
            tell(logging.getLogger("longrun.server"), "serving", url=url, agents=models, **more)
        elif self.settings.log_level in ("debug", "info"):
            _print_banner(self.console, url, models, self.settings, workers)


def _print_banner(
    console: Console, url: str, models: list[str], settings: Settings, workers: int
) -> None:
    where = "an embedded Postgres" if settings.database_url is None else "Postgres"
    if settings.database_url is None:
        where += f" in {settings.data_dir}/"
    console.print(f"\n[bold green]longrun[/] serves [bold]{', '.join(models)}[/] at [bold]{url}[/]")
    by = f", {workers} workers" if workers > 1 else ""
    console.print(f"  events in {where}, schema {settings.db_schema}{by}\n")
    console.print("  Try it:")
    console.print(f"    open {url} in a browser")
    console.print(
        f"    curl -N {url}/v1/responses -H 'content-type: application/json' \\\n"
        f'      -d \'{{"model": "{models[0]}", "input": "a short one", "stream": true}}\''
    )
    console.print(
        "    longrun demo        # or make demo: dropped connections, two replicas, nothing lost"
    )
    console.print("  Press Ctrl-C to stop.\n", style="dim")


def _log_to_stderr(level: str, shape: str, worker: int | None) -> None:
    handler = logging.StreamHandler(sys.stderr)
    by = "" if worker is None else f"worker {worker} "
    handler.setFormatter(
        JSONFormatter({} if worker is None else {"worker": worker})
        if shape == "json"
        else LineFormatter(f"%(asctime)s %(levelname)-7s {by}%(name)s: %(message)s")
    )
    logging.basicConfig(level=logging.WARNING, handlers=[handler])
    logging.getLogger("longrun").setLevel(level.upper())
    # What it logs at every start is said better above.
    logging.getLogger("longrun.hypercorn").setLevel(logging.WARNING)
