"""Polls of responses that are long."""

import asyncio
import json

from tests.reading import Wire, finished, in_background, read
from tests.servers import Replica


async def test_each_of_many_polls_has_all_of_it(two: list[Replica]) -> None:
    text = "0123456789" * 60_000
    turn = [text, ["echo", {"text": "x"}]]
    response_id = await in_background(two[0], turns=[turn, turn], deltas=1, delta="end")
    found = await finished(two[1], response_id)
    messages = [item for item in found["output"] if item["type"] == "message"]
    assert [item["content"][0]["text"] for item in messages] == [text, text, "end"]
    path = f"/responses/{response_id}"
    answers = await asyncio.gather(*(read(two[n % 2].url + path) for n in range(12)))
    assert [json.loads(each) for each in answers] == [found] * 12
    async with await Wire.open(two[0].url + path, receive_buffer=4096) as slow:
        # Nobody waits for who takes nothing.
        assert json.loads(await read(two[0].url + path)) == found
        assert slow.status == 200
        assert int(slow.headers["content-length"]) > len(text) * 2
        assert json.loads(bytes(await slow.rest())) == found
    async with await Wire.open(two[0].url + path, method="HEAD") as head:
        assert (head.status, head.body) == (200, b"")
