"""The memory of a replica while something very long is made on it, polled, and replayed."""

import http.client
import time
from collections.abc import Callable
from pathlib import Path
from typing import Final

from tests import servers
from tests.bench import runs
from tests.bench.agents import AGENTS, LONG, Length
from tests.bench.figure import Figure, Ground, Line
from tests.servers import Replica

SCHEMA: Final = "bench_memory"
MIB: Final = 1024 * 1024
ENVIRONMENT: Final = {"LONGRUN_MAX_ITEM_BYTES": str(128 * MIB)}
READ_BYTES: Final = 64 * 1024
PATIENCE: Final = 600.0


def _measure(ground: Ground) -> list[Line]:
    part = ground.pick(full=1, quick=20)
    lengths = {
        "1,000,000 deltas": Length(text=11_000_000 // part, delta=11),
        "10,000 items": Length(text=10_000_000 // part, messages=10_000 // part),
        "100 MB in 10 items": Length(text=100_000_000 // part, messages=10),
        "100 MB in one item": Length(text=100_000_000 // part),
    }
    ground.planned(3 * len(lengths))
    lines = []
    for what, length in lengths.items():
        lines += _grown(ground, what if part == 1 else f"1/{part} of {what}", length)
    return lines


def _grown(ground: Ground, what: str, length: Length) -> list[Line]:
    """On a replica of its own, beside the bytes of the text."""
    url, text = ground.postgres.url, length.text / MIB
    with servers.replicas(1, url, schema=SCHEMA, agents=AGENTS, environment=ENVIRONMENT) as (
        replica,
    ):
        warm = runs.create(replica, Length(text=8), LONG)
        runs.wait_for_ends(url, SCHEMA, [warm])
        ground.said(f"{what}: run")
        ids: list[str] = []

        def run() -> None:
            ids.append(runs.create(replica, length, LONG))
            runs.wait_for_ends(url, SCHEMA, ids, PATIENCE)

        grown = {"run": _peak(replica, run)}
        path = f"/v1/responses/{ids[0]}"
        ground.said(f"{what}: poll")
        grown["poll"] = _peak(replica, lambda: _read(ground, replica, path, b'"completed"'))
        ground.said(f"{what}: replay")
        replayed = f"{path}?stream=true"
        grown["replay"] = _peak(replica, lambda: _read(ground, replica, replayed, b"[DONE]"))
        if replica.process.poll() is not None:
            ground.problems.append(f"{what}: the replica ended")
    return [Line(f"{what}: {how}", "MiB", [(text, peak)]) for how, peak in grown.items()]


def _peak(replica: Replica, work: Callable[[], None]) -> float:
    """How much more memory a replica had at most during some work than before, in MiB."""
    process = Path(f"/proc/{replica.process.pid}")
    (process / "clear_refs").write_text("5")
    before = _kib(process, "VmRSS:")
    work()
    time.sleep(0.5)
    return (_kib(process, "VmHWM:") - before) / 1024


def _kib(process: Path, name: str) -> int:
    return int((process / "status").read_text().partition(name)[2].split()[0])


def _read(ground: Ground, replica: Replica, path: str, contains: bytes) -> None:
    """A GET whose answer is too long to be kept."""
    connection = http.client.HTTPConnection(replica.url.removeprefix("http://"), timeout=PATIENCE)
    connection.request("GET", path)
    answer = connection.getresponse()
    found, before = answer.status == 200, b""
    seen = False
    while part := answer.read(READ_BYTES):
        seen = seen or contains in before + part
        before = part[-100:]
    connection.close()
    if not (found and seen):
        ground.problems.append(f"GET {path}: {answer.status} {before!r}")


MEMORY: Final = Figure(
    name="memory",
    title="how a replica's memory grows with what is very long, at most",
    floor="the bytes of the text",
    measure=_measure,
)
