"""The demonstration agents: a correct sequence, the same each time, and of the length asked for."""

import asyncio
import json
import re
from itertools import pairwise
from typing import Any

import pytest
from agents import Agent, ModelResponse, ModelSettings, ModelTracing, RunConfig, Runner
from agents.items import TResponseInputItem, TResponseStreamEvent
from openai import omit
from openai.lib.streaming.responses._responses import ResponseStreamState
from openai.types.responses import ResponseStreamEvent
from pydantic import TypeAdapter

from longrun.demo.agents import agents
from longrun.demo.model import ScriptedModel
from longrun.demo.prose import LENGTHS, LONGEST, compose, length_of, word_in
from longrun.execution.summaries import DEFAULT_PROMPT
from tests.unit import clock

WIRE: TypeAdapter[Any] = TypeAdapter(ResponseStreamEvent)
UNTRACED = RunConfig(tracing_disabled=True)


def agent(name: str) -> Agent[Any]:
    return {each.name: each for each in agents()}[name]


def arguments(given: str | list[TResponseInputItem]) -> tuple[Any, ...]:
    return (None, given, ModelSettings(), [], None, [], ModelTracing.DISABLED)


async def turn(given: str | list[TResponseInputItem], name: str = "demo-fast") -> list[Any]:
    model = agent(name).model
    assert isinstance(model, ScriptedModel)
    return [event async for event in model.stream_response(*arguments(given))]


async def turns(question: str) -> list[list[Any]]:
    """All turns of a run, as the Runner has them."""
    given: list[TResponseInputItem] = [{"role": "user", "content": question}]
    played = []
    while True:
        events = await turn(given)
        played.append(events)
        calls = [item for item in events[-1].response.output if item.type == "function_call"]
        if not calls:
            return played
        given += [call.to_dict() for call in calls]
        given += [
            {"type": "function_call_output", "call_id": call.call_id, "output": f"from {call.name}"}
            for call in calls
        ]


def strict(events: list[Any]) -> Any:
    """What openai's own accumulation makes of a turn; it raises on a wrong sequence."""
    state: ResponseStreamState[Any] = ResponseStreamState(input_tools=omit, text_format=omit)
    accumulated: list[Any] = [made for event in events for made in state.handle_event(event)]
    return accumulated[-1].response


def timeless(events: list[TResponseStreamEvent]) -> list[Any]:
    return [
        re.sub(r'"created_at":[\d.]+', "", event.model_dump_json(exclude_unset=True))
        for event in events
    ]


class TestSequence:
    async def test_every_event_is_one_of_the_wire(self) -> None:
        for events in await turns("short"):
            for event in events:
                text = event.model_dump_json(exclude_unset=True)
                assert type(WIRE.validate_json(text)) is type(event)

    async def test_numbers_are_contiguous_and_the_ends_are_right(self) -> None:
        for events in await turns("hello"):
            assert [event.sequence_number for event in events] == list(range(len(events)))
            kinds = [event.type for event in events]
            assert kinds[:2] == ["response.created", "response.in_progress"]
            assert kinds[-1] == "response.completed"
            assert kinds.count("response.completed") == 1

    async def test_openai_accumulates_each_turn(self) -> None:
        for events in await turns("hello"):
            final = strict(events)
            assert final.id == events[0].response.id
            assert [item.to_dict() for item in events[-1].response.output]

    async def test_deltas_add_up(self) -> None:
        *calling, answering = await turns("hello")
        deltas = "".join(e.delta for e in answering if e.type == "response.output_text.delta")
        assert deltas == answering[-1].response.output_text == strict(answering).output_text
        for events in calling:
            for item in events[-1].response.output:
                parts = [
                    e.delta
                    for e in events
                    if e.type == "response.function_call_arguments.delta" and e.item_id == item.id
                ]
                assert "".join(parts) == item.arguments
                json.loads(item.arguments)

    async def test_usage_counts_the_pieces(self) -> None:
        for events in await turns("hello there"):
            usage = events[-1].response.usage
            deltas = [event for event in events if event.type.endswith(".delta")]
            assert usage.output_tokens == len(deltas)
            assert usage.input_tokens >= 2
            assert usage.total_tokens == usage.input_tokens + usage.output_tokens


