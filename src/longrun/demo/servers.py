"""Two replicas of the demonstration's own, as processes on one temporary database."""

import asyncio
import contextlib
import os
import shutil
import socket
import sys
import tempfile
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path

import httpx2

READY_SECONDS = 60.0
STOP_SECONDS = 15.0


class NotStarted(RuntimeError):
    """A replica of the demonstration did not become ready; a note has what it wrote."""


@dataclass(frozen=True, slots=True)
class Process:
    """A replica started here, and the file that has what it writes."""

    url: str
    process: asyncio.subprocess.Process
    output: Path


@contextlib.asynccontextmanager
async def two_replicas() -> AsyncIterator[list[str]]:
    """Start two replicas on one fresh database, and stop and remove both at the end.

    Yields:
        Their URLs, when both are ready.

    Raises:
        NotStarted: one ended, or was not ready within `READY_SECONDS`. To this and every other
            exception of the body is added what the replicas wrote.
    """
    folder = Path(tempfile.mkdtemp(prefix="longrun-demo-"))
    started: list[Process] = []
    try:
        for port in _free_ports(2):
            started.append(await _start(port, folder))
        for each in started:
            await _ready(each)
        yield [each.url for each in started]
    except Exception as error:
        for each in started:
            error.add_note(_said(each))
        raise
    finally:
        await asyncio.gather(*(_stop(each.process) for each in started))
        await asyncio.to_thread(shutil.rmtree, folder, ignore_errors=True)


def _free_ports(count: int) -> list[int]:
    with contextlib.ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(count)]
        for each in sockets:
            each.bind(("127.0.0.1", 0))
        return [each.getsockname()[1] for each in sockets]


async def _start(port: int, folder: Path) -> Process:
    output = folder / f"replica-{port}.log"
    command = [sys.executable, "-m", "longrun", "serve", "--host", "127.0.0.1"]
    command += ["--port", str(port), "--data-dir", str(folder / "data"), "--log-level", "warning"]
    # The demonstration is complete in itself: settings meant for real servers, above all
    # their database, must not reach it.
    environment = {k: v for k, v in os.environ.items() if not k.startswith("LONGRUN_")}
    environment["LONGRUN_DRAIN_SECONDS"] = "3"
    with output.open("wb") as file:
        process = await asyncio.create_subprocess_exec(
            *command,
            stdin=asyncio.subprocess.DEVNULL,
            stdout=file,
            stderr=file,
            env=environment,
            # A Ctrl-C in the terminal is for the demonstration, which stops them in order.
            start_new_session=True,
        )
    return Process(f"http://127.0.0.1:{port}", process, output)


async def _ready(each: Process) -> None:
    try:
        async with asyncio.timeout(READY_SECONDS), httpx2.AsyncClient(trust_env=False) as client:
            while not await _answers(client, each.url):
                if each.process.returncode is not None:
                    raise NotStarted(f"a replica ended with {each.process.returncode}")
                await asyncio.sleep(0.1)
    except TimeoutError:
        raise NotStarted(f"a replica was not ready after {READY_SECONDS:g} s") from None


async def _answers(client: httpx2.AsyncClient, url: str) -> bool:
    try:
        return (await client.get(f"{url}/readyz")).status_code == 200
    except httpx2.TransportError:
        return False


def _said(each: Process) -> str:
    said = each.output.read_text(errors="replace").strip() or "nothing"
    return f"the replica on {each.url} wrote: {said}"


async def _stop(process: asyncio.subprocess.Process) -> None:
    with contextlib.suppress(ProcessLookupError):
        process.terminate()
    try:
        async with asyncio.timeout(STOP_SECONDS):
            await process.wait()
    except TimeoutError:
        with contextlib.suppress(ProcessLookupError):
            process.kill()
        await process.wait()
