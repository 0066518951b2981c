"""Models behind Chat Completions: the SDK's adapter gives every item the same fake id."""

from typing import Any

import pytest

from tests.unit import oracle
from tests.unit.chat import chunk, events_of, last, tool
from tests.unit.streams import FAKE, Assembly, JSONObject, output_of, usage


async def assembled(*turns: list[JSONObject]) -> oracle.Stream:
    assembly = Assembly()
    for chunks in turns:
        assembly.feed_objects(await events_of(chunks))
    stream = assembly.end()
    assert FAKE not in str(stream.events)
    return stream


def said(stream: oracle.Stream) -> list[Any]:
    """The output, in short."""
    found: list[Any] = []
    for item in stream.output:
        match item["type"]:
            case "message":
                found.append([part.get("text", part.get("refusal")) for part in item["content"]])
            case "function_call":
                found.append((item["call_id"], item["name"], item["arguments"]))
            case "reasoning":
                parts = [*item["summary"], *(item.get("content") or [])]
                found.append({part["text"] for part in parts})
    return found


class TestChatCompletions:
    async def test_text(self) -> None:
        stream = await assembled(
            [chunk({"role": "assistant", "content": ""}), *map(text, ["Hel", "lo."]), *last()]
        )
        assert said(stream) == [["Hello."]]
        assert stream.response is not None
        assert stream.response["usage"] == usage(10, 5, cached=4, reasoned=3)

    async def test_text_with_logprobs_and_citations(self) -> None:
        logprobs = {"content": [{"token": "Tea", "logprob": -0.1, "top_logprobs": []}]}
        cited = {
            "type": "url_citation",
            "url_citation": {
                "url": "https://example.org",
                "title": "T",
                "start_index": 0,
                "end_index": 3,
            },
        }
        stream = await assembled(
            [
                chunk({"content": "Tea"}, logprobs=logprobs),
                chunk({"content": ".", "annotations": [cited]}),
                *last(),
            ]
        )
        part = stream.output[0]["content"][0]
        assert part["annotations"][0]["url"] == "https://example.org"
        assert stream.of("response.output_text.delta")[0]["logprobs"][0]["token"] == "Tea"

    @pytest.mark.parametrize("field", ["reasoning_content", "reasoning"])
    async def test_reasoning(self, field: str) -> None:
        thought = [chunk({field: piece}) for piece in ("Hm", ", ", "tea.")]
        stream = await assembled([*thought, *map(text, ["Te", "a."]), *last()])
        assert said(stream) == [{"Hm, tea."}, ["Tea."]]

    async def test_reasoning_between_texts(self) -> None:
        thought = chunk({"reasoning_content": "First."}), chunk({"reasoning_content": "Second."})
        stream = await assembled([thought[0], text("One. "), thought[1], text("Two."), *last()])
        assert said(stream) == [{"First.", "Second."}, ["One. Two."]]

    async def test_thinking_blocks_with_signatures(self) -> None:
        blocks: list[JSONObject] = [
            {"type": "thinking", "thinking": "Hm, "},
            {"type": "thinking", "thinking": "tea."},
            {"type": "thinking", "signature": "c2ln"},
        ]
        stream = await assembled(
            [*(chunk({"thinking_blocks": [block]}) for block in blocks), text("Tea."), *last()]
        )
        assert said(stream) == [{"Hm, tea."}, ["Tea."]]
        assert stream.output[0]["encrypted_content"] == "c2ln"

    async def test_thinking_blocks_beside_reasoning(self) -> None:
        both = chunk(
            {
                "reasoning_content": "Hm.",
                "thinking_blocks": [{"type": "thinking", "thinking": "Hm."}],
            }
        )
        assert said(await assembled([both, text("Tea."), *last()])) == [{"Hm."}, ["Tea."]]

    async def test_parallel_tool_calls(self) -> None:
        stream = await assembled(
            [
                text("Let me see."),
                chunk(tool(0, id="c0", name="search", arguments="")),
                chunk(tool(0, arguments='{"q":')),
                chunk(tool(1, id="c1", name="read", arguments='{"n":')),
                chunk(tool(0, arguments='"tea"}')),
                chunk(tool(1, arguments="1}")),
                *last("tool_calls"),
            ]
        )
        assert said(stream) == [
            ["Let me see."],
            ("c0", "search", '{"q":"tea"}'),
            ("c1", "read", '{"n":1}'),
        ]

    async def test_tool_calls_before_the_text(self) -> None:
        stream = await assembled(
            [
                chunk(tool(0, id="c0", name="search", arguments="{}")),
                text("I asked."),
                chunk(tool(1, id="c1", name="read", arguments="{}")),
                *last("tool_calls"),
            ]
        )
        assert said(stream) == [("c0", "search", "{}"), ["I asked."], ("c1", "read", "{}")]

    async def test_a_tool_s_name_that_comes_late(self) -> None:
        """The adapter never streams the arguments that came before the name."""
        chunks = [
            chunk(tool(0, id="c0", arguments='{"q":')),
            chunk(tool(0, name="search", arguments='"tea"}')),
            *last("tool_calls"),
        ]
        stream = Assembly().feed_objects(await events_of(chunks)).end(contradicts=True)
        assert said(stream) == [("c0", "search", '{"q":"tea"}')]
        done = stream.of("response.function_call_arguments.done")
        assert [event["arguments"] for event in done] == ['{"q":"tea"}']

    async def test_a_tool_s_call_id_that_comes_late(self) -> None:
        stream = await assembled(
            [
                chunk(tool(0, name="search", arguments='{"q":')),
                chunk(tool(0, arguments='"tea"}')),
                chunk(tool(0, id="c0")),
                *last("tool_calls"),
            ]
        )
        assert said(stream) == [("c0", "search", '{"q":"tea"}')]

    async def test_a_refusal(self) -> None:
        pieces = [chunk({"refusal": piece}) for piece in ("I will", " not.")]
        assert said(await assembled([*pieces, *last()])) == [["I will not."]]

    async def test_a_text_that_turns_into_a_refusal(self) -> None:
        for order in (1, -1):
            pieces = [text("Well. "), chunk({"refusal": "No."})][::order]
            stream = await assembled([*pieces, text("Sorry."), *last()])
            assert sorted(said(stream)[0]) == sorted(["Well. Sorry.", "No."])

    async def test_a_content_filter(self) -> None:
        stream = await assembled([text(""), *last("content_filter")])
        assert stream.output[0]["content"][0]["type"] == "refusal"

    async def test_an_empty_turn(self) -> None:
        assert (await assembled([*last()])).output == []

    async def test_no_usage(self) -> None:
        stream = await assembled([text("a"), chunk({}, finish_reason="stop")])
        assert stream.response is not None
        assert stream.response["usage"]["total_tokens"] == 0

    async def test_a_whole_run(self) -> None:
        assembly = Assembly()
        for number in range(3):
            chunks = [
                chunk({"reasoning_content": "Hm."}),
                text(f"Turn {number}."),
                chunk(tool(0, id=f"a{number}", name="search", arguments="{}")),
                chunk(tool(1, id=f"b{number}", name="search", arguments="{}")),
                *last("tool_calls"),
            ]
            assembly.feed_objects(await events_of(chunks))
            assembly.tool_output(output_of(f"b{number}")).tool_output(output_of(f"a{number}"))
            assembly.tool_output(output_of(f"b{number}"))
        assembly.feed_objects(await events_of([text("Done."), *last()]))
        assert len(assembly.end().output) == 3 * 6 + 1


def text(piece: str) -> JSONObject:
    return chunk({"content": piece})
