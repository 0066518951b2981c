"""LangChain's `ChatOpenAI(use_responses_api=True)`."""

from typing import Any

from driver import KEY, LOOK, Case, main, shown
from langchain_core.messages import AIMessage, HumanMessage, ToolMessage
from langchain_openai import ChatOpenAI
from pydantic import BaseModel, SecretStr


class City(BaseModel):
    """A city."""

    city: str
    degrees: int


def play(case: Case) -> list[str]:
    texts: list[str] = []
    messages: list[Any] = []
    for turn, said in enumerate(case.turns):
        model: Any = ChatOpenAI(
            model=case.model,
            base_url=case.url(turn),
            api_key=SecretStr(KEY),
            use_responses_api=True,
            use_previous_response_id=case.history == "previous",
            max_retries=0,
        )
        if case.tools:
            model = model.bind_tools([LOOK])
        if case.structured:
            texts.append(structured(model, said, case.stream))
            continue
        news: list[Any] = [HumanMessage(said)]
        while news:
            messages += news
            answer = ask(model, messages, case.stream)
            messages.append(answer)
            news = [answered(case, call) for call in answer.tool_calls]
        texts.append(answer.text)
    return texts


def structured(model: Any, said: str, stream: bool) -> str:
    asked = model.with_structured_output(City, method="json_schema")
    city = list(asked.stream(said))[-1] if stream else asked.invoke(said)
    return shown(city.model_dump())


def ask(model: Any, messages: list[Any], stream: bool) -> AIMessage:
    if not stream:
        answer: AIMessage = model.invoke(messages)
    else:
        chunks = list(model.stream(messages))
        answer = chunks[0]
        for chunk in chunks[1:]:
            answer = answer + chunk
    return answer


def answered(case: Case, call: Any) -> ToolMessage:
    if call["name"] != LOOK["name"]:
        raise RuntimeError(f"Tool {call['name']} not found")
    return ToolMessage(case.look(**call["args"]), tool_call_id=call["id"])


if __name__ == "__main__":
    main(play)
