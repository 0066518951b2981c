"""How many cores this process may use: what it is pinned to, and the limits of its cgroups."""

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Final

CGROUPS: Final = Path("/sys/fs/cgroup")

OF_THIS_PROCESS: Final = Path("/proc/self/cgroup")


def available(cgroups: Path = CGROUPS, of_process: Path = OF_THIS_PROCESS) -> int:
    """Whole cores, at least 1. Of a limit of 2.5, two are whole: a third worker would be stopped
    half of the time, and the runs on it with it.

    Args:
        cgroups: where the hierarchy of cgroups is mounted.
        of_process: the file that says which cgroups this process is in.
    """
    cores = float(_pinned())
    for limit in _limits(cgroups, of_process):
        cores = min(cores, limit)
    return max(1, int(cores))


def _pinned() -> int:
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def _limits(cgroups: Path, of_process: Path) -> Iterator[float]:
    """The limits, in cores, of the cgroups that this process is in and of those around them."""
    try:
        lines = of_process.read_text().splitlines()
    except OSError:
        return
    for line in lines:
        _, controllers, path = line.split(":", 2)
        if not controllers:
            yield from _along(cgroups, path, "cpu.max")
        elif "cpu" in controllers.split(","):
            for mounted in (controllers, "cpu"):
                yield from _along(cgroups / mounted, path, "cpu.cfs_quota_us")


def _along(root: Path, path: str, name: str) -> Iterator[float]:
    """The limits in the files of this name, from a cgroup up to the root. In a container the path
    may be that of the host, and the cgroup is the root."""
    folder = root / path.lstrip("/")
    for each in (folder, *folder.parents):
        with contextlib.suppress(OSError, ValueError):
            limit = _limit((each / name).read_text(), each)
            if limit is not None:
                yield limit
        if each == root:
            return


def _limit(text: str, folder: Path) -> float | None:
    """`cpu.max` of version 2 has quota and period, `max` for none; version 1 has a file for each,
    and -1 for none."""
    quota, *rest = text.split()
    if quota in ("max", "-1"):
        return None
    period = rest[0] if rest else (folder / "cpu.cfs_period_us").read_text()
    return int(quota) / int(period)
