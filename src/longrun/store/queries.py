"""The SQL of `sql/`: named blocks, read once at import, with the schema's name put in.

The files say `longrun.` before every name of ours, so that they can be read, and run in psql,
as they are; a configured schema (LONGRUN_SCHEMA) takes its place here.
"""

import re
from functools import cache
from pathlib import Path

_BLOCK = re.compile(r"^-- name: (\w+)\n(.*?)(?=^-- name: |\Z)", re.MULTILINE | re.DOTALL)
_SCHEMA = re.compile(r"\blongrun(?=\.[a-z_])|(?<=SCHEMA IF NOT EXISTS )longrun\b")


def sql_folder() -> Path:
    """`sql/` of the wheel, or of the checkout that an editable install runs from."""
    package = Path(__file__).resolve().parents[1]
    for folder in (package / "sql", package.parents[1] / "sql"):
        if (folder / "queries").is_dir():
            return folder
    raise FileNotFoundError(f"no sql/ folder beside {package}: the installation is incomplete")


def in_schema(sql: str, schema: str) -> str:
    """The same SQL for another schema than `longrun`."""
    return _SCHEMA.sub(f'"{schema}"', sql)


@cache
def _blocks() -> dict[str, str]:
    found: dict[str, str] = {}
    for file in sorted((sql_folder() / "queries").glob("*.sql")):
        for name, body in _BLOCK.findall(file.read_text("utf-8")):
            if name in found:
                raise ValueError(f"{file.name}: a second query named {name}")
            found[name] = body.strip().removesuffix(";")
    return found


class Queries:
    """The named queries for one schema, by attribute: `queries.append_log`."""

    def __init__(self, schema: str) -> None:
        self.schema = schema
        self._sql = {name: in_schema(sql, schema) for name, sql in _blocks().items()}

    def __getattr__(self, name: str) -> str:
        try:
            return self._sql[name]
        except KeyError:
            raise AttributeError(f"no query named {name} in sql/queries") from None

    def names(self) -> list[str]:
        return sorted(self._sql)
