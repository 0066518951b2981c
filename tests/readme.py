"""`make readme`: writes into the documents the tables that are made from the code."""

from pathlib import Path

from longrun import parameters
from longrun.monitoring import table
from longrun.settings import text
from tests.servers import REPOSITORY

TABLES = (
    (REPOSITORY / "src/longrun/settings/README.md", "settings", text.as_markdown),
    (REPOSITORY / "src/longrun/monitoring/README.md", "metrics", table.as_markdown),
    (REPOSITORY / "src/longrun/http/README.md", "parameters", parameters.as_markdown),
)
"""Document, name of the table's marks in it, and what the table is."""


def table_in(path: Path, name: str) -> str:
    """A table as a document has it."""
    _, table, _ = _parts(path, name)
    return table


def main() -> None:
    for path, name, made in TABLES:
        before, _, after = _parts(path, name)
        path.write_text(f"{before}{made()}{after}")


def _parts(path: Path, name: str) -> tuple[str, str, str]:
    before, rest = path.read_text().split(f"<!-- {name} -->\n")
    table, after = rest.split(f"<!-- /{name} -->")
    return f"{before}<!-- {name} -->\n", table, f"<!-- /{name} -->{after}"


if __name__ == "__main__":
    main()
