"""What an application gives, with real processes: opened once, made for each attempt, closed."""

import json
import signal
from pathlib import Path

import openai

from tests import postgres, servers
from tests.reading import eventually

AGENTS = "tests.faults.application:agents"


async def test_of_a_takeover_everything_is_made_anew(
    database: postgres.Server, schema: str, tmp_path: Path
) -> None:
    """On the replica that takes over, from its own pool; each process opens and closes one."""
    effects = tmp_path / "effects"
    effects.touch()

    def noted(kind: str) -> list[list[str]]:
        lines = [line.split() for line in effects.read_text().splitlines()]
        return [line[1:] for line in lines if line[0] == kind]

    script = {
        "turns": [[["show", {}]], [["echo", {"text": "x", "pause": 2}]], [["show", {}]]],
        "show": True,
    }
    given = {"EFFECTS": str(effects), "LONGRUN_DRAIN_SECONDS": "2"}
    with servers.replicas(
        2, database.url, schema=schema, agents=AGENTS, environment=given
    ) as replicas:
        processes = {str(replica.process.pid): replica for replica in replicas}
        assert {pid for [pid] in noted("opened")} == processes.keys()
        client = openai.AsyncOpenAI(base_url=replicas[0].base_url, api_key="none")
        response = await client.responses.create(
            model="made", input=json.dumps(script), background=True
        )
        await eventually(lambda: ["x"] in noted("tool"))
        [(first, attempt)] = noted("context")
        assert attempt == "1"
        dead = processes.pop(first)
        dead.signal(signal.SIGKILL)
        [(second, left)] = processes.items()
        await client.close()
        client = openai.AsyncOpenAI(base_url=left.base_url, api_key="none")
        async for event in await client.responses.retrieve(response.id, stream=True):
            if event.type == "response.completed":
                response = event.response
        await client.close()
        assert response.status == "completed"
        shown = json.loads(response.output_text)
        outputs = [item["output"] for item in shown if item.get("type") == "function_call_output"]
        assert outputs[0] == f"pool of {first}, attempt 1", "recorded"
        assert outputs[2] == f"pool of {second}, attempt 2"
        assert noted("context") == noted("agent") == [[first, "1"], [second, "2"]]
        assert [second, "echo"] in noted("hook")
        left.signal(signal.SIGTERM)
        assert left.wait() == 0
        assert noted("closed") == [[second, schema]]
