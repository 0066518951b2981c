"""A Postgres that may be hurt: stopped, restarted, frozen."""

import contextlib
import os
import signal
import subprocess
from typing import Any

import psutil

from longrun.embedded.binaries import installed_binaries
from tests import postgres


class OwnPostgres:
    """A Postgres that may be hurt."""

    def __init__(self, server: postgres.Server) -> None:
        self.server = server
        self._binaries = installed_binaries()[0]
        self._user: dict[str, Any] = {}
        if os.geteuid() == 0:
            # Postgres does not run as root; whose the data is, it runs as.
            owner = server.data.stat()
            self._user = {"user": owner.st_uid, "group": owner.st_gid, "extra_groups": []}
        # The options of the first start, to be used for each that follows.
        options = (server.data / "postmaster.opts").read_text().split()[1:]
        self._options = " ".join(option.strip('"') for option in options if "-D" not in option)
        place = self._options.split().index("postgres") if "postgres" in self._options else 0
        self._options = " ".join(self._options.split()[place + 1 :])

    def _pg_ctl(self, *arguments: str) -> None:
        subprocess.run(
            [str(self._binaries / "pg_ctl"), "-D", "postgres", *arguments],
            cwd=self.server.data.parent,
            env={"PATH": "/usr/bin:/bin", "LC_ALL": "C"},
            check=True,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            **self._user,
        )

    def stop(self, mode: str) -> None:
        self._pg_ctl("-m", mode, "-w", "stop")

    def start(self, more: str = "") -> None:
        self._pg_ctl("-o", f"{self._options} {more}", "-l", "postgres/log", "-w", "start")

    def restart(self, mode: str) -> None:
        self.stop(mode)
        self.start()

    def kill(self, pid: int) -> None:
        """Kill one backend: Postgres then ends all of them, and recovers."""
        psutil.Process(pid).kill()

    def pid(self) -> int:
        return int((self.server.data / "postmaster.pid").read_text().split()[0])

    def freeze(self, frozen: bool) -> None:
        """The whole cluster: nobody answers, and nobody hangs up."""
        process = psutil.Process(self.pid())
        for each in [process, *process.children(recursive=True)]:
            # A backend may have ended meanwhile.
            with contextlib.suppress(psutil.NoSuchProcess):
                each.send_signal(signal.SIGSTOP if frozen else signal.SIGCONT)
