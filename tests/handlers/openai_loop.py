"""A plain loop over the `openai` client: the model is asked, its calls are executed, and so on."""

import json
import os
from collections.abc import AsyncIterator
from typing import Any

from openai import AsyncOpenAI

import longrun
from tests.scripted import note_effect

client = AsyncOpenAI(base_url=os.environ["PROVIDER_URL"], api_key="sk-provider", max_retries=0)

TOOLS: Any = [
    {
        "type": "function",
        "name": "look",
        "description": "Look a word up.",
        "strict": True,
        "parameters": {
            "type": "object",
            "properties": {"word": {"type": "string"}},
            "required": ["word"],
            "additionalProperties": False,
        },
    }
]


async def look(word: str) -> str:
    note_effect("tool", f"look {word}")
    return f"found {word}"


@longrun.agent(name="loop")
async def loop(request: longrun.HandlerRequest, steps: longrun.Steps) -> AsyncIterator[Any]:
    items: list[Any] = request.input
    while True:
        calls = []
        async for event in steps.stream(
            "turn", client.responses.create, model="any", input=items, tools=TOOLS, stream=True
        ):
            yield event
            if event.type == "response.completed":
                items = [*items, *(item.to_dict() for item in event.response.output)]
                calls = [item for item in event.response.output if item.type == "function_call"]
        if not calls:
            return
        for call in calls:
            output = await steps.step(call.name, look, **json.loads(call.arguments))
            answer = {"type": "function_call_output", "call_id": call.call_id, "output": output}
            yield answer
            items.append(answer)
