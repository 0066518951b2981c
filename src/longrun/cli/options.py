"""Options that several commands have."""

from pathlib import Path
from typing import Annotated

import typer

DatabaseURL = Annotated[
    str | None,
    typer.Option(help="Postgres, as a libpq URL. [dim]\\[default: an embedded Postgres][/]"),
]
DataDir = Annotated[
    Path | None,
    typer.Option(help="Directory of the embedded Postgres. [dim]\\[default: .longrun][/]"),
]
AsJSON = Annotated[bool, typer.Option("--json", help="Print one JSON object, for programs.")]
