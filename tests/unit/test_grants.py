"""`sql/grants.sql`, as it is printed and as it is read for the check at start."""

import json
import re

from typer.testing import CliRunner

from longrun.cli import app
from longrun.store.grants import Right, grants, needed
from longrun.store.queries import sql_folder

OF_FUNCTIONS = {
    *("keep_to_owner", "keep_no_samples"),
    *("partition_parts", "partition_name", "make_partition"),
}
"""What functions of the owner's call, as the owner, and nobody else does."""


def test_every_table_and_function_of_ours_is_in_it() -> None:
    """One that is missing could not be used by a replica with the least rights."""
    migrations = "".join(file.read_text() for file in (sql_folder() / "migrations").glob("*.sql"))
    made = set(re.findall(r"CREATE (?:UNLOGGED )?(?:TABLE|FUNCTION) (longrun\.\w+)", migrations))
    # A trigger's function is for who makes the trigger.
    made -= set(re.findall(r"CREATE FUNCTION (longrun\.\w+)\(\) RETURNS trigger", migrations))
    made -= {f"longrun.{name}" for name in OF_FUNCTIONS}
    granted = {right.name.partition("(")[0] for right in needed()}
    assert made - granted == set(), "grant it in sql/grants.sql"
    assert granted - made == {"longrun.migrations"}


def test_what_is_read_for_the_check_is_all_that_is_granted() -> None:
    granted = re.findall(r"^    GRANT ", grants("longrun"), re.MULTILINE)
    statements = {(right.privilege, right.name) for right in needed()}
    assert len(granted) >= 10
    assert len(statements) >= len(granted)
    assert Right("UPDATE", "longrun.responses", "died_on") in needed()
    assert Right("DELETE", "longrun.items") in needed()
    assert Right("EXECUTE", "longrun.is_busy(text)") in needed()


def test_schema_and_roles_are_put_in() -> None:
    sql = re.sub(r"^--.*", "", grants("other", "own-er", "run.time"), flags=re.MULTILINE)
    assert "longrun" not in sql.replace("run longrun migrate as", "")
    assert 'CREATE SCHEMA "other" AUTHORIZATION "own-er";' in sql
    assert (
        'GRANT UPDATE (lease_until, has_room, draining) ON "other".replicas TO "run.time";' in sql
    )
    assert "nspname = 'other'" in sql


def test_the_command_needs_no_database() -> None:
    arguments = ["migrate", "--print-grants", "--runtime", "app"]
    environment = {"LONGRUN_DATABASE_URL": "postgresql://nobody@127.0.0.1:1/none"}
    plain = CliRunner().invoke(app, arguments, env=environment)
    assert plain.exit_code == 0
    assert plain.stdout.strip() == grants("longrun", "longrun_owner", "app").strip()
    told = json.loads(CliRunner().invoke(app, [*arguments, "--json"], env=environment).stdout)
    assert told.pop("sql") == grants("longrun", "longrun_owner", "app")
    assert told == {"schema": "longrun", "owner": "longrun_owner", "runtime": "app"}
