"""`longrun encryption`: rewrite what is stored under another key, and let go of a lost one."""

import asyncio
import sys
from typing import Annotated

import typer
from rich.console import Console

from longrun.cli.options import AsJSON, DatabaseURL, DataDir
from longrun.errors import ConfigurationError
from longrun.jsontext import dumps
from longrun.settings import Settings
from longrun.store.command import forget_key, rewrite_now

app = typer.Typer(
    name="encryption",
    help="Change the keys that encrypt stored content.",
    epilog="[bold]Example:[/] longrun encryption rewrite",
    no_args_is_help=True,
    rich_markup_mode="rich",
    context_settings={"help_option_names": ["-h", "--help"]},
)


@app.command()
def rewrite(
    database_url: DatabaseURL = None,
    data_dir: DataDir = None,
    json: AsJSON = False,
) -> None:
    """Re-encrypt all stored content with the first key of LONGRUN_ENCRYPTION_KEYS.

    Servers keep running. If `plain` comes first, everything is decrypted. Exits with 1 if something
    is left, because none of the keys can decrypt it, or because a server still writes with another
    key: run it again then.

    [bold]Example:[/] LONGRUN_ENCRYPTION_KEYS_FILE=keys longrun encryption rewrite
    """
    settings = Settings.load(database_url=database_url, data_dir=data_dir)
    if not settings.key_ring.keys:
        raise ConfigurationError("LONGRUN_ENCRYPTION_KEYS is not set: there is nothing to do")
    console = Console(stderr=True, highlight=False)

    def progress(table: str, rows: int) -> None:
        if console.is_terminal:
            console.print(f"{table}: {rows} rows", end="\r")

    done = asyncio.run(rewrite_now(settings, progress))
    if json:
        print(
            dumps(
                {
                    "rewritten": done.rows,
                    "unreadable": done.unreadable,
                    "forgotten_keys": done.forgotten,
                    "done": done.done,
                }
            ).decode()
        )
    else:
        for table, rows in done.rows.items():
            print(f"{table}: rewrote {rows} rows")
        for table, rows in done.unreadable.items():
            print(f"{table}: {rows} rows cannot be decrypted with this ring, and stay")
        for key_id in done.forgotten:
            print(f"nothing is encrypted with {key_id} any more: take it out of the ring")
        if done.done and not done.rows:
            print("everything is stored as it should be")
    sys.exit(0 if done.done else 1)


@app.command()
def forget(
    key: Annotated[str, typer.Argument(metavar="ID", help="The id of a lost key.")],
    database_url: DatabaseURL = None,
    data_dir: DataDir = None,
    json: AsJSON = False,
) -> None:
    """Let servers start without a lost key. What it encrypted can only be deleted.

    [bold]Example:[/] longrun encryption forget key-2025
    """
    settings = Settings.load(database_url=database_url, data_dir=data_dir)
    if not asyncio.run(forget_key(settings, key)):
        raise ConfigurationError(f"no data is known to be encrypted with a key {key!r}")
    print(dumps({"forgotten": key}).decode() if json else f"forgot {key}")
