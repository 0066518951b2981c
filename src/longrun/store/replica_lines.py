"""The log's lines about replicas: one when a replica comes, goes, or is found dead."""

import logging
from typing import Final

from longrun.loglines import tell

log: Final = logging.getLogger("longrun.replicas")


def replica_started(replica: str, host: str, pid: int, version: str) -> None:
    """This replica holds its lease: the others see it, and it may execute runs."""
    tell(log, "replica started", replica=replica, host=host, pid=pid, version=version)


def replica_stopped(replica: str, duration: float) -> None:
    """This replica has given up its lease.

    Args:
        duration: seconds since it took it.
    """
    tell(log, "replica stopped", replica=replica, duration=duration)


def replica_died(replica: str, runs: int, *, seen_by: str) -> None:
    """Another replica is gone without having handed over its runs.

    Args:
        runs: how many it was executing.
    """
    tell(log, "replica died", logging.WARNING, replica=replica, runs=runs, seen_by=seen_by)
