"""The Agents SDK, with an `OpenAIResponsesModel` that is an agent of longrun."""

import asyncio
from typing import Any

from agents import (
    Agent,
    OpenAIResponsesModel,
    RunConfig,
    Runner,
    function_tool,
    set_tracing_disabled,
)
from driver import KEY, Case, main, shown
from openai import AsyncOpenAI
from pydantic import BaseModel

set_tracing_disabled(True)


class City(BaseModel):
    city: str
    degrees: int


def play(case: Case) -> list[str]:
    return asyncio.run(converse(case))


async def converse(case: Case) -> list[str]:
    @function_tool
    def client_look(word: str) -> str:
        """Look a word up, at the client."""
        return case.look(word)

    texts: list[str] = []
    history: list[Any] = []
    previous: str | None = None
    for turn, said in enumerate(case.turns):
        async with AsyncOpenAI(base_url=case.url(turn), api_key=KEY, max_retries=0) as client:
            agent = Agent(
                name="client",
                model=OpenAIResponsesModel(case.model, client),
                tools=[client_look] if case.tools else [],
                output_type=City if case.structured else None,
            )
            history.append({"role": "user", "content": said})
            chained = case.history == "previous"
            given: Any = said if chained else history
            fields: dict[str, Any] = {"run_config": RunConfig(), "previous_response_id": previous}
            if chained:
                fields["auto_previous_response_id"] = True
            if case.stream:
                result: Any = Runner.run_streamed(agent, given, **fields)
                async for _ in result.stream_events():
                    pass
            else:
                result = await Runner.run(agent, given, **fields)
        history = result.to_input_list()
        previous = result.last_response_id if chained else None
        final = result.final_output
        texts.append(shown(final.model_dump()) if case.structured else final)
    return texts


if __name__ == "__main__":
    main(play)
