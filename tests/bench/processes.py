"""Work in processes of its own: a function of ours, called in a fresh one, on uvloop.

`start(function, key=value, …)` calls `async function(parent, key=value, …)` in a new process.
Arguments and result travel as JSON over its standard input and output. Its standard error is
ours.
"""

import asyncio
import contextlib
import importlib
import json
import os
import subprocess
import sys
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import uvloop

REPOSITORY = Path(__file__).resolve().parents[2]

Work = Callable[..., Awaitable[Any]]


class Failed(RuntimeError):
    """The process ended without a result; what it wrote to standard error says why."""


class Parent:
    """The starting process, as the started one sees it."""

    def __init__(self, stop: asyncio.Event) -> None:
        self.stop = stop

    def ready(self, value: Any = None) -> None:
        """Tell that the preparations are done."""
        _say({"ready": value})

    async def stopped(self) -> None:
        """Wait until the parent calls `stop`."""
        await self.stop.wait()


@dataclass(slots=True)
class Child:
    """A started process."""

    process: subprocess.Popen[str]

    def ready(self) -> Any:
        """Wait for its `Parent.ready`; returns what was given there.

        Raises:
            Failed: it ended.
        """
        return self._read()["ready"]

    def stop(self) -> None:
        """Set `Parent.stop`. Idempotent."""
        assert self.process.stdin is not None
        self.process.stdin.close()

    def result(self) -> Any:
        """Wait for what the function returns.

        Raises:
            Failed: it raised.
        """
        answer = self._read()["result"]
        self.stop()
        self.process.wait()
        return answer

    def _read(self) -> Any:
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        if not line:
            raise Failed(f"{' '.join(map(str, self.process.args))} ended")  # type: ignore[arg-type]
        return json.loads(line)

    def end(self) -> None:
        """End it, whatever it does."""
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait()
        for pipe in (self.process.stdin, self.process.stdout):
            assert pipe is not None
            pipe.close()


@contextlib.contextmanager
def started(work: Work, **arguments: Any) -> Iterator[Child]:
    """Call `work` in a new process, which is ended with the block."""
    name = f"{work.__module__}:{work.__qualname__}"
    process = subprocess.Popen(
        [sys.executable, "-m", "tests.bench.processes", name],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        cwd=REPOSITORY,
        env={k: v for k, v in os.environ.items() if not k.startswith(("LONGRUN_", "OPENAI_"))},
    )
    child = Child(process)
    try:
        assert process.stdin is not None
        process.stdin.write(json.dumps(arguments) + "\n")
        process.stdin.flush()
        yield child
    finally:
        child.end()


def call(work: Work, **arguments: Any) -> Any:
    """Call `work` in a new process and wait for its result."""
    with started(work, **arguments) as child:
        return child.result()


def _say(message: dict[str, Any]) -> None:
    sys.stdout.write(json.dumps(message) + "\n")
    sys.stdout.flush()


async def _work(name: str) -> Any:
    module, _, path = name.partition(":")
    work = getattr(importlib.import_module(module), path)
    arguments = json.loads(sys.stdin.readline())
    stop = asyncio.Event()

    def said() -> None:
        if not sys.stdin.read(1):
            asyncio.get_running_loop().remove_reader(sys.stdin)
            stop.set()

    asyncio.get_running_loop().add_reader(sys.stdin, said)
    return await work(Parent(stop), **arguments)


if __name__ == "__main__":
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        _say({"result": runner.run(_work(sys.argv[1]))})
