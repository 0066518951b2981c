"""`longrun doctor`: what is wrong with a database or a server, and what to do about it."""

import asyncio
from typing import Final

import typer
from rich.console import Console
from rich.markup import escape

from longrun.cli.options import AsJSON, DatabaseURL, DataDir, ServerURL
from longrun.jsontext import dumps
from longrun.settings import Settings
from longrun.store.doctor import Finding, examine

app = typer.Typer()

_SIGNS: Final = {"ok": "[green]✓[/]", "warning": "[yellow]![/]", "failure": "[bold red]✗[/]"}


@app.command()
def doctor(
    database_url: DatabaseURL = None,
    data_dir: DataDir = None,
    url: ServerURL = None,
    json: AsJSON = False,
) -> None:
    """Check the database in the settings, or a server with --url, and say what to do.

    For a database, checks the connection, the role's rights, the schema, notifications through
    poolers, clocks, the number of connections, durability, replicas and the queue. Changes nothing.
    Exits with 1 if a replica could not work.

    [bold]Example:[/] longrun doctor --database-url postgresql://localhost/app

    [bold]Example:[/] longrun doctor --url https://agents.example.com
    """
    console = Console(highlight=False, soft_wrap=True)
    found: list[Finding] = []

    def show(finding: Finding) -> None:
        found.append(finding)
        if not json:
            _print(console, finding)

    if url is not None:
        from longrun.cli.examining import of_server

        for finding in of_server(url):
            show(finding)
    else:
        settings = Settings.load(database_url=database_url, data_dir=data_dir)

        async def look() -> None:
            async for finding in examine(settings):
                show(finding)

        asyncio.run(look())
    failed = any(finding.state == "failure" for finding in found)
    if json:
        print(dumps({"ok": not failed, "findings": [each._asdict() for each in found]}).decode())
    raise typer.Exit(1 if failed else 0)


def _print(console: Console, finding: Finding) -> None:
    console.print(f"{_SIGNS[finding.state]} {finding.check:<13} {escape(finding.said)}")
    if finding.advice:
        console.print(f"  {'':<13} → {escape(finding.advice)}", style="dim")
