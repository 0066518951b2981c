"""A handler that asks before it pays, and then asks a model."""

import os
from collections.abc import AsyncIterator
from typing import Any

from openai import AsyncOpenAI

import longrun
from tests.scripted import note_effect

client = AsyncOpenAI(base_url=os.environ["PROVIDER_URL"], api_key="sk-provider", max_retries=0)


def looked_up(word: str) -> str:
    note_effect("tool", f"look {word}")
    return f"found {word}"


def pay(whom: str) -> str:
    note_effect("tool", f"pay {whom}")
    return f"Paid {whom}. "


@longrun.agent(name="payer")
async def payer(request: longrun.HandlerRequest, steps: longrun.Steps) -> AsyncIterator[Any]:
    yield "I look it up. "
    found = await steps.step("look", looked_up, "owls")
    answer = await longrun.wait_for(longrun.Approval("pay", {"to": found}))
    if not answer:
        yield f"Not paid: {answer.reason}."
        return
    yield await steps.step("pay", pay, found)
    async for event in steps.stream(
        "say", client.responses.create, model="any", input=request.input, stream=True
    ):
        yield event
