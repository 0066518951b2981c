"""pydantic-ai's `OpenAIResponsesModel`."""

import asyncio
from typing import Any

from driver import KEY, Case, main, shown
from openai import AsyncOpenAI
from pydantic import BaseModel
from pydantic_ai import Agent, NativeOutput
from pydantic_ai.models.openai import OpenAIResponsesModel, OpenAIResponsesModelSettings
from pydantic_ai.providers.openai import OpenAIProvider


class City(BaseModel):
    city: str
    degrees: int


def play(case: Case) -> list[str]:
    return asyncio.run(converse(case))


async def converse(case: Case) -> list[str]:
    texts: list[str] = []
    history: list[Any] = []
    # At one replica: what came from another URL it takes for another provider's.
    async with AsyncOpenAI(base_url=case.url(0), api_key=KEY, max_retries=0) as client:
        for said in case.turns:
            model = OpenAIResponsesModel(case.model, provider=OpenAIProvider(openai_client=client))
            # Else, of a model that it does not know, it says reasoning again as text.
            settings = OpenAIResponsesModelSettings(openai_send_reasoning_ids=True)
            if case.history == "previous":
                settings["openai_previous_response_id"] = "auto"
            output: Any = NativeOutput(City) if case.structured else str
            agent: Any = Agent(model, model_settings=settings, output_type=output)
            if case.tools:
                agent.tool_plain(name="client_look")(case.look)
            if case.stream:
                async with agent.run_stream(said, message_history=history) as result:
                    given = await result.get_output()
            else:
                result = await agent.run(said, message_history=history)
                given = result.output
            texts.append(shown(given.model_dump()) if case.structured else given)
            history = result.all_messages()
    return texts


if __name__ == "__main__":
    main(play)
