"""A process's share in the Postgres of a data dir: the first starts it, the last stops it.

A user is a shared flock on `users.lock`, which no death outlives; `start.lock` makes starting and
stopping a matter of one process at a time.
"""

import atexit
import contextlib
import fcntl
import logging
import os
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Self
from urllib.parse import quote

from longrun.embedded.binaries import installed_binaries
from longrun.embedded.folder import ELSEWHERE, STOP_SECONDS, FolderPostgres
from longrun.embedded.postmaster import PORT
from longrun.errors import ConfigurationError

log = logging.getLogger("longrun.embedded")


@dataclass(slots=True, eq=False)
class EmbeddedPostgres:
    """This process's share in the Postgres of a data dir."""

    url: str
    """A libpq URL, through a unix socket."""
    data_dir: Path
    _users: int | None
    _pid: int
    _stopping: threading.Lock = field(default_factory=threading.Lock)

    @classmethod
    def start(cls, data_dir: Path) -> Self:
        """Use the Postgres of `data_dir`, which is created and started if necessary.

        Blocks, for a second when the data dir is new: call it before the event loop runs.

        Raises:
            ConfigurationError: the package is not installed, the folder cannot be used,
                or Postgres does not start; the message says what to do.
        """
        binaries, version = installed_binaries()
        try:
            folder = data_dir.expanduser().resolve()
            folder.mkdir(parents=True, exist_ok=True)
            users = _open_lock(folder / "users.lock")
            try:
                fcntl.flock(users, fcntl.LOCK_SH)
                with _one_at_a_time(folder):
                    socket_dir = FolderPostgres(folder, binaries, version).ensure_running()
            except BaseException:  # Ctrl-C too: leave no Postgres behind without a user
                _leave(folder, users)
                raise
        except OSError as error:
            problem = f"The embedded Postgres cannot use {data_dir}: {error}."
            raise ConfigurationError(f"{problem} {ELSEWHERE}") from error
        url = f"postgresql://postgres@/postgres?host={quote(str(socket_dir))}&port={PORT}"
        postgres = cls(url, folder, users, os.getpid())
        atexit.register(postgres.stop)
        return postgres

    def stop(self, seconds: float = STOP_SECONDS) -> None:
        """Give up this share; Postgres stops when nobody else has one. May be called again.

        Args:
            seconds: what Postgres has to stop in order, and again to stop at once.
        """
        with self._stopping:  # a second caller must not exit the process before the first is done
            users, self._users = self._users, None
            if users is not None:
                self._give_up(users, seconds)

    def _give_up(self, users: int, seconds: float) -> None:
        atexit.unregister(self.stop)
        if os.getpid() != self._pid:  # a fork's copy: the share is its parent's
            os.close(users)
            return
        try:
            _leave(self.data_dir, users, seconds)
        except FileNotFoundError:
            log.info("%s is gone; its Postgres will notice within a minute", self.data_dir)
        except (OSError, ConfigurationError):
            log.warning("the embedded Postgres in %s was not stopped", self.data_dir, exc_info=True)


def _leave(folder: Path, users: int, seconds: float = STOP_SECONDS) -> None:
    """Close `users`, the lock of a user, and stop Postgres if it was the last."""
    try:
        with _one_at_a_time(folder):
            # Where the folder was removed and made again, its Postgres is not the one we used.
            same = os.path.samestat(os.fstat(users), os.stat(folder / "users.lock"))
            if same and _is_last(users):
                FolderPostgres(folder, *installed_binaries()).stop(seconds)
    finally:
        os.close(users)


def _is_last(users: int) -> bool:
    try:
        fcntl.flock(users, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:  # somebody holds a share
        return False
    return True


@contextlib.contextmanager
def _one_at_a_time(folder: Path) -> Iterator[None]:
    lock = _open_lock(folder / "start.lock")
    try:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield
    finally:
        os.close(lock)


def _open_lock(path: Path) -> int:
    return os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o600)
