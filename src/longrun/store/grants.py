"""The rights that a replica needs in Postgres: the SQL that grants them, and whether it has them.

`sql/grants.sql` is the only place that names them: it is printed for administrators, and read here
for the check at start.
"""

import re
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cache
from typing import Final

from longrun.errors import ConfigurationError
from longrun.store.database import Database
from longrun.store.queries import in_schema, sql_folder

OWNER: Final = "longrun_owner"
RUNTIME: Final = "longrun_runtime"

_GRANT: Final = re.compile(
    r"^ {4}GRANT (?P<privileges>[^;]*?)\s+ON (?P<function>FUNCTION )?(?P<name>longrun\.[^ ]+)"
    rf'\s+TO "{RUNTIME}";',
    re.MULTILINE,
)

_PRIVILEGE: Final = re.compile(r"([A-Z]+)(?:\s*\(([^)]*)\))?")


@dataclass(frozen=True, slots=True)
class Right:
    """One privilege on a table or a function, or on one column of a table.

    `name` has the schema `longrun`, whatever the configured one is.
    """

    privilege: str
    name: str
    column: str | None = None

    @property
    def on_function(self) -> bool:
        return "(" in self.name


def _sql() -> str:
    return (sql_folder() / "grants.sql").read_text("utf-8")


def grants(schema: str, owner: str = OWNER, runtime: str = RUNTIME) -> str:
    """The SQL that makes and restricts the two roles of a schema.

    Raises:
        ConfigurationError: a role cannot have this name, or both have the same one.
    """
    for role in (owner, runtime):
        if not re.fullmatch(r"[\w.@-]{1,63}", role, re.ASCII):
            raise ConfigurationError(
                f"{role!r} cannot be the name of a role here: allowed are 1 to 63 letters, digits, "
                "and the characters _ . @ -"
            )
    if owner == runtime:
        raise ConfigurationError(f"the owner and the runtime role are both called {owner!r}")
    names = {OWNER: owner, RUNTIME: runtime}
    sql = re.sub(rf"\b({OWNER}|{RUNTIME})\b", lambda found: names[found[1]], _sql())
    sql = in_schema(sql, schema)
    return sql.replace("SCHEMA longrun", f'SCHEMA "{schema}"').replace("'longrun'", f"'{schema}'")


@cache
def needed() -> tuple[Right, ...]:
    """Every right that the runtime role is granted, in the order of the file."""
    found: list[Right] = []
    for grant in _GRANT.finditer(_sql()):
        for privilege, columns in _PRIVILEGE.findall(grant["privileges"]):
            names: Iterable[str | None] = re.findall(r"\w+", columns) or [None]
            found += [Right(privilege, grant["name"], column) for column in names]
    return tuple(found)


async def check_rights(database: Database) -> None:
    """Refuse to start as a role that lacks a right.

    Raises:
        ConfigurationError: names the role, the rights that it lacks, and what to do.
    """
    schema, rights = database.queries.schema, needed()
    rows = await database.fetch(
        database.queries.missing_rights,
        [in_schema(right.name, schema) for right in rights],
        [right.privilege for right in rights],
        [right.column for right in rights],
        [right.on_function for right in rights],
    )
    if rows:
        role = rows[0]["role"]
        missing = _in_words([rights[row["n"] - 1] for row in rows])
        raise ConfigurationError(
            f"the role {role!r} in LONGRUN_DATABASE_URL lacks rights in schema {schema!r}: "
            f"{missing}. Its owner can grant them: "
            f"`longrun migrate --print-grants --runtime {role}` prints the SQL"
        )


def _in_words(rights: list[Right]) -> str:
    """As in `SELECT on responses, UPDATE (length, turns) on conversations`."""
    columns: dict[tuple[str, str], list[str]] = {}
    for right in rights:
        own = columns.setdefault((right.privilege, right.name.removeprefix("longrun.")), [])
        own += [right.column] if right.column else []
    return ", ".join(
        privilege + (f" ({', '.join(names)})" if names else "") + f" on {name}"
        for (privilege, name), names in columns.items()
    )
