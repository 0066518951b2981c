"""TLS to Postgres: by the options of the URL, on every connection; what is said when it fails."""

import logging
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from longrun.errors import ConfigurationError
from longrun.settings import Settings
from longrun.store.database import Database
from tests import postgres, servers, tls
from tests.postgres import Server
from tests.reading import create
from tests.storing import connected, opened
from tests.tls import PASSWORD, Way

FULL = "sslmode=verify-full&sslrootcert={files}/ca.crt"


@pytest.fixture(scope="module")
def files() -> Iterator[Path]:
    with tls.certificates() as folder:
        yield folder


@pytest.fixture(scope="module")
def front(database: Server, files: Path) -> Iterator[tls.Front]:
    """A TLS end before the embedded Postgres, which is built without."""
    with tls.Front(database.url, files, "server").serving() as serving:
        yield serving


@pytest.fixture(scope="module", params=["embedded", *map(str, postgres.installed_versions())])
def way(request: pytest.FixtureRequest, database: Server, files: Path) -> Iterator[Way]:
    if request.param == "embedded":
        yield tls.embedded(database, request.getfixturevalue("front"))
    else:
        with tls.debian(int(request.param), files) as made:
            yield made


async def said(url: str, caplog: pytest.LogCaptureFixture) -> str:
    """What an operator is told of a URL, at once; it and the log never say the password."""
    database = Database(Settings.load())
    with pytest.raises(ConfigurationError) as raised:
        await database.open(url)
    assert "waiting for Postgres" not in caplog.text
    assert not shown_password(raised.value.message + caplog.text)
    return raised.value.message


def shown_password(text: str) -> bool:
    return re.search(PASSWORD.replace("@", "(@|%40)"), text) is not None


class TestCertificates:
    @pytest.mark.parametrize("options", ["", "sslmode=require", "sslmode=verify-ca&", FULL])
    async def test_what_fits_is_taken(self, way: Way, files: Path, options: str) -> None:
        if options.endswith("&"):
            options += f"sslrootcert={files}/ca.crt"
        async with opened(way.url(options.format(files=files)), "tls") as mine:
            assert await mine.fetch_row("SELECT 1")

    @pytest.mark.parametrize(
        ("options", "host", "expected"),
        [
            (FULL, "127.0.0.1", "another host: .*'127.0.0.1'.*connect by a name"),
            (FULL.replace("ca.crt", "other.crt"), "localhost", "not trusted.*Set sslrootcert"),
            (
                "sslmode=require&sslrootcert={files}/other.crt",
                "localhost",
                "not trusted.*Set sslrootcert",
            ),
            (
                FULL.replace("ca.crt", "none.crt"),
                "localhost",
                r"sslrootcert='.*/none\.crt' cannot be read: No such file",
            ),
            (FULL.replace("ca.crt", "ca.key"), "localhost", r"sslrootcert=.* holds no certificate"),
            ("sslmode=verify-full&sslrootcert=system", "localhost", "ca-certificates.crt"),
            ("sslmode=verify-full", "localhost", "name its file with sslrootcert"),
            (
                "sslmode=require&sslcert={files}/client.crt&sslkey={files}/server.key",
                "localhost",
                "sslcert=.* and sslkey=.* do not belong together",
            ),
            (
                "sslmode=require&sslcert={files}/client.crt&sslkey={files}/none.key",
                "localhost",
                r"sslkey='.*/none\.key' cannot be read",
            ),
            ("sslmode=verify", "localhost", "must be one of: disable, .*verify-full"),
        ],
    )
    async def test_what_does_not_fit_is_said(
        self,
        way: Way,
        files: Path,
        options: str,
        host: str,
        expected: str,
        caplog: pytest.LogCaptureFixture,
    ) -> None:
        message = await said(way.url(options.format(files=files), host), caplog)
        assert message.startswith("LONGRUN_DATABASE_URL: ")
        assert re.search(expected, message), message

    async def test_one_that_has_expired(
        self, database: Server, files: Path, caplog: pytest.LogCaptureFixture
    ) -> None:
        with tls.Front(database.url, files, "old").serving() as front:
            way = Way(front.port, database.url, "postgres")
            message = await said(way.url(FULL.format(files=files)), caplog)
        assert "certificate is not accepted: certificate has expired" in message

    @pytest.mark.parametrize("mode", ["require", "verify-full"])
    async def test_a_server_without_any(
        self, database: Server, files: Path, mode: str, caplog: pytest.LogCaptureFixture
    ) -> None:
        with tls.Front(database.url, files, None).serving() as front:
            way = Way(front.port, database.url, "postgres")
            options = f"sslmode={mode}&sslrootcert={files}/ca.crt"
            message = await said(way.url(options), caplog)
        assert f"the server offers no TLS, but sslmode={mode} requires it" in message

    async def test_those_of_clients(
        self, way: Way, files: Path, caplog: pytest.LogCaptureFixture
    ) -> None:
        whose = "with_certificate"
        shown = f"{FULL}&sslcert={{files}}/client.crt&sslkey={{files}}/client.key"
        async with opened(way.url(shown.format(files=files), role=whose), "tls") as mine:
            assert await mine.fetch_row("SELECT 1")
        message = await said(way.url(FULL.format(files=files), role=whose), caplog)
        assert "requires a valid client certificate" in message

    async def test_a_wrong_password(self, way: Way, caplog: pytest.LogCaptureFixture) -> None:
        url = way.url("sslmode=require").replace("app:", "app:not-")
        assert 'authentication failed for user "app"' in await said(url, caplog)


