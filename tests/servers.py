"""Real server processes for the tests, started on free ports and ended by their own pid."""

import base64
import contextlib
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from tests.launcher import Launched, launcher

REPOSITORY = Path(__file__).resolve().parents[1]
AGENTS = "tests.scripted:agents"

KEY_RING = {"LONGRUN_ENCRYPTION_KEYS": "tests:" + base64.b64encode(b"k" * 32).decode()}
"""With these in its environment, a replica encrypts what it stores."""

SEALED = KEY_RING if os.environ.get("SEALED") else {}
"""With SEALED=1 in the environment, everything that the tests store is encrypted."""


_IMPORTING = {
    "PYTHONPATH",
    "PYTHONWARNINGS",
    "PYTHONASYNCIODEBUG",
    "PYTHONDEVMODE",
    "LONGRUN_WORKERS",
}
"""What is of importance before anything is imported, or for the processes that one starts."""


@dataclass
class Replica:
    """One `longrun serve`."""

    url: str
    process: subprocess.Popen[bytes] | Launched
    log: Path
    environment: dict[str, str] = field(default_factory=dict)

    @property
    def base_url(self) -> str:
        """For the `openai` client."""
        return self.url + "/v1"

    def signal(self, number: signal.Signals) -> None:
        self.process.send_signal(number)

    def wait(self, timeout: float = 30) -> int:
        return self.process.wait(timeout)

    def end(self) -> None:
        """End the process, kindly at first."""
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGCONT)
            self.process.terminate()
            try:
                self.process.wait(15)
            except subprocess.TimeoutExpired:
                self.process.kill()
                self.process.wait()

    def output(self) -> str:
        return self.log.read_text()


def start(
    database_url: str | None = None,
    *,
    schema: str = "longrun",
    agents: str = AGENTS,
    arguments: tuple[str, ...] = (),
    environment: dict[str, str] | None = None,
    port: int | None = None,
    tree: Path | None = None,
    wait: bool = True,
) -> Replica:
    """Start a replica, on a free port unless it is given; wait until it is ready.

    Args:
        tree: where the code is, of another version than this one.
    """
    handle, name = tempfile.mkstemp(prefix="longrun-serve-", suffix=".log")
    given = {"LONGRUN_SCHEMA": schema, **SEALED, **(environment or {})}
    if database_url:
        given["LONGRUN_DATABASE_URL"] = database_url
    inherited = {k: v for k, v in os.environ.items() if not k.startswith(("LONGRUN_", "OPENAI_"))}
    port = port or free_port()
    command = ["serve", *agents.split(), "--port", str(port), *arguments]
    whole = {**inherited, **given}
    process: subprocess.Popen[bytes] | Launched
    if tree is None and "--workers" not in arguments and not _IMPORTING & given.keys():
        process = launcher().start(command, whole, handle)
    else:
        process = subprocess.Popen(
            [sys.executable, "-m", "longrun", *command],
            stdout=handle,
            stderr=handle,
            cwd=tree or REPOSITORY,
            env={**whole, **({"PYTHONPATH": str(tree / "src")} if tree else {})},
        )
    os.close(handle)
    replica = Replica(f"http://127.0.0.1:{port}", process, Path(name), given)
    if wait:
        wait_ready(replica)
    return replica


@contextlib.contextmanager
def replicas(count: int, database_url: str, **options: object) -> Iterator[list[Replica]]:
    """Some replicas on one database. What is still live in them at the end is not waited for."""
    started: list[Replica] = []
    try:
        for _ in range(count):
            started.append(start(database_url, wait=False, **options))  # type: ignore[arg-type]
        for replica in started:
            wait_ready(replica)
        yield started
    finally:
        for replica in started:
            if replica.process.poll() is None:
                replica.process.send_signal(signal.SIGCONT)
                replica.process.terminate()
        for replica in started:
            with contextlib.suppress(subprocess.TimeoutExpired):
                replica.process.wait(2)
            # Of one that still drains, a second signal is the end.
            replica.end()
            replica.log.unlink(missing_ok=True)


def wait_ready(replica: Replica, timeout: float = 60) -> None:
    """Poll `/readyz` until it says yes."""
    deadline = time.monotonic() + timeout
    while time.monotonic() < deadline:
        if replica.process.poll() is not None:
            raise AssertionError(f"the server ended: {replica.output()}")
        with (
            # Gunicorn listens before it serves: then an answer may not come in time.
            contextlib.suppress(urllib.error.URLError, ConnectionError, TimeoutError),
            urllib.request.urlopen(replica.url + "/readyz", timeout=5) as answer,
        ):
            if answer.status == 200:
                return
        time.sleep(0.05)
    raise AssertionError(f"not ready after {timeout} s: {replica.output()}")


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
