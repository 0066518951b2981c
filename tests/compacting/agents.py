"""The agents of the provider of the tests, and three more: one with a name that OpenAI's SDKs take
for a model of its, one that is made for each run, and one that is a handler."""

from collections.abc import AsyncIterator
from typing import Any

import longrun
from longrun import Served
from tests.provider.agents import agents as of_provider

AGENTS = "tests.compacting.agents:agents"

SUMMARY = "The user likes blue, and the order is number 4711."


def agents() -> list[Any]:
    found = {each.name: each for each in of_provider()}
    plain = found["chat-plain"]

    def made() -> Any:
        return plain

    @longrun.agent(name="handling")
    async def handling(request: Any) -> AsyncIterator[str]:
        yield "handled"

    return [
        *found.values(),
        Served(found["responses-tools"], "gpt-test"),
        Served(made, "made"),
        handling,
    ]
