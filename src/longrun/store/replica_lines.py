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


def agent_unserved(agent: str, waiting: int, oldest: float) -> None:
    """Responses wait for an agent, and no replica that is alive serves it.

    Args:
        waiting: how many.
        oldest: seconds that the first of them has waited.
    """
    tell(log, "agent unserved", logging.WARNING, agent=agent, waiting=waiting, oldest=oldest)


def agent_served_again(agent: str) -> None:
    """Nothing waits any longer for an agent that no replica serves."""
    tell(log, "agent served again", agent=agent)
