"""`longrun doctor`: what is amiss with a database or a server, and what to do about it."""

import asyncio
from typing import Any, Final

import httpx2
import typer
from rich.console import Console
from rich.markup import escape

from longrun.cli.options import AsJSON, DatabaseURL, DataDir
from longrun.cli.server import ServerURL, connected
from longrun.jsontext import dumps
from longrun.settings import Settings
from longrun.store.doctor import Finding, examine

app = typer.Typer()

_SIGNS: Final = {"ok": "[green]✓[/]", "warning": "[yellow]![/]", "failure": "[bold red]✗[/]"}

ANSWERS_WITHIN: Final = 10.0


@app.command()
def doctor(
    database_url: DatabaseURL = None,
    data_dir: DataDir = None,
    url: ServerURL = None,
    json: AsJSON = False,
) -> None:
    """Look at the database that the settings name, or with --url at a server, and say what to do.

    Of a database: the connection, the role's rights, the schema, notifications through poolers,
    clocks, room for connections, durability, replicas and what waits. Changes nothing. Exits with
    1 if a replica could not work.

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
        for finding in _of_server(url):
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


def _of_server(url: str) -> list[Finding]:
    """What a server says of itself, and whether the key is one of its."""
    client = connected(url)
    server = str(client.base_url).rstrip("/").removesuffix("/v1")
    try:
        with httpx2.Client(base_url=server, timeout=ANSWERS_WITHIN) as asking:
            ready = asking.get("/readyz")
            listed = asking.get("/v1/models", headers={"authorization": f"Bearer {client.api_key}"})
    except httpx2.HTTPError as error:
        return [
            Finding(
                "server",
                "failure",
                f"{server} does not answer: {type(error).__name__}: {error}",
                "Check the URL, or start one with `longrun serve`",
            )
        ]
    return [_readiness(server, ready), _models(listed)]


def _readiness(server: str, answer: httpx2.Response) -> Finding:
    said = _json_of(answer)
    if said is None or "problems" not in said:
        return Finding(
            "server",
            "failure",
            f"{server}/readyz answers {answer.status_code}, and not as longrun does",
            "Check the URL, and whether a proxy in front lets /readyz through",
        )
    amiss = [*said["problems"], *said.get("warnings", [])]
    if not amiss:
        return Finding("server", "ok", f"{server} is ready")
    state: Any = "failure" if said["problems"] else "warning"
    return Finding("server", state, "; ".join(amiss), "Look into its log")


def _models(answer: httpx2.Response) -> Finding:
    if answer.status_code == 401:
        return Finding(
            "key",
            "failure",
            "the key in LONGRUN_API_KEY is not valid",
            "Make one with `longrun keys create NAME`",
        )
    said = _json_of(answer)
    if answer.status_code != 200 or said is None:
        return Finding("agents", "failure", f"/v1/models answers {answer.status_code}")
    return Finding("agents", "ok", ", ".join(each["id"] for each in said["data"]))


def _json_of(answer: httpx2.Response) -> dict[str, Any] | None:
    try:
        said = answer.json()
    except ValueError:
        return None
    return said if isinstance(said, dict) else None
