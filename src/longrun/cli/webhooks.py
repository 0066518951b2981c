"""`longrun webhooks`: what is delivered, to whom, and what is to be delivered again."""

import asyncio
from collections.abc import Awaitable, Callable
from datetime import datetime
from typing import Annotated, Any, Final, Literal, TypeVar

import typer
from rich.console import Console
from rich.table import Table

from longrun.cli.options import AsJSON, DatabaseURL
from longrun.errors import ConfigurationError
from longrun.jsontext import dumps
from longrun.settings import Settings
from longrun.store.command import opened_deliveries
from longrun.store.deliveries import Deliveries

T = TypeVar("T")

app = typer.Typer(
    name="webhooks",
    help="List, show and repeat deliveries to webhook endpoints.",
    epilog="[bold]Example:[/] longrun webhooks list --state given_up",
    no_args_is_help=True,
    rich_markup_mode="rich",
    context_settings={"help_option_names": ["-h", "--help"]},
)

State = Literal["pending", "delivered", "given_up", "dropped"]

AT_ONCE: Final = 500
"""Deliveries that one transaction has made again."""

_COLOURS: Final = {"delivered": "green", "pending": "yellow", "given_up": "red", "dropped": "dim"}


@app.command("list")
def list_(
    state: Annotated[
        State | None, typer.Option(help="Only deliveries in this state. [dim]\\[default: all][/]")
    ] = None,
    endpoint: Annotated[
        str | None, typer.Option(help="Only deliveries to this endpoint (we_…, or settings).")
    ] = None,
    response: Annotated[
        str | None, typer.Option(help="Only deliveries for this response (resp_…).")
    ] = None,
    limit: Annotated[int, typer.Option(min=1, max=10_000, help="Maximum number to list.")] = 50,
    database_url: DatabaseURL = None,
    json: AsJSON = False,
) -> None:
    """List deliveries, the newest first.

    [bold]Example:[/] longrun webhooks list --state given_up
    """
    found = _with(
        database_url,
        lambda deliveries: deliveries.list_unscoped(
            limit, state=state, endpoint_id=endpoint, response_id=response
        ),
    )
    if json:
        _print_json({"deliveries": found})
    elif not found:
        Console(stderr=True).print("None found.")
    else:
        _print_deliveries(found)


@app.command()
def show(
    id_: Annotated[
        str, typer.Argument(metavar="ID", help="The id of a delivery (wh_…) or an endpoint (we_…).")
    ],
    database_url: DatabaseURL = None,
    json: AsJSON = False,
) -> None:
    """Show a delivery, or an endpoint without its name, URL and secrets.

    [bold]Example:[/] longrun webhooks show wh_4d1f…
    """

    async def read(deliveries: Deliveries) -> list[dict[str, Any]]:
        return await deliveries.list_unscoped(1, id=id_) or await deliveries.endpoints_unscoped(
            id_, 1
        )

    found = _with(database_url, read)
    if not found:
        raise ConfigurationError(
            f"there is no webhook delivery or endpoint {id_!r}: see longrun webhooks list"
        )
    if json:
        _print_json(found[0])
        return
    table = Table(box=None, pad_edge=False, show_header=False)
    for name, value in found[0].items():
        table.add_row(f"[dim]{name}[/]", _text(value))
    Console(highlight=False).print(table)


@app.command()
def endpoints(
    limit: Annotated[int, typer.Option(min=1, max=10_000, help="Maximum number to list.")] = 50,
    database_url: DatabaseURL = None,
    json: AsJSON = False,
) -> None:
    """List endpoints, those first that are disabled because deliveries to them failed.

    [bold]Example:[/] longrun webhooks endpoints --json
    """
    found = _with(database_url, lambda deliveries: deliveries.endpoints_unscoped(None, limit))
    if json:
        _print_json({"endpoints": found})
        return
    table = Table(box=None, pad_edge=False)
    for column in ("endpoint", "principal", "pending", "last delivered", "disabled"):
        table.add_column(column, overflow="fold")
    for each in found:
        table.add_row(
            each["id"],
            "(everybody)" if each["principal"] is None else each["principal"] or "(none)",
            str(each["pending"]),
            _text(each["delivered_at"]),
            f"[red]{_text(each['disabled_at'])}[/]" if each["disabled_at"] else "",
        )
    Console(highlight=False).print(table)


@app.command()
def redeliver(
    ids: Annotated[
        list[str] | None, typer.Argument(metavar="[ID]...", help="Deliveries (wh_…).")
    ] = None,
    endpoint: Annotated[
        str | None,
        typer.Option(help="All deliveries to this endpoint that were given up or dropped."),
    ] = None,
    database_url: DatabaseURL = None,
    json: AsJSON = False,
) -> None:
    """Make deliveries again, with all their retries. This enables a disabled endpoint.

    [bold]Example:[/] longrun webhooks redeliver wh_4d1f…

    [bold]Example:[/] longrun webhooks redeliver --endpoint we_0193…
    """
    if bool(ids) == bool(endpoint):
        raise ConfigurationError("say either which deliveries (wh_…), or --endpoint")

    async def again(deliveries: Deliveries) -> int:
        if endpoint is None:
            return sum([await deliveries.redeliver_unscoped(1, id_=each) for each in ids or ()])
        total = 0
        while done := await deliveries.redeliver_unscoped(
            AT_ONCE, endpoint_id=endpoint, outcomes=("given_up", "dropped")
        ):
            total += done
        return total

    count = _with(database_url, again)
    if ids and count < len(set(ids)):
        raise ConfigurationError(
            f"{count} of {len(set(ids))} are delivered again: the others are not there, or their "
            "endpoints are gone"
        )
    if json:
        _print_json({"redelivered": count})
    else:
        print(f"{count} will be delivered again")


def _with(database_url: str | None, work: Callable[[Deliveries], Awaitable[T]]) -> T:
    async def done() -> T:
        async with opened_deliveries(Settings.load(database_url=database_url)) as deliveries:
            return await work(deliveries)

    return asyncio.run(done())


def _print_deliveries(found: list[dict[str, Any]]) -> None:
    table = Table(box=None, pad_edge=False)
    for column in ("delivery", "event", "response", "endpoint", "created", "attempts", "answer"):
        table.add_column(column, overflow="fold")
    table.add_column("state", no_wrap=True)
    for each in found:
        answer = " ".join(_text(each[name]) for name in ("status_code", "problem") if each[name])
        table.add_row(
            each["id"],
            each["type"],
            each["response_id"],
            each["endpoint_id"],
            _text(each["created_at"]),
            str(each["attempts"]),
            answer,
            f"[{_COLOURS[each['state']]}]{each['state']}[/]",
        )
    Console(highlight=False).print(table)


def _text(value: Any) -> str:
    if isinstance(value, datetime):
        return value.strftime("%Y-%m-%d %H:%M:%S")
    if isinstance(value, list | tuple):
        return " ".join(map(str, value))
    return "" if value is None else str(value)


def _print_json(value: dict[str, Any]) -> None:
    print(dumps(_plain(value)).decode())


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: _plain(each) for name, each in value.items()}
    if isinstance(value, list):
        return [_plain(each) for each in value]
    return value.isoformat() if isinstance(value, datetime) else value
