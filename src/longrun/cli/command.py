"""The `longrun` command."""

import asyncio
import logging
import sys
from importlib.metadata import version
from typing import TYPE_CHECKING, Annotated, Any, NoReturn

import typer
from rich.console import Console

from longrun.cli import doctor, encryption, keys, prune, ps, runs, show
from longrun.cli.options import AsJSON, DatabaseURL, DataDir
from longrun.errors import ConfigurationError, LongrunError
from longrun.loglines import JSONFormatter, LineFormatter, tell
from longrun.settings import Settings

if TYPE_CHECKING:
    from longrun.serving.worker import Worker

app = typer.Typer(
    name="longrun",
    help="Run agents behind the OpenAI Responses API and never lose a run or an event.",
    epilog="[bold]Example:[/] longrun serve my_app.agents:researcher",
    no_args_is_help=True,
    rich_markup_mode="rich",
    context_settings={"help_option_names": ["-h", "--help"]},
    pretty_exceptions_enable=False,
)

app.add_typer(keys.app)
app.add_typer(encryption.app)
app.add_typer(ps.app)
app.add_typer(runs.app)
app.add_typer(show.app)
app.add_typer(doctor.app)
app.add_typer(prune.app)

console = Console(stderr=True, highlight=False, soft_wrap=True)


@app.command()
def serve(
    agents: Annotated[
        list[str] | None,
        typer.Argument(
            help="Import strings of agents. [dim]\\[default: the demo agents][/]",
            metavar="AGENT",
        ),
    ] = None,
    host: Annotated[
        str | None, typer.Option(help="Address to listen on. [dim]\\[default: 127.0.0.1][/]")
    ] = None,
    port: Annotated[
        int | None,
        typer.Option(help="Port to listen on; 0 picks a free one. [dim]\\[default: 8000][/]"),
    ] = None,
    workers: Annotated[
        str | None,
        typer.Option(
            help="Number of processes that serve on the port, or auto: one on each core. "
            "[dim]\\[default: 1][/]"
        ),
    ] = None,
    database_url: DatabaseURL = None,
    data_dir: DataDir = None,
    no_auth: Annotated[
        bool,
        typer.Option("--no-auth", help="Ask nobody who they are: something in front does."),
    ] = False,
    log_level: Annotated[
        str | None,
        typer.Option(
            help="Lowest level logged: debug, info, warning or error. [dim]\\[default: info][/]"
        ),
    ] = None,
) -> None:
    """Serve agents. Clients select one by its name, as `model`.

    An import string (module:attribute) refers to an Agent, a list or dict of agents, or a callable
    that returns one of these. Modules in the current directory can be imported. Flags override
    LONGRUN_* variables.

    [bold]Example:[/] longrun serve my_app.agents:researcher --port 8080

    [bold]Example:[/] longrun serve my_app.agents:researcher --workers auto
    """
    from longrun.serving.worker import Worker

    worker = Worker.of_environment()
    try:
        settings = Settings.load(
            agents=agents or None,
            host=host,
            port=port,
            workers=workers,
            database_url=database_url,
            data_dir=data_dir,
            no_auth=no_auth or None,
            log_level=log_level,
        )
        _log_to_stderr(settings.log_level, settings.log_format, worker.number if worker else None)
        status = _serve(settings, worker)
    except LongrunError as error:
        if worker is None:
            _fail("longrun cannot start", error)
        worker.failed(error.message)
        status = 2
    if status:
        raise typer.Exit(status)


def _serve(settings: Settings, worker: "Worker | None") -> int:
    """In this process, or in as many as there are to be; returns the exit status."""
    from longrun.serving import cores

    count = cores.available() if settings.workers == "auto" else settings.workers
    if worker is None and count > 1:
        return _serve_with_workers(settings, count)
    from longrun.app import Longrun, create_app
    from longrun.serving import server

    application: list[Longrun] = []

    def make_app() -> Longrun:
        application.append(create_app(settings=settings))
        if worker is None:
            _say_starting(settings)
        else:
            application[0].exposition = worker.exposition
        return application[0]

    def started(url: str) -> None:
        if worker is None:
            _say_started(url, application[0].models, settings)
        else:
            worker.ready(application[0].models)

    server.run(make_app, settings, started, worker)
    if worker is not None:
        worker.ended()
    return 0


def _serve_with_workers(settings: Settings, count: int) -> int:
    from longrun.serving import parent

    _say_starting(settings)
    return parent.run(
        settings, count, lambda url, models: _say_started(url, models, settings, count)
    )