class TestScript:
    async def test_two_calls_in_parallel_then_one_then_the_answer(self) -> None:
        names = [
            [getattr(item, "name", item.type) for item in events[-1].response.output]
            for events in await turns("short")
        ]
        assert names == [["look_up", "count_words"], ["check_sources"], ["message"]]

    async def test_the_same_input_gives_the_same_events(self) -> None:
        first, second = await turns("short"), await turns("short")
        assert [timeless(events) for events in first] == [timeless(events) for events in second]

    async def test_the_turn_is_read_from_the_input(self) -> None:
        """Another instance goes on in the middle: nothing is kept in the model."""
        played = await turns("short")
        calls = [call for events in played[:2] for call in events[-1].response.output]
        given: list[Any] = [{"role": "user", "content": "short"}]
        given += [call.to_dict() for call in calls]
        given += [
            {"type": "function_call_output", "call_id": c.call_id, "output": f"from {c.name}"}
            for c in calls
        ]
        text = (await turn(given))[-1].response.output_text
        assert text == played[2][-1].response.output_text

    async def test_asked_twice_in_a_conversation_the_call_ids_differ(self) -> None:
        """The SDK does not execute a call id for the second time."""
        first = await Runner.run(agent("demo-fast"), "short", run_config=UNTRACED)
        again: list[Any] = [*first.to_input_list(), {"role": "user", "content": "short"}]
        second = await Runner.run(agent("demo-fast"), again, run_config=UNTRACED)
        history: list[Any] = list(second.to_input_list())
        ids = [item["call_id"] for item in history if item.get("type") == "function_call"]
        assert len(ids) == len(set(ids)) == 6
        assert second.final_output == first.final_output

    async def test_content_parts_are_read_too(self) -> None:
        parts: list[Any] = [
            {"role": "user", "content": [{"type": "input_text", "text": "short"}]},
        ]
        assert timeless(await turn(parts)) == timeless(await turn("short"))

    async def test_get_response_is_the_same_turn(self) -> None:
        model = agent("demo-fast").model
        assert isinstance(model, ScriptedModel)
        answer = await model.get_response(*arguments("short"))
        assert isinstance(answer, ModelResponse)
        completed = (await turn("short"))[-1].response
        assert answer.output == completed.output
        assert answer.usage.total_tokens == completed.usage.total_tokens


async def test_a_context_is_summarized() -> None:
    given: list[TResponseInputItem] = [
        {"role": "user", "content": "a short one"},
        {"role": "user", "content": DEFAULT_PROMPT},
    ]
    events = await turn(given)
    assert "a short one" in events[-1].response.output_text


