"""The `longrun` command."""

import asyncio
import logging
import sys
from importlib.metadata import version
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console

from longrun.errors import LongrunError
from longrun.settings import Settings, as_markdown

app = typer.Typer(
    name="longrun",
    help="Run agents behind the Responses API and never lose a run or an event.",
    no_args_is_help=True,
    rich_markup_mode="rich",
    context_settings={"help_option_names": ["-h", "--help"]},
    pretty_exceptions_enable=False,
)

console = Console(stderr=True, highlight=False, soft_wrap=True)

DatabaseURL = Annotated[
    str | None, typer.Option(help="Postgres, as a libpq URL. [dim]\\[default: an embedded one][/]")
]
DataDir = Annotated[
    Path | None,
    typer.Option(help="Where the embedded Postgres lives. [dim]\\[default: .longrun][/]"),
]


@app.command()
def serve(
    agents: Annotated[
        list[str] | None,
        typer.Argument(
            help="Import strings. [dim]\\[default: the demo agents][/]", metavar="AGENT..."
        ),
    ] = None,
    host: Annotated[str | None, typer.Option(help="[dim]\\[default: 127.0.0.1][/]")] = None,
    port: Annotated[
        int | None, typer.Option(help="0 takes a free one. [dim]\\[default: 8000][/]")
    ] = None,
    database_url: DatabaseURL = None,
    data_dir: DataDir = None,
    log_level: Annotated[
        str | None, typer.Option(help="debug, info, warning or error. [dim]\\[default: info][/]")
    ] = None,
) -> None:
    """Serve agents, each under its name as `model`.

    An agent is named by an import string: an Agent, a list or dict of them, or a callable that
    returns one. The current directory can be imported from. Flags win over LONGRUN_* variables.

    [bold]Example:[/] longrun serve my_app.agents:researcher --port 8080
    """
    from longrun.app import create_app
    from longrun.serving import server

    settings = Settings.load(
        agents=agents or None,
        host=host,
        port=port,
        database_url=database_url,
        data_dir=data_dir,
        log_level=log_level,
    )
    _log_to_stderr(settings.log_level)
    if settings.database_url is None:
        console.print(f"[dim]starting the embedded Postgres in {settings.data_dir}/ …[/]")
    application: list[Any] = []

    def make_app() -> Any:
        application.append(create_app(settings=settings))
        return application[0]

    def started(url: str) -> None:
        if settings.log_level in ("debug", "info"):
            _say_started(url, application[0].models, settings)

    server.run(make_app, settings, started)


def _say_started(url: str, models: list[str], settings: Settings) -> None:
    where = "an embedded Postgres" if settings.database_url is None else "Postgres"
    if settings.database_url is None:
        where += f" in {settings.data_dir}/"
    console.print(f"\n[bold green]longrun[/] serves [bold]{', '.join(models)}[/] at [bold]{url}[/]")
    console.print(f"  events in {where}, schema {settings.db_schema}\n")
    console.print("  Try:")
    console.print(f"    open {url} in a browser")
    console.print(
        f"    curl -N {url}/v1/responses -H 'content-type: application/json' \\\n"
        f'      -d \'{{"model": "{models[0]}", "input": "a short one", "stream": true}}\''
    )
    console.print(
        "    longrun demo        # or make demo: cut connections, other replicas, nothing lost"
    )
    console.print("  Ctrl-C stops it.\n", style="dim")


@app.command()
def demo(
    url: Annotated[
        list[str] | None,
        typer.Option(
            help="A server that runs already; repeatable. [dim]\\[default: starts two][/]"
        ),
    ] = None,
    cut_after: Annotated[
        float, typer.Option(min=0.1, help="Seconds after which each connection is cut.")
    ] = 5.0,
    full: Annotated[
        bool, typer.Option("--full", help="A run of over 120 s, with connections of 120 s.")
    ] = False,
    json: Annotated[bool, typer.Option("--json", help="One JSON object, for programs.")] = False,
) -> None:
    """Show a long run outliving its connections, resumed on another replica, nothing lost.

    [bold]Example:[/] longrun demo --cut-after 3
    """
    from longrun.demo.show import demonstrate

    raise typer.Exit(demonstrate(url or [], cut_after, full, json))


@app.command()
def migrate(
    database_url: DatabaseURL = None,
    data_dir: DataDir = None,
    json: Annotated[bool, typer.Option("--json", help="One JSON object, for programs.")] = False,
) -> None:
    """Apply pending migrations and say which.

    [bold]Example:[/] longrun migrate --database-url postgresql://localhost/app
    """
    from longrun.store.command import migrate_now

    settings = Settings.load(database_url=database_url, data_dir=data_dir)
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
    json: Annotated[bool, typer.Option("--json", help="One JSON object, for programs.")] = False,
) -> None:
    """Print every setting, its variable, and what it is now.

    [bold]Example:[/] LONGRUN_PORT=9000 longrun settings
    """
    if json:
        print(_json(Settings.load().model_dump(mode="json")))
    else:
        Settings.load()
        print(as_markdown(), end="")


def _version(wanted: bool) -> None:
    if wanted:
        print(f"longrun {version('longrun')}")
        raise typer.Exit


@app.callback()
def _main(
    version: Annotated[
        bool,
        typer.Option("--version", callback=_version, is_eager=True, help="Print the version."),
    ] = False,
) -> None:
    pass


def _json(value: Any) -> str:
    from longrun.jsontext import dumps

    return dumps(value).decode()


def _log_to_stderr(level: str) -> None:
    logging.basicConfig(
        level=logging.WARNING,
        stream=sys.stderr,
        format="%(asctime)s %(levelname)-7s %(name)s: %(message)s",
    )
    logging.getLogger("longrun").setLevel(level.upper())
    # It says at every start what we say better.
    logging.getLogger("longrun.hypercorn").setLevel(logging.WARNING)


def main() -> None:
    """Run the command; a configuration error is a message, not a traceback."""
    try:
        app()
    except LongrunError as error:
        console.print("[bold red]longrun cannot start[/]")
        console.print(error.message, markup=False)
        sys.exit(2)
