"""A real Postgres for the tests: the embedded one, or the server binaries of a Debian package."""

import contextlib
import os
import shutil
import signal
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import psutil

from longrun.embedded.binaries import Account, installed_binaries
from longrun.embedded.share import EmbeddedPostgres
from tests.servers import free_port

DEBIAN = Path("/usr/lib/postgresql")


@dataclass(frozen=True)
class Server:
    """A running Postgres. `pid`: of its postmaster, for faults; `data`: its data directory."""

    url: str
    pid: int
    data: Path

    def signal(self, number: signal.Signals) -> None:
        os.kill(self.pid, number)


@contextlib.contextmanager
def embedded() -> Iterator[Server]:
    """The embedded Postgres, in a folder of its own."""
    folder = Path(tempfile.mkdtemp(prefix="longrun-pg-"))
    postgres = EmbeddedPostgres.start(folder)
    data = folder / "postgres"
    try:
        yield Server(postgres.url, int((data / "postmaster.pid").read_text().split()[0]), data)
    finally:
        postgres.stop()
        shutil.rmtree(folder, ignore_errors=True)


def installed_versions() -> list[int]:
    """Major versions of Postgres whose server is installed from Debian's packages."""
    return sorted(
        int(folder.name)
        for folder in (DEBIAN.iterdir() if DEBIAN.exists() else ())
        if folder.name.isdigit() and (folder / "bin" / "postgres").exists()
    )


@contextlib.contextmanager
def debian(version: int) -> Iterator[Server]:
    """A Postgres of another major version, on a socket in a folder of its own."""
    binaries = DEBIAN / str(version) / "bin"
    folder = Path(tempfile.mkdtemp(prefix=f"longrun-pg{version}-"))
    data = folder / "data"
    user = "postgres" if os.geteuid() == 0 else None
    if user:
        folder.chmod(0o755)
        shutil.chown(folder, user)

    def run(*command: str) -> None:
        subprocess.run(
            command,
            check=True,
            user=user,
            cwd="/",
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            env={"PATH": os.environ["PATH"], "LC_ALL": "C.UTF-8"},
        )

    run(str(binaries / "initdb"), "-D", str(data), "-U", "postgres", "-A", "trust", "-E", "UTF8")
    options = f"-c listen_addresses='' -c unix_socket_directories={folder} -c max_connections=200"
    run(
        str(binaries / "pg_ctl"),
        "-D",
        str(data),
        "-w",
        "-l",
        str(folder / "log"),
        "-o",
        options,
        "start",
    )
    try:
        pid = int((data / "postmaster.pid").read_text().split()[0])
        yield Server(f"postgresql://postgres@/postgres?host={folder}", pid, data)
    finally:
        run(str(binaries / "pg_ctl"), "-D", str(data), "-m", "immediate", "-w", "stop")
        shutil.rmtree(folder, ignore_errors=True)


@dataclass
class Pair:
    """A primary and its hot standby, by streaming replication.

    Attributes:
        url: names both, the standby first.
    """

    url: str
    primary: Server
    standby: Server
    _control: Callable[..., None]
    _options: str
    """That the standby is started with."""

    def freeze_replication(self) -> None:
        """From now on the standby gets nothing of what the primary commits."""
        self._to_senders(signal.SIGSTOP)

    def thaw_replication(self) -> None:
        """It gets all of it."""
        self._to_senders(signal.SIGCONT)

    def _to_senders(self, number: signal.Signals) -> None:
        for process in psutil.Process(self.primary.pid).children():
            if "walsender" in " ".join(process.cmdline()):
                process.send_signal(number)

    def freeze_standby(self) -> None:
        """It answers nothing, and its connections stay open."""
        for each in self._of_standby():
            each.suspend()

    def thaw_standby(self) -> None:
        for each in reversed(self._of_standby()):
            each.resume()

    def _of_standby(self) -> list[psutil.Process]:
        process = psutil.Process(self.standby.pid)
        return [process, *process.children(recursive=True)]

    def end_standby(self) -> None:
        """It is gone at once, with all its connections."""
        self._control(self.standby.data, "-m", "immediate", "stop")

    def start_standby(self) -> None:
        """It is there again, on its port."""
        self._control(self.standby.data, "start", "-o", self._options)
        pid = int((self.standby.data / "postmaster.pid").read_text().split()[0])
        self.standby = replace(self.standby, pid=pid)

    def fail_over(self) -> None:
        """The primary is gone at once, with all its connections; the standby takes its role."""
        process = psutil.Process(self.primary.pid)
        for each in [process, *process.children(recursive=True)]:
            with contextlib.suppress(psutil.NoSuchProcess):
                each.kill()
        self._control(self.standby.data, "promote")


@contextlib.contextmanager
def pair(*, synchronous: bool) -> Iterator[Pair]:
    """Two of the embedded Postgres, on ports of 127.0.0.1.

    Args:
        synchronous: a commit is acknowledged when the standby has it.
    """
    binaries = installed_binaries()[0]
    folder = Path(tempfile.mkdtemp(prefix="longrun-pair-"))
    account = Account.of(folder / "primary")
    folder.chmod(0o755)
    account.own(folder)

    def run(command: str, *arguments: str) -> None:
        subprocess.run(
            [str(binaries / command), *arguments],
            check=True,
            user=account.uid,
            group=account.gid,
            cwd=folder,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            env={"PATH": os.environ["PATH"], "LC_ALL": "C.UTF-8"},
        )

    def control(data: Path, *arguments: str) -> None:
        run("pg_ctl", "-D", str(data), "-w", "-l", f"{data}.log", *arguments)

    def options_of(port: int) -> str:
        return f"-p {port} -c unix_socket_directories='' -c max_connections=200 -c fsync=off"

    def start(name: str, port: int, more: str = "") -> Server:
        data = folder / name
        control(data, "-o", f"{options_of(port)} {more}", "start")
        pid = int((data / "postmaster.pid").read_text().split()[0])
        return Server(f"postgresql://postgres@127.0.0.1:{port}/postgres", pid, data)

    ports = (free_port(), free_port())
    run("initdb", "-D", "primary", "-U", "postgres", "-A", "trust", "-E", "UTF8")
    names = "*" if synchronous else ""
    primary = start("primary", ports[0], f"-c synchronous_standby_names='{names}'")
    try:
        way = ("-h", "127.0.0.1", "-p", str(ports[0]), "-U", "postgres")
        run("pg_basebackup", "-D", "standby", *way, "-R", "-X", "stream", "-c", "fast")
        standby = start("standby", ports[1])
        hosts = ",".join(f"127.0.0.1:{port}" for port in reversed(ports))
        try:
            url = f"postgresql://postgres@{hosts}/postgres"
            yield Pair(url, primary, standby, control, options_of(ports[1]))
        finally:
            control(standby.data, "-m", "immediate", "stop")
    finally:
        with contextlib.suppress(subprocess.CalledProcessError):
            control(primary.data, "-m", "immediate", "stop")
        shutil.rmtree(folder, ignore_errors=True)