class TestRun:
    async def test_through_the_runner(self) -> None:
        streamed = Runner.run_streamed(
            agent("demo-fast"), "Tell me about cursors", run_config=UNTRACED
        )
        kinds = [event.type async for event in streamed.stream_events()]
        assert kinds.count("raw_response_event") > 300
        assert '"cursor" is the sequence number' in streamed.final_output
        assert "the words of your message: 4." in streamed.final_output
        assert "the glossary of 10 words agrees" in streamed.final_output

    def test_parallel_tools_run_at_the_same_time(self) -> None:
        """`demo` pauses for 0.9 s and 0.4 s in the two tools of its first turn."""

        async def run() -> float:
            streamed = Runner.run_streamed(agent("demo"), "short", run_config=UNTRACED)
            outputs = 0
            async for event in streamed.stream_events():
                if event.type == "run_item_stream_event" and event.name == "tool_output":
                    outputs += 1
                    if outputs == 2:
                        break
            streamed.cancel()
            return asyncio.get_running_loop().time()

        calls_at_25_a_second = 0.8
        assert clock.run(run()) < 1.3 + calls_at_25_a_second

    def test_demo_takes_its_time_and_demo_fast_does_not(self) -> None:
        async def seconds(name: str) -> float:
            loop = asyncio.get_running_loop()
            start = loop.time()
            done: list[Any] = [{"role": "user", "content": "for 2 seconds"}]
            for tool in ("look_up", "count_words", "check_sources"):
                done += [
                    {"type": "function_call", "name": tool, "call_id": tool, "arguments": "{}"},
                    {"type": "function_call_output", "call_id": tool, "output": "1"},
                ]
            assert len(await turn(done, name)) > 50
            return loop.time() - start

        assert clock.run(seconds("demo")) >= 1.95
        assert clock.run(seconds("demo-fast")) < 1.0


class TestAgents:
    def test_the_assistant_needs_a_key(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.delenv("OPENAI_API_KEY", raising=False)
        assert [each.name for each in agents()] == ["demo", "demo-fast"]
        monkeypatch.setenv("OPENAI_API_KEY", "none")
        monkeypatch.setenv("OPENAI_MODEL", "some-model")
        assert [each.name for each in agents()] == ["demo", "demo-fast", "assistant"]
        assert agent("assistant").model == "some-model"
        monkeypatch.setenv("OPENAI_MODEL", "")
        assert agent("assistant").model == Agent(name="any").model


class TestLength:
    @pytest.mark.parametrize(
        ("question", "seconds"),
        [
            ("", 12),
            ("tell me about longrun", 12),
            ("Short, please", 3),
            ("a LONG answer", 30),
            ("not long but short", 3),
            ("for 130 seconds", 130),
            ("130 s", 130),
            ("130s of a long answer", 130),
            ("2.5 minutes", 150),
            ("0 s", 1),
            ("999999 seconds", LONGEST),
        ],
    )
    def test_what_the_question_asks_for(self, question: str, seconds: float) -> None:
        assert length_of(question).seconds == seconds

    @pytest.mark.parametrize("seconds", [3, 12, 30, 130, 600])
    def test_the_pace_is_a_reader_s(self, seconds: int) -> None:
        length = length_of(f"for {seconds} seconds")
        text = compose(length, ["One finding.", "Another finding of the tools.", "A third."])
        words = len(text.split())
        assert 20 < words / length.seconds < 32

    def test_it_says_its_length_how_to_choose_and_what_it_is(self) -> None:
        for name, length in LENGTHS.items():
            opening = compose(length, ["A finding."]).split("\n\n")[0]
            assert f"the {name} answer" in opening
            assert '"short", "long"' in opening
            assert "no model behind me" in opening

    def test_parts_are_numbered_and_all_different(self) -> None:
        paragraphs = compose(length_of("for 300 seconds"), ["A finding."]).split("\n\n")
        numbers = [int(n) for p in paragraphs[1:-1] for n in re.findall(r"^Part (\d+) of", p)]
        assert numbers == list(range(1, len(paragraphs) - 1))
        bodies = [p.split(". ", 1)[1].split(" (Checkpoint")[0] for p in paragraphs[1:-1]]
        assert len(set(bodies)) == len(bodies) > 150
        assert all(one != other for one, other in pairwise(bodies))

    def test_checkpoints_count_right(self) -> None:
        text = compose(LENGTHS["long"], ["A finding."])
        marks = list(re.finditer(r"\(Checkpoint: (\d+) words", text))
        assert marks
        for mark in marks:
            assert int(mark[1]) == len(text[: mark.start()].split())

    def test_the_word_asked_about(self) -> None:
        assert word_in("what is a cursor?") == "cursor"
        assert word_in("and events?") == "event"
        assert word_in("what is longrun?") == "event log"
