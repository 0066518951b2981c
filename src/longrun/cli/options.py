"""Options that several commands have."""

from pathlib import Path
from typing import Annotated, Final

import typer

DEFAULT_URL: Final = "http://127.0.0.1:8000"

DatabaseURL = Annotated[
    str | None,
    typer.Option(help="Postgres, as a libpq URL. [dim]\\[default: an embedded Postgres][/]"),
]
DataDir = Annotated[
    Path | None,
    typer.Option(help="Directory of the embedded Postgres. [dim]\\[default: .longrun][/]"),
]
AsJSON = Annotated[bool, typer.Option("--json", help="Print one JSON object, for programs.")]
ServerURL = Annotated[
    str | None,
    typer.Option(
        "--url", help=f"URL of a server. [dim]\\[default: LONGRUN_URL, or {DEFAULT_URL}][/]"
    ),
]
