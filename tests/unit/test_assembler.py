"""The assembler: one response of many turns. What models leave out is in test_assembler_sloppy."""

from typing import Any

import pytest
from openai.types.responses import ResponseCustomToolCall

from longrun.assembly.assembler import Assembler
from longrun.assembly.kinds import plain
from longrun.pending import lines
from tests.unit import oracle
from tests.unit.streams import (
    CREATED,
    FAKE,
    IN_PROGRESS,
    Assembly,
    assembled,
    call,
    completed,
    custom_call,
    interleaved,
    message,
    output_of,
    reasoning,
    refusal_part,
    request,
    response,
    text_part,
    turn,
    usage,
)


class TestOneResponse:
    def test_a_text(self) -> None:
        stream = assembled(turn(message("Hello, world.")))
        assert stream.types == [
            "response.created",
            "response.in_progress",
            "response.output_item.added",
            "response.content_part.added",
            *["response.output_text.delta"] * 3,
            "response.output_text.done",
            "response.content_part.done",
            "response.output_item.done",
            "response.completed",
        ]
        assert stream.output[0]["content"] == [text_part("Hello, world.")]

    def test_turns_with_tools_are_one_response(self) -> None:
        assembly = Assembly()
        for number in range(3):
            assembly.feed(*turn(message(f"turn {number}"), call(index=1, call_id=f"call_{number}")))
            assembly.tool_output(output_of(f"call_{number}", f"found {number}"))
        stream = assembly.feed(*turn(message("done"))).end()
        kinds = ["message", "function_call", "function_call_output"] * 3
        assert [item["type"] for item in stream.output] == [*kinds, "message"]
        assert stream.types.count("response.created") == 1
        assert stream.types.count("response.completed") == 1

    def test_the_ids_are_ours_and_different_though_the_models_repeat(self) -> None:
        stream = assembled(
            turn(message("a", id=FAKE), message("b", id=FAKE, index=1)),
            turn(message("c", id=FAKE)),
        )
        ids = [item["id"] for item in stream.output]
        assert len(set(ids)) == 3
        assert all(i.startswith("msg_") and len(i) == 42 for i in ids)
        texts = [item["content"][0]["text"] for item in stream.output]
        assert texts == ["a", "b", "c"]

    def test_the_model_s_response_id_never_leaves(self) -> None:
        assembly = Assembly()
        assembly.feed(*turn(message("a"))).end()
        assert not any(b"resp_of_the_model" in line for line in assembly.lines)

    def test_items_that_the_model_makes_at_the_same_time(self) -> None:
        first, second, third = (
            message("one of the texts", id=FAKE),
            call(call_id="c1", index=1, id=FAKE),
            call(call_id="c2", index=2, id=FAKE, arguments='{"other": 1}'),
        )
        stream = assembled(
            [CREATED, *interleaved(first, second, third), completed(first, second, third)]
        )
        assert [item["type"] for item in stream.output] == [
            "message",
            "function_call",
            "function_call",
        ]
        assert [item.get("call_id") for item in stream.output] == [None, "c1", "c2"]

    def test_reasoning_with_summaries_and_text(self) -> None:
        stream = assembled(
            turn(
                reasoning("First, tea.", "Then, water.", content=["I should boil it."]),
                message("Tea.", index=1),
            )
        )
        assert [part["text"] for part in stream.output[0]["summary"]] == [
            "First, tea.",
            "Then, water.",
        ]
        assert stream.output[0]["content"] == [
            {"type": "reasoning_text", "text": "I should boil it."}
        ]
        assert len(stream.of("response.reasoning_text.delta")) == 3

    def test_a_refusal(self) -> None:
        stream = assembled(turn(message(refusal_part("I will not do that."))))
        assert stream.output[0]["content"] == [refusal_part("I will not do that.")]

    def test_several_parts_of_one_message(self) -> None:
        stream = assembled(turn(message("one", refusal_part("two"), "three")))
        assert len(stream.output[0]["content"]) == 3

    def test_a_custom_tool_s_call(self) -> None:
        assembly = Assembly().feed(*turn(custom_call(given="SELECT 1;\nSELECT 2;")))
        assembly.tool_output(
            {"type": "custom_tool_call_output", "call_id": "ctc_call", "output": "2"}
        )
        stream = assembly.end()
        assert stream.output[0]["input"] == "SELECT 1;\nSELECT 2;"
        assert stream.output[1]["status"] == "completed"

    def test_a_turn_without_items(self) -> None:
        assert assembled(turn()).output == []

    def test_nothing_at_all(self) -> None:
        assert Assembly().end().types == [
            "response.created",
            "response.in_progress",
            "response.completed",
        ]

    def test_annotations_and_logprobs_pass(self) -> None:
        url = {
            "type": "url_citation",
            "url": "https://example.org",
            "title": "Tea",
            "start_index": 0,
            "end_index": 3,
        }
        logprob = {"token": "Tea", "logprob": -0.1, "bytes": [84], "top_logprobs": []}
        told = message(text_part("Tea.", annotations=[url], logprobs=[logprob]))
        for event in told.events:
            if event["type"].startswith("response.output_text"):
                event["logprobs"] = [logprob]
        annotation = {
            "type": "response.output_text.annotation.added",
            "item_id": "msg_1",
            "output_index": 0,
            "content_index": 0,
            "annotation_index": 0,
            "annotation": url,
        }
        told.events.insert(4, annotation)
        stream = assembled(turn(told))
        assert stream.of("response.output_text.annotation.added")[0]["annotation"] == url
        assert stream.of("response.output_text.delta")[0]["logprobs"] == [logprob]
        assert stream.output[0]["content"][0]["annotations"] == [url]
        assert stream.output[0]["content"][0]["logprobs"] == [logprob]

    def test_what_an_event_has_that_we_do_not_know_passes(self) -> None:
        told = message("abc")
        for event in told.events:
            event["obfuscation"] = "xyz"
        stream = assembled(turn(told))
        assert stream.of("response.output_text.delta")[0]["obfuscation"] == "xyz"

    def test_event_types_that_clients_do_not_know_are_dropped(self) -> None:
        odd = [
            {"type": "response.output_thing.delta", "output_index": 0, "delta": "x"},
            {"type": "response.output_text.brand_new", "output_index": 0, "item_id": "msg_1"},
            {"type": "keepalive"},
            {"type": "response.rate_limits.updated"},
        ]
        told = message("abc")
        stream = assembled([CREATED, *odd, *told.events[:3], *odd, *told.events[3:], *odd])
        assert set(stream.types) <= oracle.TYPES

    def test_ping_events_of_the_model_do_not_reach_the_client(self) -> None:
        assembly = Assembly()
        before = len(assembly.lines)
        assembly.feed(CREATED, IN_PROGRESS, {"type": "response.queued", "response": response()})
        assert len(assembly.lines) == before


