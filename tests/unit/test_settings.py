"""Settings: read from the environment, checked at start, with errors that say what to do."""

import os
from pathlib import Path
from typing import Any

import pytest
from pydantic import SecretStr, ValidationError

from longrun.errors import ConfigurationError
from longrun.settings import Settings, as_markdown, variable


@pytest.fixture(autouse=True)
def bare(monkeypatch: pytest.MonkeyPatch) -> None:
    """An environment without settings of ours."""
    for name in list(os.environ):
        if name.startswith("LONGRUN_"):
            monkeypatch.delenv(name)


def refused(**given: Any) -> str:
    with pytest.raises(ConfigurationError) as raised:
        Settings.load(**given)
    return raised.value.message


class TestSources:
    def test_defaults(self) -> None:
        made = Settings.load()
        assert (made.host, made.port, made.db_schema) == ("127.0.0.1", 8000, "longrun")
        assert made.agents == ()
        assert made.database_url is None

    def test_the_environment(self, monkeypatch: pytest.MonkeyPatch) -> None:
        for name, value in {
            "LONGRUN_PORT": "9",
            "LONGRUN_AGENTS": "a:b, c:d  e:f",
            "LONGRUN_SCHEMA": "mine",
            "LONGRUN_AUTO_MIGRATE": "false",
            "LONGRUN_DATA_DIR": "/tmp/x",
            "LONGRUN_CORS_ORIGINS": "*",
            "LONGRUN_POLL_INTERVAL": "0.5",
            "LONGRUN_HOST": "",
        }.items():
            monkeypatch.setenv(name, value)
        made = Settings.load()
        assert (made.port, made.db_schema, made.auto_migrate) == (9, "mine", False)
        assert made.agents == ("a:b", "c:d", "e:f")
        assert made.data_dir == Path("/tmp/x")
        assert made.cors_origins == ("*",)
        assert made.poll_interval == 0.5
        assert made.host == "127.0.0.1", "an empty variable is none"

    def test_flags_win_and_none_is_not_given(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("LONGRUN_PORT", "9")
        monkeypatch.setenv("LONGRUN_SCHEMA", "theirs")
        assert Settings.load(port=10, schema="mine").port == 10
        assert Settings.load(port=None).port == 9
        assert Settings.load(schema="mine").db_schema == "mine"
        assert Settings.load(db_schema="mine").db_schema == "mine"

    def test_agents_as_a_list(self) -> None:
        assert Settings.load(agents=["a:b", "c:d"]).agents == ("a:b", "c:d")

    def test_every_field_has_a_variable_that_works(self, monkeypatch: pytest.MonkeyPatch) -> None:
        for name, field in Settings.model_fields.items():
            if field.default is None or name in ("agents", "cors_origins"):
                continue
            monkeypatch.setenv(variable(name), str(field.default))
        assert Settings.load() == Settings.load(agents=())

    def test_are_frozen(self) -> None:
        with pytest.raises(ValidationError):
            Settings.load().port = 1

    def test_listening_goes_where_it_is_told(self) -> None:
        one, other = SecretStr("postgres://one"), SecretStr("postgres://other")
        assert Settings.load(database_url=one).listen_url == one
        assert Settings.load(database_url=one, listen_database_url=other).listen_url == other
        assert Settings.load().listen_url is None


class TestErrors:
    @pytest.mark.parametrize(
        ("name", "value", "said"),
        [
            ("LONGRUN_PORT", "70000", "less than or equal to 65535"),
            ("LONGRUN_PORT", "eighty", "valid integer"),
            ("LONGRUN_LOG_LEVEL", "loud", "'debug', 'info', 'warning' or 'error'"),
            ("LONGRUN_AUTO_MIGRATE", "perhaps", "valid boolean"),
            ("LONGRUN_POOL_SIZE", "1", "greater than or equal to 2"),
            ("LONGRUN_POLL_INTERVAL", "0", "greater than 0"),
            ("LONGRUN_CHUNK_BYTES", "1", "greater than or equal to 1024"),
            ("LONGRUN_MAX_TURNS", "0", "greater than or equal to 1"),
            ("LONGRUN_SCHEMA", "Mine", "a-z, 0-9 and _"),
            ("LONGRUN_SCHEMA", "pg_mine", "no pg_ first"),
            ("LONGRUN_SCHEMA", "9lives", "no digit first"),
            ("LONGRUN_SCHEMA", "a" * 49, "at most 48"),
            ("LONGRUN_SCHEMA", 'x"; DROP', "a-z, 0-9 and _"),
        ],
    )
    def test_name_the_variable_the_value_and_what_is_allowed(
        self, monkeypatch: pytest.MonkeyPatch, name: str, value: str, said: str
    ) -> None:
        monkeypatch.setenv(name, value)
        message = refused()
        assert message.startswith(f"{name}={value!r}: ")
        assert said in message

    def test_of_flags_are_the_same(self) -> None:
        assert refused(port=70000).startswith("LONGRUN_PORT=70000: ")
        assert refused(schema="Mine").startswith("LONGRUN_SCHEMA='Mine': ")

    def test_all_at_once(self) -> None:
        lines = refused(port=-1, max_turns=0, schema="X").splitlines()
        assert sorted(line.split("=")[0] for line in lines) == [
            "LONGRUN_MAX_TURNS",
            "LONGRUN_PORT",
            "LONGRUN_SCHEMA",
        ]

    def test_never_show_a_password(self, monkeypatch: pytest.MonkeyPatch) -> None:
        secret: Any = ["postgres://user:password@host/"]
        message = refused(database_url=secret)
        assert message.startswith("LONGRUN_DATABASE_URL=(hidden): ")
        assert "password" not in message
        made = Settings.load(database_url="postgres://user:password@host/")
        assert "password" not in f"{made!r} {made}"


class TestMarkdown:
    def test_has_a_line_for_each(self) -> None:
        lines = as_markdown().splitlines()[2:]
        assert len(lines) == len(Settings.model_fields)
        for name, field in Settings.model_fields.items():
            [line] = [each for each in lines if each.startswith(f"| `{variable(name)}` |")]
            assert field.description
            assert field.description in line
            assert line.count("|") == 4, "no pipes within"

    def test_shows_defaults_as_they_would_be_set(self) -> None:
        table = as_markdown()
        assert "| `LONGRUN_AUTO_MIGRATE` | `true` |" in table
        assert "| `LONGRUN_PORT` | `8000` |" in table
        assert "| `LONGRUN_DATABASE_URL` |  |" in table
