"""The SQL of `sql/`, as the code sees it."""

import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from longrun.store import queries
from longrun.store.queries import Queries, in_schema, sql_folder


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A `sql/` of the test's own."""
    (tmp_path / "queries").mkdir()
    monkeypatch.setattr(queries, "sql_folder", lambda: tmp_path)
    queries._blocks.cache_clear()
    yield tmp_path / "queries"
    queries._blocks.cache_clear()


class TestSchemas:
    @pytest.mark.parametrize(
        ("sql", "expected"),
        [
            ("SELECT * FROM longrun.items", 'SELECT * FROM "other".items'),
            ("longrun.a JOIN longrun.b", '"other".a JOIN "other".b'),
            ("CREATE SCHEMA IF NOT EXISTS longrun", 'CREATE SCHEMA IF NOT EXISTS "other"'),
            ("SELECT 'longrun'", "SELECT 'longrun'"),
            ("-- longrun is", "-- longrun is"),
            ("prolongrun.items", "prolongrun.items"),
            ("longrun.1", "longrun.1"),
            ("longruns.items", "longruns.items"),
        ],
    )
    def test_ours_takes_the_place_of_longrun(self, sql: str, expected: str) -> None:
        assert in_schema(sql, "other") == expected

    def test_no_query_names_another_one(self) -> None:
        """Every name of ours is qualified: a search path changes nothing."""
        tables = re.findall(
            r"CREATE (?:UNLOGGED )?TABLE (?:IF NOT EXISTS )?longrun\.(\w+)",
            "".join(file.read_text() for file in (sql_folder() / "migrations").glob("*.sql")),
        )
        assert len(tables) >= 4
        made = Queries("other")
        for name in made.names():
            sql = re.sub(r"--.*", "", getattr(made, name))
            assert "longrun." not in sql
            for table in tables:
                used = re.findall(rf"(\S*)(?:FROM|JOIN|INTO|UPDATE)\s+{table}\b", sql)
                assert not used, f"{name} uses {table} without its schema"


class TestBlocks:
    def test_by_attribute(self) -> None:
        made = Queries("longrun")
        assert made.append_log.startswith(("WITH", "--"))
        assert "append_log" in made.names()
        assert not made.append_log.endswith(";")

    def test_an_unknown_one_says_so(self) -> None:
        with pytest.raises(AttributeError, match="no query named nothing"):
            Queries("longrun").nothing  # noqa: B018

    def test_every_query_of_the_code_is_there(self) -> None:
        """And every one that is there is used."""
        source = Path(queries.__file__).parents[1]
        code = "".join(file.read_text() for file in source.rglob("*.py"))
        used = set(re.findall(r"queries\.(\w+)", code)) - {"names", "schema", "bind", "form"}
        used |= set(re.findall(r'queries\.(?:bind|form)\(\s*"(\w+)"', code))
        assert set(Queries("longrun").names()) == used & set(Queries("longrun").names())
        unknown = {name for name in used if f"-- name: {name}\n" not in ALL_SQL}
        assert unknown <= {"py"}, unknown

    def test_a_name_twice(self, folder: Path) -> None:
        (folder / "a.sql").write_text("-- name: one\nSELECT 1;\n-- name: two\nSELECT 2;\n")
        assert Queries("longrun").names() == ["one", "two"]
        (folder / "b.sql").write_text("-- name: one\nSELECT 3;\n")
        queries._blocks.cache_clear()
        with pytest.raises(ValueError, match=r"b\.sql: a second query named one"):
            Queries("longrun")

    def test_what_a_block_is(self, folder: Path) -> None:
        text = "-- a head\n\n-- name: one\n-- why\nSELECT 1\n  + 1;\n\n\n-- name: two\nSELECT 2"
        (folder / "a.sql").write_text(text)
        made = Queries("longrun")
        assert made.one == "SELECT 1\n  + 1"
        assert made.two == "SELECT 2"


