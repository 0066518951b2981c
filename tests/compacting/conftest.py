"""Two replicas whose models are asked to compact with a script of the provider's."""

import json
from collections.abc import Iterator

import pytest

from tests import servers
from tests.compacting.agents import AGENTS, SUMMARY
from tests.postgres import Server
from tests.provider.agents import environment
from tests.provider.server import Provider
from tests.servers import Replica

INTERVAL = 0.2
"""Seconds after which a plain answer sends a space."""

PROMPT = json.dumps({"then": SUMMARY})


@pytest.fixture(scope="package")
def pair(database: Server, running_provider: Provider) -> Iterator[list[Replica]]:
    """Two replicas of one database."""
    given = environment(running_provider) | {
        "LONGRUN_COMPACTION_PROMPT": PROMPT,
        "LONGRUN_KEEPALIVE_INTERVAL": str(INTERVAL),
    }
    with servers.replicas(
        2, database.url, schema="compacting", agents=AGENTS, environment=given
    ) as started:
        yield started