class TestToolOutputs:
    def test_early_and_again_is_one_item(self) -> None:
        """The hook tells of a finished tool at once, the SDK's stream again at the turn's end."""
        assembly = Assembly().feed(
            *turn(call(call_id="slow"), call(call_id="fast", index=1, id="fc_2"))
        )
        assembly.tool_output(output_of("fast", "1"))
        early = assembly.so_far()
        assert early.items[-1].done == {
            **output_of("fast", "1"),
            "id": early.items[-1].added["id"],
            "status": "completed",
        }
        assembly.tool_output(output_of("slow", "2")).tool_output(output_of("fast", "1"))
        stream = assembly.feed(*turn(message("ok"))).end()
        assert [item.get("output") for item in stream.output] == [None, None, "1", "2", None]

    def test_outputs_without_a_call_id_are_all_kept(self) -> None:
        """`local_shell_call_output` names its call by its id."""
        assembly = Assembly()
        for number in range(2):
            output = {"type": "local_shell_call_output", "id": f"lsh_{number}", "output": "{}"}
            assembly.tool_output(output)
        assert len(assembly.end().output) == 2

    def test_a_handoff(self) -> None:
        assembly = Assembly().feed(*turn(call("transfer_to_writer", "{}", call_id="h1")))
        assembly.tool_output(output_of("h1", '{"assistant": "writer"}'))
        stream = assembly.feed(*turn(message("I am the writer."))).end()
        kinds = ["function_call", "function_call_output", "message"]
        assert [item["type"] for item in stream.output] == kinds

    @pytest.mark.parametrize(
        "output",
        [
            [{"type": "input_text", "text": "a picture:"}],
            [
                {
                    "type": "input_image",
                    "image_url": "data:image/png;base64,iVBORw0KGgo=",
                    "detail": "auto",
                },
                {"type": "input_file", "filename": "a.pdf", "file_data": "JVBERi0="},
            ],
            "",
            "a\x00b\ud800c\U0001f600\u2028\r\n",
            "x" * 1_000_000,
        ],
        ids=["text", "picture and file", "empty", "odd characters", "1 MB"],
    )
    def test_any_output(self, output: Any) -> None:
        assembly = Assembly().feed(*turn(call())).tool_output(output_of("call_1", output))
        assert assembly.end().output[1]["output"] == output

    def test_a_picture_as_the_sdk_gives_it(self) -> None:
        """Without the `detail` that clients' types of it demand."""
        picture = {"type": "input_image", "image_url": "data:image/png;base64,iVBORw0KGgo="}
        assembly = Assembly().feed(*turn(call())).tool_output(output_of("call_1", [picture]))
        assert assembly.end().output[1]["output"] == [{**picture, "detail": "auto"}]

    @pytest.mark.parametrize(
        ("kind", "more"),
        [
            (
                "computer_call_output",
                {"output": {"type": "computer_screenshot", "image_url": "data:image/png;base64,"}},
            ),
            (
                "shell_call_output",
                {
                    "max_output_length": None,
                    "output": [
                        {
                            "stdout": "hi\n",
                            "stderr": "",
                            "outcome": {"type": "exit", "exit_code": 0},
                        },
                        {"stdout": "", "stderr": "late", "outcome": {"type": "timeout"}},
                    ],
                },
            ),
            ("apply_patch_call_output", {"status": "failed", "output": "no such file"}),
            ("apply_patch_call_output", {"status": "completed"}),
            ("custom_tool_call_output", {"output": "ok"}),
            ("tool_search_output", {"execution": "client", "tools": [], "status": "completed"}),
            ("program_output", {"result": "1", "status": "completed"}),
        ],
    )
    def test_outputs_of_other_tools(self, kind: str, more: dict[str, Any]) -> None:
        its_call = call(call_id="c").item
        if kind == "computer_call_output":
            its_call = {
                "type": "computer_call",
                "id": "cu_1",
                "call_id": "c",
                "action": {"type": "screenshot"},
                "pending_safety_checks": [],
                "status": "completed",
            }
        assembly = Assembly().feed(CREATED, completed(its_call))
        assembly.tool_output({"type": kind, "call_id": "c", **more})
        item = assembly.end().output[1]
        assert item["type"] == kind
        assert item["status"] == more.get("status", "completed")


