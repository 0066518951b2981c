"""A new user's afternoon: everything that a team brings in one run, whose replica is killed again
and again."""

import json
import signal
from typing import Any

from openai import AsyncOpenAI

from tests import postgres
from tests.approvals.afternoon import AGENTS, Order
from tests.faults.ground import Ground, ground
from tests.reading import eventually
from tests.servers import Replica

TURNS: list[list[list[Any]]] = [
    [["process", {}], ["stock", {"thing": "tea"}]],
    [["wait", {"gate": "asking"}]],
    [["pay", {"to": "ann"}], ["slow", {"seconds": 0}], ["send", {"gate": "sending"}]],
    [["stock", {"thing": "coffee"}], ["wait", {"gate": "ending"}]],
]


def noted(found: Ground) -> list[str]:
    file = found.folder / "effects"
    return file.read_text().splitlines() if file.exists() else []


def client_of(replica: Replica) -> AsyncOpenAI:
    return AsyncOpenAI(base_url=replica.base_url, api_key="none", max_retries=0)


async def kill_at(found: Ground, gate: str, replica: Replica) -> None:
    """Kill a replica whose run is at a gate, and open it for who goes on."""
    await eventually(lambda: f"in {gate}" in noted(found))
    replica.signal(signal.SIGKILL)
    replica.wait()
    found.open(gate)


async def ended(replica: Replica, response_id: str) -> Any:
    """The response, when its stream is over."""
    async with client_of(replica) as client:
        async for _ in await client.responses.retrieve(response_id, stream=True):
            pass
        return await client.responses.retrieve(response_id)


async def test_everything_at_once_with_kills_in_between(
    database: postgres.Server, schema: str
) -> None:
    with ground(database, schema, agents=AGENTS, SHOP_URL=database.url) as found:
        [first] = found.start()
        order = json.dumps({"what": "tea", "pieces": 3})
        script = json.dumps({"turns": TURNS, "deltas": 1, "delta": order})
        async with client_of(first) as client:
            asked = await client.responses.create(model="shop", input=script, background=True)
        [second] = found.start()
        await kill_at(found, "asking", first)
        parked = await ended(second, asked.id)
        assert parked.status == "completed", (parked.error, found.logs()[-3000:])
        requests = [item for item in parked.output if item.type == "mcp_approval_request"]
        assert sorted(item.name for item in requests) == ["pay", "send", "slow"]
        [third] = found.start()
        second.signal(signal.SIGKILL)
        second.wait()
        async with client_of(third) as client:
            goes_on = await client.responses.create(
                model="shop",
                previous_response_id=parked.id,
                background=True,
                input=[
                    {
                        "type": "mcp_approval_response",
                        "approval_request_id": item.id,
                        "approve": item.name != "slow",
                        "reason": "no time",
                    }
                    for item in requests
                ],
            )
        [fourth] = found.start()
        await eventually(lambda: "tool pay ann" in noted(found))
        await kill_at(found, "sending", third)
        [fifth] = found.start()
        await kill_at(found, "ending", fourth)
        last = await ended(fifth, goes_on.id)
        assert last.status == "completed", (last.error, found.logs()[-3000:])
        assert Order.model_validate_json(last.output_text) == Order(what="tea", pieces=3)
        shown = [
            (item.name, item.error.content[0]["text"] if item.error else item.output)
            for item in last.output
            if item.type == "mcp_call"
        ]
        assert [output for name, output in shown if name == "pay"] == ["paid ann"]
        assert ["no time" in str(output) for name, output in shown if name == "slow"] == [True]
        assert [output for name, output in shown if name == "stock"] == ["6 of coffee"]
        effects = [line for line in noted(found) if line.startswith("tool ")]
        assert sorted(effects) == [
            "tool pay ann",
            "tool send",
            "tool stock coffee",
            "tool stock tea",
        ]
        assert sorted(line for line in noted(found) if line.startswith("model ")) == [
            f"model {turn}" for turn in range(len(TURNS) + 1)
        ]