def _say_starting(settings: Settings) -> None:
    if settings.database_url is None and settings.log_format == "text":
        console.print(f"[dim]starting the embedded Postgres in {settings.data_dir}/ …[/]")


def _say_started(url: str, models: list[str], settings: Settings, workers: int = 1) -> None:
    if settings.log_format == "json":
        more = {"workers": workers} if workers > 1 else {}
        tell(logging.getLogger("longrun.server"), "serving", url=url, agents=models, **more)
    elif settings.log_level in ("debug", "info"):
        _print_banner(url, models, settings, workers)


def _print_banner(url: str, models: list[str], settings: Settings, workers: int) -> None:
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


@app.command()
def demo(
    url: Annotated[
        list[str] | None,
        typer.Option(
            help="URL of a running server; may be repeated. [dim]\\[default: start two][/]"
        ),
    ] = None,
    cut_after: Annotated[
        float, typer.Option(min=0.1, help="Seconds after which each connection is dropped.")
    ] = 5.0,
    full: Annotated[
        bool, typer.Option("--full", help="A run of more than 120 s, over connections of 120 s.")
    ] = False,
    json: AsJSON = False,
) -> None:
    """Watch a long run outlive its connections, resumed on another replica with nothing lost.

    [bold]Example:[/] longrun demo --cut-after 3
    """
    from longrun.demo.show import demonstrate

    raise typer.Exit(demonstrate(url or [], cut_after, full, json))


@app.command()
def migrate(
    database_url: DatabaseURL = None,
    data_dir: DataDir = None,
    print_grants: Annotated[
        bool,
        typer.Option(
            "--print-grants",
            help="Change nothing, and print the SQL for two roles: one that owns the schema and "
            "migrates, one with only the rights that a replica needs.",
        ),
    ] = False,
    owner: Annotated[
        str, typer.Option(help="With --print-grants: the role that migrates.")
    ] = "longrun_owner",
    runtime: Annotated[
        str, typer.Option(help="With --print-grants: the role that replicas connect as.")
    ] = "longrun_runtime",
    json: AsJSON = False,
) -> None:
    """Apply pending migrations to the database.

    [bold]Example:[/] longrun migrate --database-url postgresql://localhost/app

    [bold]Example:[/] longrun migrate --print-grants | psql postgresql://admin@localhost/app
    """
    from longrun.store.command import migrate_now
    from longrun.store.grants import grants

    settings = Settings.load(database_url=database_url, data_dir=data_dir)
    if print_grants:
        sql = grants(settings.db_schema, owner, runtime)
        roles = {"owner": owner, "runtime": runtime}
        print(_json({"schema": settings.db_schema, **roles, "sql": sql}) if json else sql)
        return
    applied = asyncio.run(migrate_now(settings))
    if json:
        print(_json({"applied": applied, "schema": settings.db_schema}))
    elif applied:
        for name in applied:
            print(f"applied {name}")
    else:
        print(f"schema {settings.db_schema} is up to date")


@app.command()
def settings(
    json: AsJSON = False,
) -> None:
    """Print every setting: its variable, the value in effect, and where that came from.

    Secrets are hidden. Flags given to `longrun serve` are not taken into account.

    [bold]Example:[/] LONGRUN_PORT=9000 longrun settings
    """
    from longrun.settings import text

    loaded = Settings.load()
    if json:
        print(_json(text.effective(loaded)))
    else:
        print(text.as_lines(loaded), end="")


def _version(wanted: bool) -> None:
    if wanted:
        print(f"longrun {version('longrun')}")
        raise typer.Exit


@app.callback()
def _main(
    version: Annotated[
        bool,
        typer.Option(
            "--version", callback=_version, is_eager=True, help="Print the version and exit."
        ),
    ] = False,
) -> None:
    pass


def _json(value: Any) -> str:
    from longrun.jsontext import dumps

    return dumps(value).decode()


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


def _fail(what: str, error: LongrunError) -> NoReturn:
    """Say what failed, and why, as a message and not as a traceback."""
    console.print(f"[bold red]{what}[/]")
    console.print(error.message, markup=False)
    sys.exit(error.exit_status if isinstance(error, ConfigurationError) else 2)


def main() -> None:
    """Run the command; a configuration error is a message, not a traceback."""
    try:
        app()
    except LongrunError as error:
        _fail("error", error)
