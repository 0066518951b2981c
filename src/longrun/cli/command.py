"""The `longrun` command."""

import asyncio
import io
import sys
from importlib.metadata import version
from typing import Annotated, Any, NoReturn

import typer
from rich.console import Console

from longrun.cli import (
    deploying,
    doctor,
    encryption,
    keys,
    monitoring,
    prune,
    ps,
    runs,
    show,
    webhooks,
)
from longrun.cli.options import AsJSON, DatabaseURL, DataDir
from longrun.errors import ConfigurationError, LongrunError
from longrun.settings import Settings

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
app.add_typer(monitoring.app)
app.add_typer(deploying.app)
app.add_typer(webhooks.app)

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
            help="Number of processes that serve on the port, or auto for one per core. "
            "[dim]\\[default: 1][/]"
        ),
    ] = None,
    database_url: DatabaseURL = None,
    data_dir: DataDir = None,
    no_auth: Annotated[
        bool,
        typer.Option("--no-auth", help="Do not authenticate callers: something in front does."),
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
    from longrun.cli import serving
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
        status = serving.serve(settings, worker, console)
    except LongrunError as error:
        if worker is None:
            _fail("longrun cannot start", error)
        worker.failed(error.message)
        status = 2
    if status:
        raise typer.Exit(status)


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
        bool,
        typer.Option(
            "--full", help="A run of more than 120 s, with connections dropped after 120 s."
        ),
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
            help="Change nothing, but print the SQL for two roles: one that owns the schema and "
            "migrates it, and one with only the rights that a replica needs.",
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
    """Print every setting: its variable, its value, and where the value comes from.

    Secrets are hidden. Flags of `longrun serve` are not taken into account.

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


def _fail(what: str, error: LongrunError) -> NoReturn:
    """Say what failed, and why, as a message and not as a traceback."""
    console.print(f"[bold red]{what}[/]")
    console.print(error.message, markup=False)
    sys.exit(error.exit_status if isinstance(error, ConfigurationError) else 2)


def main() -> None:
    """Run the command; a configuration error is a message, not a traceback."""
    if isinstance(sys.stdout, io.TextIOWrapper):
        # As standard error does: what cannot be encoded is no reason to say nothing.
        sys.stdout.reconfigure(errors="backslashreplace")
    try:
        app()
    except LongrunError as error:
        _fail("error", error)
