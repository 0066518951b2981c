"""LiteLLM's `responses()`."""

import json
import os
from typing import Any

# Else it asks the network for prices, and waits for it.
os.environ["LITELLM_LOCAL_MODEL_COST_MAP"] = "True"

import litellm
from driver import KEY, LOOK, Case, main, shown
from pydantic import BaseModel


class City(BaseModel):
    city: str
    degrees: int


def play(case: Case) -> list[str]:
    texts: list[str] = []
    items: list[Any] = []
    previous: str | None = None
    for turn, said in enumerate(case.turns):
        news: list[Any] = [{"role": "user", "content": said}]
        while news:
            items += news
            given = news if case.history == "previous" else items
            response = ask(case, case.url(turn), given, previous)
            previous = response.id if case.history == "previous" else None
            output = [plain(item) for item in response.output]
            items += output
            news = [answered(case, call) for call in unanswered(output)]
        text = text_of(output)
        texts.append(shown(json.loads(text)) if case.structured else text)
    return texts


def ask(case: Case, url: str, given: list[Any], previous: str | None) -> Any:
    fields: dict[str, Any] = {"tools": [LOOK]} if case.tools else {}
    if case.structured:
        fields["text_format"] = City
    if previous:
        fields["previous_response_id"] = previous
    response: Any = litellm.responses(
        model=f"openai/{case.model}",
        api_base=url,
        api_key=KEY,
        input=given,
        stream=case.stream,
        num_retries=0,
        **fields,
    )
    if case.stream:
        events = list(response)
        response = events[-1].response
    if response.status != "completed":
        raise RuntimeError(f"{response.status}: {response.error}")
    return response


def plain(item: Any) -> dict[str, Any]:
    return item if isinstance(item, dict) else item.model_dump(exclude_unset=True)


def unanswered(output: list[dict[str, Any]]) -> list[dict[str, Any]]:
    done = {item["call_id"] for item in output if item["type"] == "function_call_output"}
    calls = [item for item in output if item["type"] == "function_call"]
    return [item for item in calls if item["call_id"] not in done]


def answered(case: Case, call: dict[str, Any]) -> dict[str, Any]:
    if call["name"] != LOOK["name"]:
        raise RuntimeError(f"Tool {call['name']} not found")
    found = case.look(**json.loads(call["arguments"]))
    return {"type": "function_call_output", "call_id": call["call_id"], "output": found}


def text_of(output: list[dict[str, Any]]) -> str:
    messages = [item for item in output if item["type"] == "message"]
    return "".join(part["text"] for part in messages[-1]["content"])


if __name__ == "__main__":
    main(play)
