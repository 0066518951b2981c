"""A real Postgres for the tests: the embedded one, or the server binaries of a Debian package."""

import contextlib
import os
import shutil
import signal
import subprocess
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from longrun.embedded.share import EmbeddedPostgres

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