class TestLocalMessages:
    """Messages that the SDK makes without a model come as items only."""

    def test_a_message_of_a_model_is_not_shown_twice(self) -> None:
        for part in ("hello", refusal_part("no")):
            told = message(part)
            assembly = Assembly().feed(*turn(told)).local_message(told.item)
            assert len(assembly.end().output) == 1

    def test_nor_where_its_deltas_said_something_else(self) -> None:
        told = message("Hello, world.")
        for event in told.events:
            if event["type"] == "response.output_text.delta":
                event["delta"] = "Bye"
        assembly = Assembly().feed(*turn(told)).local_message(told.item)
        assert len(assembly.end(contradicts=True).output) == 1

    def test_nor_with_parts_of_several_kinds(self) -> None:
        told = message("a", refusal_part("b"), "c")
        assembly = Assembly().feed(*turn(told)).local_message(told.item)
        assert len(assembly.end().output) == 1

    def test_nor_where_the_model_only_told_the_end(self) -> None:
        told = message("hello")
        assembly = Assembly().feed(completed(told)).local_message(told.item)
        assert len(assembly.end().output) == 1

    def test_one_that_no_model_made_is_an_item(self) -> None:
        assembly = Assembly().feed(*turn(message("secret")))
        local = {**message("The answer was withheld.").item, "id": FAKE}
        stream = assembly.local_message(local).end()
        assert [item["content"][0]["text"] for item in stream.output] == [
            "secret",
            "The answer was withheld.",
        ]


