"""`longrun keys`: create, list, rotate and revoke API keys."""

import asyncio
import re
from datetime import datetime
from typing import Annotated, Any, Final

import typer
from rich.console import Console
from rich.table import Table

from longrun.access.callers import Caller, scopes_of
from longrun.access.keys import new_key
from longrun.cli.options import AsJSON, DatabaseURL
from longrun.errors import ConfigurationError
from longrun.jsontext import dumps
from longrun.settings import Settings
from longrun.store.command import opened_keys
from longrun.store.keys import KeyToStore

app = typer.Typer(
    name="keys",
    help="Create, list, rotate and revoke the API keys of callers.",
    epilog="[bold]Example:[/] longrun keys create website --scopes read,write --expires 90d",
    no_args_is_help=True,
    rich_markup_mode="rich",
    context_settings={"help_option_names": ["-h", "--help"]},
)


_SECONDS: Final = {"s": 1, "m": 60, "h": 3600, "d": 86_400}

_COLOURS: Final = {"valid": "green", "replaced": "yellow", "expired": "dim", "revoked": "dim"}


def seconds_of(text: str) -> float:
    """A duration like `90d`, `12h`, `30m` or `45s`.

    Raises:
        ConfigurationError: it is none.
    """
    found = re.fullmatch(r"(\d{1,6})([smhd])", text.strip())
    if found is None:
        raise ConfigurationError(f"{text!r} is no duration: allowed are such as 90d, 12h, 30m, 45s")
    return int(found[1]) * float(_SECONDS[found[2]])


@app.command()
def create(
    name: Annotated[str, typer.Argument(help="A name for the key, for your own use.")],
    principal: Annotated[
        str | None,
        typer.Option(
            help="Principal that owns everything created with it. [dim]\\[default: the name][/]"
        ),
    ] = None,
    scopes: Annotated[
        str, typer.Option(help="What it may do: read, write, admin, separated by commas.")
    ] = "read,write",
    expires: Annotated[
        str | None,
        typer.Option(help="When it expires, as in 90d or 12h. [dim]\\[default: never][/]"),
    ] = None,
    max_runs: Annotated[
        int | None,
        typer.Option(
            min=1,
            help="Maximum number of the principal's responses that are queued or running at once. "
            "[dim]\\[default: no limit][/]",
        ),
    ] = None,
    max_requests_per_minute: Annotated[
        int | None,
        typer.Option(
            min=1,
            help="Maximum number of requests for a run per minute with this key. [dim]\\[default: "
            "no limit][/]",
        ),
    ] = None,
    max_tokens_per_day: Annotated[
        int | None,
        typer.Option(
            min=1,
            help="Tokens of the principal per day (UTC), after which it cannot create responses. "
            "[dim]\\[default: no limit][/]",
        ),
    ] = None,
    database_url: DatabaseURL = None,
    json: AsJSON = False,
) -> None:
    """Create a key and show it, this once: only its hash is stored.

    Once there is a key, every caller needs one. Responses from before belong to the principal with
    the empty name: --principal "" owns them.

    [bold]Example:[/] longrun keys create website --expires 90d
    """
    name, owner = _named(name), name if principal is None else principal
    wanted, lasts = scopes_of(scopes.split(",")), seconds_of(expires) if expires else None
    _check_principal(owner)
    key = new_key()
    limits: dict[str, Any] = {
        "max_runs": max_runs,
        "max_requests": max_requests_per_minute,
        "max_tokens": max_tokens_per_day,
    }
    new = KeyToStore(key.prefix, key.hash, name, owner, wanted, expires_in=lasts, **limits)

    async def store() -> bool:
        async with opened_keys(Settings.load(database_url=database_url)) as keys:
            return await keys.create(new)

    if not asyncio.run(store()):
        raise ConfigurationError(f"there is a key named {name!r}: rotate it, or revoke it first")
    about = {"principal": owner, "scopes": sorted(wanted), **limits}
    _show_new(key.text, {"name": name, **about}, json)


