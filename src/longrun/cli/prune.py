"""`longrun prune`: delete responses before their retention does."""

import asyncio
import sys
from typing import Annotated

import typer
from rich.console import Console

from longrun.cli.keys import seconds_of
from longrun.cli.options import AsJSON, DatabaseURL, DataDir
from longrun.errors import ConfigurationError
from longrun.jsontext import dumps
from longrun.settings import Settings

app = typer.Typer()


@app.command()
def prune(
    older_than: Annotated[
        str,
        typer.Option(
            help="Delete only responses that ended longer ago than this, as in 30d or 12h."
        ),
    ],
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Delete nothing; print how many would be deleted.")
    ] = False,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask for confirmation.")] = False,
    database_url: DatabaseURL = None,
    data_dir: DataDir = None,
    json: AsJSON = False,
) -> None:
    """Delete responses that ended some time ago, with their events, items and steps.

    This covers all principals, and servers can keep running; responses that someone is reading are
    kept. Servers delete whatever is older than LONGRUN_RETENTION_DAYS by themselves.

    [bold]Example:[/] longrun prune --older-than 7d --dry-run
    """
    from longrun.store.command import prune_now

    seconds = seconds_of(older_than)
    settings = Settings.load(database_url=database_url, data_dir=data_dir)
    console = Console(stderr=True, highlight=False)

    def progress(done: int) -> None:
        if console.is_terminal:
            console.print(f"deleted {done}", end="\r")

    due = asyncio.run(prune_now(settings, seconds, progress, count=True))
    if due and not (dry_run or yes):
        _ask(due, older_than)
    deleted = 0
    if due and not dry_run:
        deleted = asyncio.run(prune_now(settings, seconds, progress, count=False))
    if json:
        print(dumps({"due": due, "deleted": deleted}).decode())
    elif dry_run:
        print(f"{due} responses ended more than {older_than} ago")
    else:
        print(f"deleted {deleted} responses")


def _ask(due: int, older_than: str) -> None:
    if not sys.stdin.isatty():
        raise ConfigurationError(f"{due} responses would be deleted: say --yes, or --dry-run")
    typer.confirm(f"Delete {due} responses that ended more than {older_than} ago?", abort=True)