class TestUsage:
    def test_is_the_sum_of_all_turns(self) -> None:
        stream = assembled(
            turn(call(), given=usage(10, 5, cached=3, wrote=2, reasoned=1)),
            turn(message("a"), given=usage(100, 50, cached=30, wrote=20, reasoned=10)),
        )
        assert stream.response is not None
        assert stream.response["usage"] == usage(110, 55, cached=33, wrote=22, reasoned=11)

    def test_of_models_that_tell_none_or_a_part(self) -> None:
        partly = {"input_tokens": 7, "output_tokens": 1, "total_tokens": 8}
        told = completed(message("a"))
        silent = completed(message("b"))
        told["response"]["usage"], silent["response"]["usage"] = partly, None
        stream = assembled([CREATED, told], [CREATED, silent])
        assert stream.response is not None
        assert stream.response["usage"] == usage(7, 1)

    def test_counts_of_an_incomplete_turn_too(self) -> None:
        assembly = Assembly().feed(
            *turn(call()),
            {
                "type": "response.incomplete",
                "response": response(
                    given=usage(3, 4), incomplete_details={"reason": "max_output_tokens"}
                ),
            },
        )
        stream = assembly.end("incomplete")
        assert stream.response is not None
        assert stream.response["usage"] == usage(13, 9)


class TestEnds:
    def test_incomplete_says_why(self) -> None:
        told = message("half a sen")
        told.item["status"] = "incomplete"
        assembly = Assembly().feed(
            CREATED,
            *told.events,
            {
                "type": "response.incomplete",
                "response": response(
                    [told.item], incomplete_details={"reason": "max_output_tokens"}
                ),
            },
        )
        assert assembly.assembler.incomplete_details == {"reason": "max_output_tokens"}
        stream = assembly.end("incomplete")
        assert stream.types[-1] == "response.incomplete"
        assert stream.response is not None
        assert stream.response["incomplete_details"] == {"reason": "max_output_tokens"}
        assert stream.output[0]["status"] == "incomplete"

    def test_incomplete_keeps_what_only_the_end_tells(self) -> None:
        told = message("half a sen")
        told.item["status"] = "incomplete"
        for events in ([], told.events[:-1]):
            last = {
                "type": "response.incomplete",
                "response": response([told.item], incomplete_details={"reason": "content_filter"}),
            }
            stream = Assembly().feed(CREATED, *events, last).end("incomplete")
            assert [item["status"] for item in stream.output] == ["incomplete"]
            assert stream.output[0]["content"][0]["text"] == "half a sen"

    def test_incomplete_without_a_reason(self) -> None:
        assembly = Assembly().feed(CREATED, {"type": "response.incomplete", "response": response()})
        assert assembly.assembler.incomplete_details is not None
        assembly.end("incomplete")

    @pytest.mark.parametrize("status", ["failed", "cancelled"])
    def test_an_end_in_the_middle_closes_what_is_open(self, status: Any) -> None:
        told, asked = message("Hello, world."), call(index=1)
        assembly = Assembly().feed(CREATED, *told.events[:4], *asked.events[:2])
        error = {"code": "server_error", "message": "The agent failed."}
        stream = assembly.end(status, error if status == "failed" else None)
        assert stream.types[-1] == "response.failed"
        assert stream.output == []
        left = [item.done for item in stream.items]
        assert [item["status"] for item in left if item] == ["incomplete", "incomplete"]
        assert left[0] is not None
        assert left[0]["content"][0]["text"] == "Hello, wor"
        assert stream.response is not None
        assert stream.response["error"] == (error if status == "failed" else None)

    def test_every_end_of_every_text(self) -> None:
        """Cut a rich stream after each of its events: the rest is made up for."""
        events = turn(
            reasoning("First, tea.", content=["Boil it."]),
            message("one", refusal_part("two"), index=1),
            call(index=2),
            custom_call(index=3),
        )
        for cut in range(len(events)):
            Assembly().feed(*events[:cut]).end("failed")

    def test_completed_at_is_told_when_completed_only(self) -> None:
        done, failed = Assembly().end(), Assembly().end("failed")
        assert done.response is not None
        assert failed.response is not None
        assert done.response["completed_at"] == 1_700_000_000
        assert failed.response["completed_at"] is None

    def test_the_document_that_is_stored_is_the_snapshot_without_its_output(self) -> None:
        assembly = Assembly(metadata={"a": "b"}).feed(*turn(message("hi")))
        document = assembly.assembler.end("completed", None, 1)
        assembly.take()
        final = oracle.check(assembly.lines, assembly.items).response
        assert final is not None
        assert {**oracle.loads(document), "output": final["output"]} == final
        assert final["metadata"] == {"a": "b"}