class TestTheDirectConnection:
    async def test_what_does_not_fit_is_said_of_its_own_setting(
        self, database: Server, front: tls.Front, files: Path, schema: str
    ) -> None:
        listen = Way(front.port, "", "postgres").url(FULL.format(files=files), "127.0.0.1")
        replica = servers.start(
            database.url,
            schema=schema,
            environment={"LONGRUN_LISTEN_DATABASE_URL": listen},
            wait=False,
        )
        try:
            assert replica.wait(60) == 2
            output = " ".join(replica.output().split())
        finally:
            replica.end()
            replica.log.unlink()
        assert "LONGRUN_LISTEN_DATABASE_URL: cannot connect" in output
        assert "the server's certificate is for another host" in output
        assert not shown_password(output)
        assert "Traceback" not in output


async def test_every_connection_of_a_replica_and_of_the_commands_is_encrypted(
    way: Way, files: Path, schema: str
) -> None:
    url = way.url(FULL.format(files=files))
    environment = {"LONGRUN_DATABASE_URL": url, "LONGRUN_SCHEMA": schema}
    before = 0 if way.front is None else way.front.encrypted
    for command in (["migrate"], ["keys", "list"]):
        done = subprocess.run(
            [sys.executable, "-m", "longrun", *command],
            env=environment,
            cwd=servers.REPOSITORY,
            capture_output=True,
            text=True,
            check=True,
        )
        assert not shown_password(done.stdout + done.stderr)
    with servers.replicas(1, url, schema=schema) as (replica,):
        assert (await create(replica, "hello"))["status"] == "completed"
        if way.front is None:
            async with connected(way.admin) as connection:
                rows = await connection.fetch(
                    "SELECT application_name, ssl FROM pg_stat_activity JOIN pg_stat_ssl"
                    " USING (pid) WHERE usename = 'app'"
                )
            names = {row["application_name"] for row in rows}
            assert names >= {"longrun", "longrun listener", "longrun lease"}
            assert all(row["ssl"] for row in rows)
        else:
            assert way.front.encrypted - before >= 5
            assert way.front.plain == 0
        assert not shown_password(replica.output())


@pytest.fixture(autouse=True)
def _log_everything(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
