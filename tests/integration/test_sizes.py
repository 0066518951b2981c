"""What a run produces has a largest size: one that exceeds it fails in words, and no other."""

import asyncio

import pytest

from tests import servers
from tests.postgres import Server
from tests.reading import check_complete, create, finished, in_background, read, script, stream_url


@pytest.mark.parametrize("parts", [1, 300], ids=["at once", "in deltas"])
async def test_a_message_larger_than_an_item_may_be(
    database: Server, schema: str, parts: int
) -> None:
    environment = {"LONGRUN_MAX_ITEM_BYTES": "65536"}
    with servers.replicas(1, database.url, schema=schema, environment=environment) as (replica,):
        large = await in_background(replica, deltas=parts, delta="x" * (300_000 // parts))
        others = [create(replica, script(deltas=20, delta="y" * 1000)) for _ in range(5)]
        for other in await asyncio.gather(*others):
            assert other["status"] == "completed"
        end = await finished(replica, large)
        assert end["status"] == "failed"
        assert "LONGRUN_MAX_ITEM_BYTES" in end["error"]["message"]
        assert end["output"] == []
        reading = check_complete(await read(stream_url(replica, large)), with_ids=True)
        assert reading.types[-1] == "response.failed"
        assert reading.events[-1]["response"] == end
