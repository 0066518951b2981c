"""`longrun ps`: which runs there are."""

from typing import Annotated, get_args

import typer

from longrun.cli.options import AsJSON, DatabaseURL, DataDir, ServerURL
from longrun.protocol import Status

app = typer.Typer()


@app.command()
def ps(
    all_: Annotated[
        bool, typer.Option("--all", "-a", help="Include runs that have ended, newest first.")
    ] = False,
    status: Annotated[
        str | None, typer.Option(help=f"Only these, of {', '.join(get_args(Status))}; with commas.")
    ] = None,
    agent: Annotated[str | None, typer.Option(help="Only runs of this agent.")] = None,
    everybody: Annotated[
        bool, typer.Option("--everybody", help="Runs of all principals; needs an admin's key.")
    ] = False,
    limit: Annotated[int, typer.Option("--limit", "-n", min=1, max=100, help="How many.")] = 20,
    watch: Annotated[
        bool, typer.Option("--watch", "-w", help="Refresh every second, until Ctrl-C.")
    ] = False,
    url: ServerURL = None,
    database_url: DatabaseURL = None,
    data_dir: DataDir = None,
    json: AsJSON = False,
) -> None:
    """List the runs that are queued or in progress, or with --all the newest ones.

    Asks a server or, with --database-url or --data-dir, the database itself, which has the runs of
    all principals.

    [bold]Example:[/] longrun ps --watch

    [bold]Example:[/] longrun ps --status failed,incomplete --database-url postgresql://db/app
    """
    from longrun.cli import listing

    source = listing.source_of(
        url,
        database_url,
        data_dir,
        limit=limit,
        statuses=listing.statuses_of(status) if status else None if all_ else list(listing.LIVE),
        agent=agent,
        everybody=everybody,
    )
    try:
        listing.show(source, watch, json)
    except KeyboardInterrupt:
        raise typer.Exit(0) from None