class TestLifecycle:
    def test_a_queued_response(self) -> None:
        asked = request(background=True)
        assembler = Assembler(asked.response_id, asked.document)
        assembler.lifecycle("queued")
        assembler.lifecycle("in_progress")
        assembler.end("completed", None, 1)
        stream = oracle.check(lines(assembler.collect().events), [])
        assert stream.types == [
            "response.created",
            "response.queued",
            "response.in_progress",
            "response.completed",
        ]
        statuses = [event["response"]["status"] for event in stream.events]
        assert statuses == ["queued", "queued", "in_progress", "completed"]

    def test_nothing_is_handed_over_twice(self) -> None:
        assembly = Assembly().feed(*turn(message("a")))
        assert assembly.assembler.collect() == ([], [], {})

    def test_a_model_request_that_is_tried_again(self) -> None:
        """What the first try left open stays unfinished and out of the output."""
        told = message("The first try, not to its end.")
        assembly = Assembly().feed(CREATED, IN_PROGRESS, *told.events[:4])
        stream = assembly.feed(*turn(message("The second."))).end()
        assert [item["content"][0]["text"] for item in stream.output] == ["The second."]
        first = stream.items[0].done
        assert first is not None
        assert first["status"] == "incomplete"
        assert first["content"][0]["text"] == "The first try, not t"

    def test_a_second_created_with_nothing_between_changes_nothing(self) -> None:
        events = turn(message("a"))
        assert assembled([CREATED, IN_PROGRESS, *events]).types == assembled(events).types


@pytest.mark.parametrize(
    "text",
    [
        "a\x00b",
        "lone \ud800 and \udfff",
        "\U0001f600 \u2028 \u2029 \x85 \r\n",
        "",
        '\\u0000 "quoted" {"type":"response.completed"}',
        "x" * 1_000_000,
        "\U0001f600" * 250_000,
    ],
    ids=["nul", "surrogates", "emoji and separators", "empty", "escapes", "1 MB", "1 MB of emoji"],
)
class TestTexts:
    def test_in_a_message(self, text: str) -> None:
        assert assembled(turn(message(text))).output[0]["content"][0]["text"] == text

    def test_in_the_rest(self, text: str) -> None:
        stream = assembled(
            turn(
                reasoning(text, content=[text]),
                call(arguments=text, index=1),
                custom_call(given=text, index=2),
                message(refusal_part(text), index=3),
            )
        )
        assert stream.output[1]["arguments"] == stream.output[2]["input"] == text

    def test_told_at_the_end_only(self, text: str) -> None:
        told = [message(text), call(arguments=text), reasoning(text, content=[text])]
        assert assembled([completed(*told)]).output[0]["content"][0]["text"] == text


def test_fields_have_the_names_of_the_wire() -> None:
    """Not those of openai's Python classes, where `async` is no name."""
    given = {"type": "custom_tool_call", "call_id": "c", "name": "n", "input": "", "async": True}
    assert plain(ResponseCustomToolCall.model_validate(given)) == given


PAIR = "\ud83d\ude00"
"""An emoji as a server tells it that cuts its texts by UTF-16."""


@pytest.mark.parametrize(
    "text",
    [PAIR, f"a{PAIR}b{PAIR}", PAIR * 3, f"{PAIR}a", f"{PAIR}\ud83d"],
    ids=["one", "between letters", "in a row", "before a letter", "and a half"],
)
def test_no_delta_ends_within_a_character(text: str) -> None:
    """Clients in Python could neither print nor encode one, and they added up to another text."""
    items = [message(text), reasoning(text, content=[text], index=1), call(arguments=text, index=2)]
    told = [each for event in turn(*items) for each in _by_surrogates(event)]
    said: dict[str, str] = {}
    for event in assembled(told).events:
        if event["type"].endswith(".delta"):
            # A half that is never followed by the other is told at the end, by itself.
            if event["delta"] != "\ud83d" or not text.endswith("\ud83d"):
                event["delta"].encode()
            said[event["type"]] = said.get(event["type"], "") + event["delta"]
    assert list(said.values()) == [text.replace(PAIR, "\U0001f600")] * 4


def _by_surrogates(event: dict[str, Any]) -> list[dict[str, Any]]:
    return [{**event, "delta": each} for each in event["delta"]] if "delta" in event else [event]
