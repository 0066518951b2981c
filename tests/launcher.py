"""Starts replicas by forking a process that has imported everything, which takes two seconds.

A replica is a process of its own all the same, with its own pid, signals, sockets and exit status.
It shares nothing with others but what was in memory when nothing had happened yet.
"""

import contextlib
import functools
import importlib
import json
import os
import runpy
import select
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

ROOT: Final = Path(__file__).resolve().parents[1]

IMPORTED: Final = (
    *("longrun.cli.command", "longrun.cli.serving", "longrun.app", "longrun.demo.agents"),
    *("longrun.serving.server", "tests.scripted", "tests.faults.agents"),
)

LONGEST: Final = 1 << 20
"""Bytes of a message: an environment."""


class Launched:
    """A process that was started so, with what is asked of a `subprocess.Popen`."""

    def __init__(self, launcher: "Launcher", pid: int, args: Sequence[str]) -> None:
        self.pid, self.args = pid, args
        self.returncode: int | None = None
        self._launcher = launcher
        self._pidfd = os.pidfd_open(pid)

    def poll(self) -> int | None:
        """Its exit status, negative for a signal; None while it runs."""
        return self._status(0.0)

    def wait(self, timeout: float | None = None) -> int:
        """Its exit status, once it has ended.

        Raises:
            subprocess.TimeoutExpired: it has not.
        """
        status = self._status(timeout)
        if status is None:
            raise subprocess.TimeoutExpired(list(self.args), timeout or 0.0)
        return status

    def send_signal(self, number: int) -> None:
        """As long as it has not ended."""
        if self.poll() is None:
            with contextlib.suppress(ProcessLookupError):
                signal.pidfd_send_signal(self._pidfd, number)

    def terminate(self) -> None:
        self.send_signal(signal.SIGTERM)

    def kill(self) -> None:
        self.send_signal(signal.SIGKILL)

    def _status(self, timeout: float | None) -> int | None:
        if self.returncode is None:
            found = select.poll()
            found.register(self._pidfd, select.POLLIN)
            if found.poll(None if timeout is None else timeout * 1000):
                self.returncode = self._launcher.status_of(self.pid)
                os.close(self._pidfd)
        return self.returncode


class Launcher:
    """The process that forks, one for each process of tests."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._socket, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self._process = subprocess.Popen(
            [sys.executable, "-m", "tests.launcher", str(theirs.fileno())],
            pass_fds=[theirs.fileno()],
            cwd=ROOT,
        )
        theirs.close()

    def start(self, command: Sequence[str], environment: Mapping[str, str], log: int) -> Launched:
        """`python -m longrun` with these arguments; it writes to the file of this descriptor."""
        asked = {"command": list(command), "environment": dict(environment)}
        with self._lock:
            socket.send_fds(self._socket, [json.dumps(asked).encode()], [log])
            pid = int(self._answer())
        return Launched(self, pid, command)

    def status_of(self, pid: int) -> int:
        """The exit status of a process that has ended; it is gone then."""
        with self._lock:
            self._socket.send(json.dumps({"ended": pid}).encode())
            return int(self._answer())

    def _answer(self) -> Any:
        answer = self._socket.recv(LONGEST)
        assert answer, "the launcher has ended"
        return json.loads(answer)


@functools.cache
def launcher() -> Launcher:
    """That of this process."""
    return Launcher()


def _serve(asking: socket.socket) -> dict[str, Any] | None:
    """Answer what is asked until nobody is left; in a forked process, what it is to become."""
    while True:
        message, files, _, _ = socket.recv_fds(asking, LONGEST, 1)
        if not message:
            return None
        asked: dict[str, Any] = json.loads(message)
        if "ended" in asked:
            _, status = os.waitpid(asked["ended"], 0)
            asking.send(json.dumps(os.waitstatus_to_exitcode(status)).encode())
            continue
        pid = os.fork()
        if pid == 0:
            asking.close()
            for standard in (1, 2):
                os.dup2(files[0], standard)
            os.close(files[0])
            return asked
        os.close(files[0])
        asking.send(json.dumps(pid).encode())


def _become(asked: dict[str, Any]) -> None:
    os.environ.clear()
    os.environ.update(asked["environment"])
    time.tzset()
    sys.argv = ["longrun", *asked["command"]]
    sys.orig_argv = [sys.executable, "-m", "longrun", *asked["command"]]
    runpy.run_module("longrun", run_name="__main__", alter_sys=True)


if __name__ == "__main__":
    for name in IMPORTED:
        importlib.import_module(name)
    assert threading.active_count() == 1, threading.enumerate()
    found = _serve(socket.socket(fileno=int(sys.argv[1])))
    if found is not None:
        _become(found)
