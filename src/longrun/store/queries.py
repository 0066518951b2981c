"""The SQL of `sql/`: named blocks, read once, with the schema's name put in.

The files say `longrun.` before every name of ours, so that they can be read, and run in psql,
as they are; a configured schema (LONGRUN_SCHEMA) takes its place here. A block with more than six
parameters names them, `:like_this`, as psql's variables; they are numbered here, once, and bound
by name (`Queries.bind`), so that none can end up in another's place. A line that ends with
`-- optional` is left out where the parameter in it has no value; so are all lines between
`-- optional :like_this` and `-- end`.
"""

import re
from collections.abc import Callable, Mapping
from functools import cache
from operator import itemgetter
from pathlib import Path
from typing import Any, Final, NamedTuple

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
    """SQL of these files, for another schema than `longrun`."""
    return _SCHEMA.sub(f'"{schema}"', sql)


_OPTIONAL: Final = re.compile(
    r"^(?:-- optional :(?P<block>[a-z_]\w*)\n(?P<lines>(?:.*\n)*?)-- end$"
    r"|(?P<line>.*?(?<![:\w]):(?P<name>[a-z_]\w*).*) -- optional$)",
    re.MULTILINE,
)
"""Lines that are left out where the parameter that they name has no value."""

_TOKEN: Final = re.compile(
    r"""
    --[^\n]* | '(?:[^']|'')*' | "(?:[^"]|"")*" | ::
    | (?<!\w):(?P<name>[a-z_]\w*)
    | \$(?P<number>\d+)
    """,
    re.VERBOSE,
)
"""What a colon may stand in without beginning a parameter, and the two kinds of parameters."""

MOST_NUMBERED: Final = 6
"""A query with more parameters than this names them."""


class Query:
    """One block: its SQL with $1…$n, and the names of these parameters if the file names them.

    Comments stay in the file: pg_stat_activity shows the first kilobyte of a statement.

    Raises:
        ValueError: parameters with names beside numbered ones, or too many numbered ones.
    """

    def __init__(self, name: str, text: str) -> None:
        self.name = name
        self.text = text
        self.optional = frozenset(map(_name_of, _OPTIONAL.finditer(text)))
        self.parameters: tuple[str, ...] = ()
        numbers = {token["number"] for token in _TOKEN.finditer(text)} - {None}
        sql = _TOKEN.sub(self._in_place_of, text)
        self.sql = "\n".join(line.rstrip() for line in sql.splitlines() if line.strip())
        if self.parameters and numbers:
            raise ValueError(f"query {name}: its parameters have names or numbers, not both")
        if len(numbers) > MOST_NUMBERED:
            raise ValueError(f"query {name}: more than {MOST_NUMBERED} parameters need names")

    def without(self, absent: frozenset[str]) -> "Query":
        """The query without the optional lines of these parameters."""

        def kept(lines: re.Match[str]) -> str:
            return "" if _name_of(lines) in absent else lines["lines"] or lines["line"]

        return Query(self.name, _OPTIONAL.sub(kept, self.text))

    def _in_place_of(self, token: re.Match[str]) -> str:
        name = token["name"]
        if name is None:
            return "" if token[0].startswith("--") else token[0]
        if name not in self.parameters:
            self.parameters += (name,)
        return f"${self.parameters.index(name) + 1}"


def _name_of(optional: re.Match[str]) -> str:
    """The parameter that tells whether some optional lines are left out."""
    return str(optional["block"] or optional["name"])


@cache
def _blocks() -> dict[str, Query]:
    found: dict[str, Query] = {}
    for file in sorted((sql_folder() / "queries").glob("*.sql")):
        for name, body in _BLOCK.findall(file.read_text("utf-8")):
            if name in found:
                raise ValueError(f"{file.name}: a second query named {name}")
            found[name] = Query(name, body.strip().removesuffix(";"))
    return found


class Form(NamedTuple):
    """The SQL of a query with named parameters, and what takes their values for $1…$n out of a
    mapping; a KeyError says which it lacks."""

    sql: str
    values: Callable[[Mapping[str, Any]], tuple[Any, ...]]


class Queries:
    """The named queries for one schema, their SQL by attribute: `queries.list_own`."""

    def __init__(self, schema: str) -> None:
        self.schema = schema
        self._sql = {name: in_schema(query.sql, schema) for name, query in _blocks().items()}
        self._parameters = {name: query.parameters for name, query in _blocks().items()}
        self._names = {name: frozenset(each) for name, each in self._parameters.items()}
        self._with_optional_lines = {name for name, query in _blocks().items() if query.optional}
        self._shortened: dict[tuple[str, frozenset[str]], tuple[str, tuple[str, ...]]] = {}

    def __getattr__(self, name: str) -> str:
        try:
            return self._sql[name]
        except KeyError:
            raise AttributeError(f"no query named {name} in sql/queries") from None

    def bind(self, name: str, /, **values: Any) -> tuple[Any, ...]:
        """The SQL of a query with named parameters, followed by their values for $1…$n.

        Raises:
            TypeError: a parameter has no value, or a value no parameter.
        """
        parameters = self._parameters[name]
        if values.keys() != self._names[name]:
            missing = [each for each in parameters if each not in values]
            unknown = [each for each in values if each not in parameters]
            raise TypeError(f"query {name}: no value for {missing}, no parameter {unknown}")
        sql = self._sql[name]
        if name in self._with_optional_lines:
            sql, parameters = self._without_absent(name, values)
        return (sql, *[values[each] for each in parameters])

    def form(self, name: str, *absent: str) -> "Form":
        """What `bind` makes of a query, prepared for one that is executed again and again.

        Args:
            absent: the parameters whose optional lines are left out.

        Raises:
            KeyError: no such query.
        """
        values = dict.fromkeys(self._names[name], 0) | dict.fromkeys(absent)
        sql, parameters = self._without_absent(name, values)
        if len(parameters) > 1:
            return Form(sql, itemgetter(*parameters))
        return Form(sql, lambda values: tuple(values[each] for each in parameters))

    def _without_absent(self, name: str, values: dict[str, Any]) -> tuple[str, tuple[str, ...]]:
        query = _blocks()[name]
        absent = frozenset([each for each in query.optional if values[each] is None])
        if (name, absent) not in self._shortened:
            shorter = query.without(absent)
            sql = in_schema(shorter.sql, self.schema)
            self._shortened[name, absent] = (sql, shorter.parameters)
        return self._shortened[name, absent]

    def names(self) -> list[str]:
        return sorted(self._sql)