class TestNamedParameters:
    def made(self, folder: Path, sql: str) -> Queries:
        (folder / "a.sql").write_text(f"-- name: one\n{sql};\n")
        queries._blocks.cache_clear()
        return Queries("other")

    def test_they_are_numbered_in_the_order_in_which_they_come(self, folder: Path) -> None:
        made = self.made(folder, "SELECT :b::text, :a + 1, :b FROM longrun.items")
        assert made.one == 'SELECT $1::text, $2 + 1, $1 FROM "other".items'
        assert made.bind("one", a=1, b="x") == (made.one, "x", 1)

    @pytest.mark.parametrize(
        "sql",
        [
            "SELECT 1::text, a::text[]",
            "SELECT ':a', 'it''s :a'",
            'SELECT ":a"',
            "SELECT list[1:n], list[m:n]",
            "SELECT now() + make_interval(secs => 2), '12:30:00'::time",
        ],
    )
    def test_what_is_no_parameter(self, folder: Path, sql: str) -> None:
        made = self.made(folder, sql)
        assert made.one == sql
        assert made.bind("one") == (sql,)

    def test_comments_are_left_out(self, folder: Path) -> None:
        made = self.made(folder, "SELECT 1 -- of :a, isn't it\n\n  -- :b\n  + 2, '-- no'")
        assert made.bind("one") == ("SELECT 1\n  + 2, '-- no'",)

    @pytest.mark.parametrize("values", [{}, {"a": 1}, {"a": 1, "c": 2}, {"a": 1, "b": 2, "c": 3}])
    def test_a_value_that_is_missing_wrong_or_one_too_many(
        self, folder: Path, values: dict[str, int]
    ) -> None:
        made = self.made(folder, "SELECT :a::integer, :b::integer")
        with pytest.raises(TypeError, match=r"query one: no value for .*, no parameter"):
            made.bind("one", **values)

    def test_a_parameter_may_be_called_name(self, folder: Path) -> None:
        made = self.made(folder, "SELECT :name::text")
        assert made.bind("one", name="x") == ("SELECT $1::text", "x")

    def test_an_optional_line_goes_with_its_value(self, folder: Path) -> None:
        made = self.made(
            folder,
            "SELECT 1 WHERE a = :a\n    AND b = :b::text[] -- optional\n    AND c = :c -- optional",
        )
        assert made.bind("one", a=1, b=2, c=3)[1:] == (1, 2, 3)
        sql, *values = made.bind("one", a=1, b=None, c=3)
        assert re.sub(r"\s+", " ", sql) == "SELECT 1 WHERE a = $1 AND c = $2"
        assert values == [1, 3]
        assert made.bind("one", a=1, b=None, c=None)[1:] == (1,)
        for absent in ((), ("b",), ("b", "c")):
            form, values = made.form("one", *absent), {"a": 1, "b": 2, "c": 3}
            bound = made.bind("one", **values | dict.fromkeys(absent))
            assert (form.sql, *form.values(values)) == bound
        with pytest.raises(KeyError):
            made.form("one").values({"a": 1})
        with pytest.raises(TypeError, match=r"no value for \['c'\]"):
            made.bind("one", a=1, b=None)

    def test_optional_lines_go_with_their_parameter(self, folder: Path) -> None:
        made = self.made(
            folder,
            "SELECT 1\n-- optional :a\n, :a::text,\n    :b\n-- end\n"
            ", 2\n-- optional :a\n, 3\n-- end\n",
        )
        assert made.bind("one", a=1, b=2) == ("SELECT 1\n, $1::text,\n    $2\n, 2\n, 3", 1, 2)
        assert made.bind("one", a=None, b=2) == ("SELECT 1\n, 2",)

    def test_names_beside_numbers(self, folder: Path) -> None:
        with pytest.raises(ValueError, match="query one: its parameters have names or numbers"):
            self.made(folder, "SELECT :a, $1")

    def test_more_than_six_need_names(self, folder: Path) -> None:
        assert self.made(folder, "SELECT $1, $2, $3, $4, $5, $6, $6 -- not $7").names() == ["one"]
        with pytest.raises(ValueError, match="query one: more than 6 parameters need names"):
            self.made(folder, "SELECT $1, $2, $3, $4, $5, $6, $7")

    def test_every_name_of_the_files_is_numbered(self) -> None:
        made = Queries("other")
        for name in made.names():
            assert not re.search(r"(?<![:\w]):[a-z_]", re.sub(r"--.*|'[^']*'", "", made._sql[name]))


ALL_SQL = "".join(file.read_text() for file in (sql_folder() / "queries").glob("*.sql"))
