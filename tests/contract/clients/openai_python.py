"""The `openai` package, 2 and 3."""

import json
from collections.abc import Iterator
from contextlib import closing
from typing import Any

import openai
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
        with closing(openai.OpenAI(base_url=case.url(turn), api_key=KEY, max_retries=0)) as client:
            while news:
                items += news
                given = news if case.history == "previous" else items
                response = ask(client, case, given, previous)
                previous = response.id if case.history == "previous" else None
                items += going_back(case, response.output)
                news = list(answers(case, response.output))
        parsed = response.output_parsed if case.structured else None
        texts.append(shown(parsed.model_dump()) if parsed else response.output_text)
    return texts


def ask(client: openai.OpenAI, case: Case, given: list[Any], previous: str | None) -> Any:
    fields: dict[str, Any] = {"model": case.model, "input": given}
    if previous:
        fields["previous_response_id"] = previous
    if case.tools:
        fields["tools"] = [LOOK]
    if case.structured:
        fields["text_format"] = City
    if case.structured and not case.stream:
        response: Any = client.responses.parse(**fields)
    elif not case.stream:
        response = client.responses.create(**fields)
    else:
        with client.responses.stream(**fields) as stream:
            deltas = [e.delta for e in stream if e.type == "response.output_text.delta"]
            response = stream.get_final_response()
        if not "".join(deltas).endswith(response.output_text):
            raise AssertionError(f"{deltas} is not {response.output_text!r}")
    if response.status != "completed":
        raise RuntimeError(f"{response.status}: {response.error}")
    return response


def going_back(case: Case, output: list[Any]) -> list[Any]:
    if case.history == "reference":
        return [{"type": "item_reference", "id": item.id} for item in output]
    return output


def answers(case: Case, output: list[Any]) -> Iterator[dict[str, Any]]:
    """Each function call is the client's to execute, if nobody has."""
    done = {item.call_id for item in output if item.type == "function_call_output"}
    for item in output:
        if item.type == "function_call" and item.call_id not in done:
            if item.name != LOOK["name"]:
                raise RuntimeError(f"Tool {item.name} not found")
            found = case.look(**json.loads(item.arguments))
            yield {"type": "function_call_output", "call_id": item.call_id, "output": found}


if __name__ == "__main__":
    main(play)
