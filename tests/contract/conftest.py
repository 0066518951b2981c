"""A replica with limits that are quick to reach."""

from collections.abc import Iterator

import pytest

from tests import servers
from tests.postgres import Server
from tests.servers import Replica

MAX_BODY_BYTES = 100_000
MAX_BODIES_BYTES = 150_000
KEEPALIVE_INTERVAL = 0.3


@pytest.fixture(scope="package")
def tight(database: Server) -> Iterator[Replica]:
    """A replica that takes small bodies, and whose streams are never silent for long."""
    environment = {
        "LONGRUN_MAX_BODY_BYTES": str(MAX_BODY_BYTES),
        "LONGRUN_MAX_BODIES_BYTES": str(MAX_BODIES_BYTES),
        "LONGRUN_KEEPALIVE_INTERVAL": str(KEEPALIVE_INTERVAL),
    }
    with servers.replicas(1, database.url, schema="tight", environment=environment) as started:
        yield started[0]
