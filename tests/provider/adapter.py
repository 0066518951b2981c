"""A model adapter like `agents.extensions.models.litellm_model`: over Chat Completions, with fake
item ids, `provider_data` on each item, and the call ids that other providers give."""

from collections.abc import AsyncIterator, Callable, Iterator
from itertools import count
from typing import Any

from agents import OpenAIChatCompletionsModel
from openai import AsyncOpenAI
from openai.types.responses import (
    ResponseCompletedEvent,
    ResponseFunctionToolCall,
    ResponseOutputItemAddedEvent,
    ResponseOutputItemDoneEvent,
)

CALL_IDS: dict[str, Callable[[int, str, str], Any]] = {
    # Gemini's thought signature, which LiteLLM packs into the id: longer than providers take.
    "signed": lambda place, name, given: f"{given}__thought__" + "s" * 100,
    "long": lambda place, name, given: f"{given}__thought__" + "s" * 6_000,
    # The n-th call of a turn, again in every turn. The Agents SDK itself gives up on it.
    "counted": lambda place, name, given: f"call_{place}",
    "same": lambda place, name, given: "call",
    "name": lambda place, name, given: name,
    "empty": lambda place, name, given: "",
    "none": lambda place, name, given: None,
    "nul": lambda place, name, given: f"{given}\x00{place}",
    "spaces": lambda place, name, given: f"{given} {place} of {name}",
}
"""The call ids that adapters give, by place in the turn, tool, and the provider's own id."""


class AdapterModel(OpenAIChatCompletionsModel):
    """Shows call ids of a kind of `CALL_IDS`, and gives the provider proper ones.

    A provider without call ids pairs calls and answers by their order; so does this adapter, when
    it makes the messages. What is not paired reaches the provider as it is, which refuses it.
    """

    def __init__(self, model: str, client: AsyncOpenAI, call_ids: str = "signed") -> None:
        super().__init__(model, client)
        self._call_id = CALL_IDS[call_ids]

    async def get_response(
        self, system_instructions: Any, input: Any, *args: Any, **kw: Any
    ) -> Any:
        given = await super().get_response(system_instructions, _paired(input), *args, **kw)
        given.output = self._renamed(given.output)
        return given

    async def stream_response(
        self, system_instructions: Any, input: Any, *args: Any, **kw: Any
    ) -> AsyncIterator[Any]:
        calls: dict[int, int] = {}
        async for event in super().stream_response(
            system_instructions, _paired(input), *args, **kw
        ):
            if isinstance(event, ResponseOutputItemAddedEvent | ResponseOutputItemDoneEvent):
                place = calls.setdefault(event.output_index, len(calls)) if _is_call(event) else 0
                event = event.model_copy(update={"item": self._named(event.item, place)})
            elif isinstance(event, ResponseCompletedEvent):
                output = self._renamed(event.response.output)
                response = event.response.model_copy(update={"output": output})
                event = event.model_copy(update={"response": response})
            yield event

    def _renamed(self, output: list[Any]) -> list[Any]:
        places = count()
        return [
            self._named(item, next(places)) if isinstance(item, ResponseFunctionToolCall) else item
            for item in output
        ]

    def _named(self, item: Any, place: int) -> Any:
        if not isinstance(item, ResponseFunctionToolCall):
            return item
        return item.model_copy(update={"call_id": self._call_id(place, item.name, item.call_id)})


def _is_call(event: ResponseOutputItemAddedEvent | ResponseOutputItemDoneEvent) -> bool:
    return isinstance(event.item, ResponseFunctionToolCall)


def _paired(items: Any) -> Any:
    return items if isinstance(items, str) else list(_with_ids(items))


def _with_ids(items: list[Any]) -> Iterator[Any]:
    waiting: dict[Any, list[str]] = {}
    numbers = count()
    for item in items:
        call_id = item.get("call_id")
        if item.get("type") == "function_call":
            made = f"call_{next(numbers):04}"
            waiting.setdefault(call_id, []).append(made)
            yield {**item, "call_id": made}
        elif item.get("type") == "function_call_output" and waiting.get(call_id):
            yield {**item, "call_id": waiting[call_id].pop(0)}
        else:
            yield item