@app.command("list")
def list_(
    database_url: DatabaseURL = None,
    json: AsJSON = False,
) -> None:
    """List all keys, by their public parts.

    [bold]Example:[/] longrun keys list --json
    """

    async def read() -> list[dict[str, Any]]:
        async with opened_keys(Settings.load(database_url=database_url)) as keys:
            return await keys.all()

    found = asyncio.run(read())
    if json:
        print(dumps({"keys": [_plain(each) for each in found]}).decode())
    elif not found:
        Console(stderr=True).print("No keys yet: longrun keys create NAME")
    else:
        _print_table(found)


@app.command()
def rotate(
    name: Annotated[str, typer.Argument(help="The key's name.")],
    overlap: Annotated[
        str, typer.Option(help="How long the old key remains valid, as in 1h or 0s.")
    ] = "1h",
    database_url: DatabaseURL = None,
    json: AsJSON = False,
) -> None:
    """Replace a key by a new one with its name, principal, scopes and limits, which never expires.

    [bold]Example:[/] longrun keys rotate website --overlap 10m
    """
    key, lasts = new_key(), seconds_of(overlap)

    async def store() -> bool:
        async with opened_keys(Settings.load(database_url=database_url)) as keys:
            return await keys.rotate(name, key.prefix, key.hash, lasts)

    if not asyncio.run(store()):
        raise ConfigurationError(f"there is no valid key named {name!r}: see longrun keys list")
    _show_new(key.text, {"name": name, "overlap_seconds": lasts}, json)


@app.command()
def revoke(
    key: Annotated[str, typer.Argument(help="The key's name, or its public part (lr_…).")],
    database_url: DatabaseURL = None,
    json: AsJSON = False,
) -> None:
    """Revoke a key: every replica refuses it within seconds.

    [bold]Example:[/] longrun keys revoke website
    """

    async def write() -> list[str]:
        async with opened_keys(Settings.load(database_url=database_url)) as keys:
            return await keys.revoke(key)

    revoked = asyncio.run(write())
    if not revoked:
        raise ConfigurationError(f"there is no key {key!r} to revoke: see longrun keys list")
    if json:
        print(dumps({"revoked": revoked}).decode())
    else:
        print(f"revoked {', '.join(revoked)}")


def _named(name: str) -> str:
    if not re.fullmatch(r"[^\x00-\x1f\x7f]{1,100}", name) or name.startswith("lr_"):
        raise ConfigurationError(
            f"a key cannot be named {name!r}: a name has 1 to 100 characters, no control "
            "characters, and does not begin with lr_"
        )
    return name


def _check_principal(principal: str) -> None:
    try:
        Caller(principal)
    except ValueError as error:
        raise ConfigurationError(f"--principal {principal!r}: {error}") from None


def _show_new(text: str, about: dict[str, Any], json: bool) -> None:
    if json:
        print(dumps({"key": text, **about}).decode())
        return
    print(text)
    Console(stderr=True).print("This is the only time it is shown.", style="dim")


def _print_table(found: list[dict[str, Any]]) -> None:
    table = Table(box=None, pad_edge=False)
    for column in ("key", "name", "principal", "scopes", "limits", "created", "expires"):
        table.add_column(column, overflow="fold")
    table.add_column("state", no_wrap=True)
    for each in found:
        state = each["state"]
        table.add_row(
            each["prefix"],
            each["name"],
            each["principal"] or "(none)",
            ",".join(each["scopes"]),
            _limits(each),
            _day(each["created_at"]),
            _day(each["expires_at"]),
            f"[{_COLOURS[state]}]{state}[/]",
        )
    Console(highlight=False).print(table)


def _limits(key: dict[str, Any]) -> str:
    units = {"max_runs": "runs", "max_requests": "a minute", "max_tokens": "tokens a day"}
    return "\n".join(f"{key[name]} {unit}" for name, unit in units.items() if key[name])


def _day(moment: datetime | None) -> str:
    return "never" if moment is None else moment.strftime("%Y-%m-%d %H:%M")


def _plain(key: dict[str, Any]) -> dict[str, Any]:
    return {
        name: value.isoformat() if isinstance(value, datetime) else value
        for name, value in key.items()
    }
