"""Settings: read from the environment, checked at start, with errors that say what to do."""

import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from pydantic import SecretStr, ValidationError

from longrun.errors import ConfigurationError
from longrun.settings import NOT_SETTINGS, Settings, variable
from longrun.settings.text import as_lines, as_markdown, effective, shown_value
from tests.servers import REPOSITORY


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
            if field.default in (None, ()):
                continue
            monkeypatch.setenv(variable(name), shown_value(field.default))
        assert Settings.load() == Settings.load(agents=())

    def test_workers(self, monkeypatch: pytest.MonkeyPatch) -> None:
        assert (Settings.load(workers="auto").workers, Settings.load(workers="3").workers) == (
            "auto",
            3,
        )
        monkeypatch.setenv("LONGRUN_WORKERS", "4")
        assert Settings.load().workers == 4
        for wrong in ("0", "257", "-1", "two", "1.5", " "):
            assert refused(workers=wrong) == (
                f"LONGRUN_WORKERS={wrong!r}: expected auto, or a number from 1 to 256"
            )

    def test_bounds_and_headers_by_name(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("LONGRUN_PARAMETER_LIMITS", "max_output_tokens=10 temperature=0.5")
        monkeypatch.setenv("LONGRUN_FORWARD_HEADERS", "X-Tenant, traceparent")
        made = Settings.load()
        assert made.bounds == {"max_output_tokens": 10, "temperature": 0.5}
        assert made.forward_headers == ("x-tenant", "traceparent")

    def test_are_frozen(self) -> None:
        with pytest.raises(ValidationError):
            Settings.load().port = 1


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
            ("LONGRUN_CELL", "1", "two hex digits"),
            ("LONGRUN_CELL", "0A", "two hex digits"),
            ("LONGRUN_FORBIDDEN_PARAMETERS", "text.fromat", "did you mean text.format?"),
            ("LONGRUN_FORBIDDEN_PARAMETERS", "input", "not a request parameter that can be"),
            ("LONGRUN_PARAMETER_LIMITS", "user=3", "'user' cannot be bounded"),
            ("LONGRUN_PARAMETER_LIMITS", "top_p=much", "expected name=number"),
            ("LONGRUN_PARAMETER_LIMITS", "top_p=0", "greater than 0"),
            ("LONGRUN_FORWARD_HEADERS", "x:y", "not the name of a header"),
            ("LONGRUN_SCHEMA", "pg_mine", "does not begin with pg_"),
            ("LONGRUN_SCHEMA", "9lives", "does not begin with a digit"),
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

    @pytest.mark.parametrize("value", ["inf", "nan", "-inf", "1e999", "1e300"])
    def test_durations_are_numbers_that_end(
        self, monkeypatch: pytest.MonkeyPatch, value: str
    ) -> None:
        for name, field in Settings.model_fields.items():
            if field.annotation is float:
                monkeypatch.setenv(variable(name), value)
                assert refused().startswith(f"{variable(name)}={value!r}: ")
                monkeypatch.delenv(variable(name))

    def test_a_body_that_could_never_be_read(self) -> None:
        assert "LONGRUN_MAX_BODIES_BYTES=2048 is less than" in refused(
            max_bodies_bytes=2048, max_body_bytes=4096
        )

    def test_a_standby_of_nothing(self) -> None:
        url = SecretStr("postgresql://db/app")
        assert "needs LONGRUN_DATABASE_URL" in refused(read_database_url=url)
        assert Settings.load(database_url=url, read_database_url=url).read_database_url == url

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


class TestURLs:
    """asyncpg's error of a URL that it cannot read has a part of the password in it."""

    @pytest.mark.parametrize(
        "url",
        [
            "postgresql://user:password@host:5432/database",
            "postgres://user:p%23a%2Fs%3As%40@host/",
            "postgresql://host",
            "postgresql:///database?host=/tmp&port=5433",
            "postgresql://postgres@/postgres?host=%2Ftmp%2Fx&port=5432",
            "postgresql://user@one:5432,two:5433,three/db?target_session_attrs=read-write",
            "postgresql://[::1]:5432/db?sslmode=require&application_name=a",
        ],
    )
    def test_that_are(self, url: str) -> None:
        made = Settings.load(database_url=url, listen_database_url=url)
        assert made.database_url == SecretStr(url)

    @pytest.mark.parametrize(
        "url",
        [
            "postgresql://user:secret#word@host/db",
            "postgresql://user:secret?word@host/db",
            "postgresql://user:secret/word@host/db",
            "postgresql://user:12?secret@host/db",
            "postgresql://user:sec@ret@host/db",
            "postgresql://host:secret/db",
            "http://user:secret@host/",
            "host=secret dbname=x",
            "secret",
        ],
    )
    def test_that_are_none(self, monkeypatch: pytest.MonkeyPatch, url: str) -> None:
        for name in ("LONGRUN_DATABASE_URL", "LONGRUN_LISTEN_DATABASE_URL"):
            monkeypatch.setenv(name, url)
            message = refused()
            assert message.startswith(f"{name}=(hidden): not a Postgres URL")
            assert "secret" not in message
            monkeypatch.delenv(name)


class TestUnknownNames:
    @pytest.mark.parametrize(
        ("name", "nearest"),
        [
            ("LONGRUN_POOLSIZE", "LONGRUN_POOL_SIZE"),
            ("LONGRUN_MAX_RUN", "LONGRUN_MAX_RUNS"),
            ("LONGRUN_DB_SCHEMA", "LONGRUN_SCHEMA"),
            ("LONGRUN_DATABASE", "LONGRUN_DATABASE_URL"),
        ],
    )
    def test_of_variables(self, monkeypatch: pytest.MonkeyPatch, name: str, nearest: str) -> None:
        monkeypatch.setenv(name, "5")
        assert refused() == f"{name} is not a setting; did you mean {nearest}?"

    def test_of_arguments(self) -> None:
        given: dict[str, Any] = {"max_run": 5}
        with pytest.raises(
            ValidationError, match="max_run is not a setting; did you mean max_runs"
        ):
            Settings(**given)
        assert "did you mean max_runs" in refused(max_run=5)

    def test_like_nothing(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("LONGRUN_ZZZ", "5")
        assert refused() == "LONGRUN_ZZZ is not a setting; see `longrun settings`"

    def test_all_of_them(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("LONGRUN_PORTS", "5")
        monkeypatch.setenv("LONGRUN_HOSTS", "x")
        assert len(refused(max_run=5).splitlines()) == 3

    def test_others_that_begin_so(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """What `longrun demo` reads, what Kubernetes sets for services, and empty ones."""
        for name, value in {
            **dict.fromkeys(NOT_SETTINGS, "x"),
            "LONGRUN_SERVICE_HOST": "10.0.0.1",
            "LONGRUN_SERVICE_PORT": "80",
            "LONGRUN_SERVICE_PORT_HTTP": "80",
            "LONGRUN_PORT_80_TCP_ADDR": "10.0.0.1",
            "LONGRUN_WEB_PORT": "tcp://10.0.0.1:80",
            "LONGRUN_WEB_PORT_80_TCP": "tcp://10.0.0.1:80",
            "LONGRUN_NOTHING": "",
            "longrun_port": "9",
        }.items():
            monkeypatch.setenv(name, value)
        assert Settings.load().port == 9
        monkeypatch.delenv("longrun_port")
        monkeypatch.setenv("LONGRUN_PORT", "tcp://10.0.0.1:80")
        assert "enableServiceLinks" in refused()

    def test_code_and_documents_name_none(self) -> None:
        """Each variable that is named there is a setting, or known to be none."""
        known = {variable(name) for name in Settings.model_fields} | NOT_SETTINGS
        for path in [*REPOSITORY.glob("src/**/*.py"), *REPOSITORY.rglob("*.md")]:
            if ".venv" in path.parts:
                continue
            named = set(re.findall(r"\bLONGRUN_[A-Z0-9_]*[A-Z0-9]\b", path.read_text()))
            assert named <= known | {"LONGRUN_SERVICE_HOST"}, path

    def test_types_know_them(self, tmp_path: Path) -> None:
        """`Settings(max_runs=5)` passes mypy, and a wrong name or type does not."""
        program = tmp_path / "program.py"
        program.write_text(
            "from longrun.settings import Settings\n"
            "Settings()\n"
            "Settings(max_runs=5, db_schema='x', tls_keyfile=None)\n"
            "Settings(max_run=5)\n"
            "Settings(max_runs='5')\n"
        )
        # In a process of its own: mypy raises the recursion limit of the one that it runs in.
        mypy = [sys.executable, "-m", "mypy", "--strict", str(program)]
        said = subprocess.run(mypy, capture_output=True, text=True, check=False).stdout
        found = [line.split(": ", 1)[0].rpartition(":")[2] for line in said.splitlines()]
        assert {line for line in found if line.isdigit()} == {"4", "5"}


def certificate(folder: Path, name: str, password: str | None = None) -> tuple[Path, Path]:
    """A certificate and its key, made by OpenSSL."""
    cert, key = folder / f"{name}.pem", folder / f"{name}.key"
    given = ["-passout", f"pass:{password}"] if password else ["-nodes"]
    subprocess.run(
        [
            *("openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256"),
            *("-keyout", str(key), "-out", str(cert), "-days", "2", "-subj", "/CN=x", *given),
        ],
        check=True,
        capture_output=True,
    )
    return cert, key


class TestTLS:
    """Half of it was served as plain text."""

    def test_both_or_none(self, tmp_path: Path) -> None:
        cert, key = certificate(tmp_path, "one")
        assert Settings.load(tls_certfile=cert, tls_keyfile=key).tls_keyfile == key
        assert "LONGRUN_TLS_CERTFILE is, and TLS needs both" in refused(tls_certfile=cert)
        assert "LONGRUN_TLS_KEYFILE is, and TLS needs both" in refused(tls_keyfile=key)
        assert refused(tls_certfile=cert).startswith("LONGRUN_TLS_KEYFILE is not set: ")
        assert refused(tls_keyfile=key).startswith("LONGRUN_TLS_CERTFILE is not set: ")

    def test_files_that_cannot_be_read(self, tmp_path: Path) -> None:
        cert, key = certificate(tmp_path, "one")
        nowhere = tmp_path / "nowhere.pem"
        for given, name in (
            ({"tls_certfile": nowhere, "tls_keyfile": key}, "LONGRUN_TLS_CERTFILE"),
            ({"tls_certfile": cert, "tls_keyfile": nowhere}, "LONGRUN_TLS_KEYFILE"),
            ({"tls_certfile": tmp_path, "tls_keyfile": key}, "LONGRUN_TLS_CERTFILE"),
        ):
            assert refused(**given).startswith(f"{name}=")
            assert "cannot be read: " in refused(**given)

    def test_files_that_are_not_a_pair(self, tmp_path: Path) -> None:
        cert, key = certificate(tmp_path, "one")
        _, other = certificate(tmp_path, "other")
        _, locked = certificate(tmp_path, "locked", password="secret")
        empty = tmp_path / "empty.pem"
        empty.touch()
        for pair in ((cert, other), (key, cert), (cert, empty), (empty, key), (cert, locked)):
            message = refused(tls_certfile=pair[0], tls_keyfile=pair[1])
            assert message.startswith(f"LONGRUN_TLS_CERTFILE={str(pair[0])!r} and ")
            assert "cannot be used: " in message


class TestOrigins:
    @pytest.mark.parametrize(
        "origin",
        [
            *("*", "https://app.example", "http://localhost:5173", "http://[::1]:3000"),
            *("chrome-extension://abcdef", "tauri://localhost", "https://xn--mller-kva.example"),
        ],
    )
    def test_as_browsers_send_them(self, origin: str) -> None:
        assert Settings.load(cors_origins=(origin,)).cors_origins == (origin,)

    @pytest.mark.parametrize(
        ("given", "right"),
        [
            ("https://app.example/", "https://app.example"),
            ("https://app.example/path?a=b#c", "https://app.example"),
            ("https://App.Example", "https://app.example"),
            ("HTTPS://app.example", "https://app.example"),
            ("https://app.example:443", "https://app.example"),
            ("http://app.example:80/", "http://app.example"),
            ("https://user@app.example", "https://app.example"),
            ("http://[::1]:3000/", "http://[::1]:3000"),
            ("https://müller.example", "https://xn--mller-kva.example"),
        ],
    )
    def test_others_are_told_how_to_write_them(self, given: str, right: str) -> None:
        assert refused(cors_origins=(given,)).endswith(
            f"{given!r} is not as browsers send it: write {right}"
        )

    @pytest.mark.parametrize(
        "given", ["app.example", "null", "https://", "//app", "http://a:b", "1://a"]
    )
    def test_what_is_none(self, given: str) -> None:
        assert f"{given!r} is no origin: " in refused(cors_origins=(given,))

    def test_no_patterns(self) -> None:
        assert "each origin is written out" in refused(cors_origins=("https://*.example",))


class TestEffective:
    def test_says_what_is_and_where_it_came_from(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("LONGRUN_PORT", "9")
        monkeypatch.setenv("LONGRUN_SCHEMA", "mine")
        monkeypatch.setenv("LONGRUN_AGENTS", "a:b, c:d")
        monkeypatch.setenv("LONGRUN_HOST", "")
        found = effective(Settings.load())
        assert found.keys() == {variable(name) for name in Settings.model_fields}
        told = {name: (each["value"], each["source"]) for name, each in found.items()}
        assert told["LONGRUN_PORT"] == (9, "environment")
        assert told["LONGRUN_SCHEMA"] == ("mine", "environment")
        assert told["LONGRUN_AGENTS"] == (["a:b", "c:d"], "environment")
        assert told["LONGRUN_HOST"] == ("127.0.0.1", "default")
        assert told["LONGRUN_DATA_DIR"] == (".longrun", "default")
        lines = as_lines(Settings.load()).splitlines()
        assert ["LONGRUN_AGENTS", "a:b", "c:d", "environment"] in [line.split() for line in lines]

    def test_hides_secrets(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("LONGRUN_DATABASE_URL", "postgres://user:password@host/")
        loaded = Settings.load()
        assert effective(loaded)["LONGRUN_DATABASE_URL"]["value"] == "(hidden)"
        assert "password" not in f"{effective(loaded)}{as_lines(loaded)}"


class TestMarkdown:
    def test_has_a_line_for_each(self) -> None:
        lines = [line for line in as_markdown().splitlines() if line.startswith("| `")]
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
