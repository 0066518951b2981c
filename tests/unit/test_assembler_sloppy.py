"""Models that say less, more or other than OpenAI's: what is missing is made up for."""

import copy
from typing import Any

import pytest

from tests.unit.streams import (
    CREATED,
    FAKE,
    Assembly,
    JSONObject,
    Streamed,
    assembled,
    call,
    completed,
    custom_call,
    hosted,
    interleaved,
    message,
    output_of,
    reasoning,
    refusal_part,
    response,
    text_part,
    turn,
)


def rich() -> list[Streamed]:
    """One of each item that is streamed piece by piece."""
    return [
        reasoning("First, tea.", "Then, water.", content=["Boil it."]),
        message("one", refusal_part("two"), "three", index=1),
        call(index=2),
        custom_call(index=3),
    ]


def without(items: list[Streamed], *endings: str) -> list[JSONObject]:
    """The turn of some items, less the events whose types end so."""
    return [
        event for event in turn(*items) if not event["type"].endswith(endings) or "item" in event
    ]


def whole() -> list[JSONObject]:
    """What must come out, whatever of the stream is missing."""
    return [_bare(item) for item in assembled(turn(*rich())).output]


def _bare(item: JSONObject) -> JSONObject:
    return {key: value for key, value in item.items() if key != "id"}


class TestWhatIsMissing:
    def test_everything_but_the_end(self) -> None:
        stream = assembled([completed(*rich())])
        assert [_bare(item) for item in stream.output] == whole()
        # The whole text is one delta: clients that only add up deltas have it too.
        assert "one" in [event["delta"] for event in stream.of("response.output_text.delta")]

    def test_everything_but_the_items_ends(self) -> None:
        events = [item.events[-1] for item in rich()]
        assert [_bare(i) for i in assembled([CREATED, *events, completed()]).output] == whole()

    def test_the_same_item_at_its_end_and_in_the_response_is_one(self) -> None:
        events = [item.events[-1] for item in rich()]
        stream = assembled([CREATED, *events, completed(*rich())])
        assert [_bare(item) for item in stream.output] == whole()

    def test_the_turn_s_created(self) -> None:
        stream = assembled(turn(*rich())[1:], turn(message("next"))[2:])
        assert [_bare(item) for item in stream.output[:-1]] == whole()

    @pytest.mark.parametrize(
        "endings",
        [
            (".delta",),
            ("_part.added",),
            ("_part.done",),
            ("_text.done", "refusal.done"),
            ("_part.added", "_part.done"),
            ("_text.done", "refusal.done", "_part.done"),
            (".delta", "_part.added"),
            (".delta", "_text.done", "refusal.done"),
            ("arguments.done", "input.done"),
            (".delta", "arguments.done", "input.done"),
        ],
    )
    def test_some_kinds_of_events(self, endings: tuple[str, ...]) -> None:
        stream = assembled(without(rich(), *endings))
        assert [_bare(item) for item in stream.output] == whole()

    @pytest.mark.parametrize("missing", ["output_item.added", "output_item.done"])
    def test_the_items_added_or_done(self, missing: str) -> None:
        events = [event for event in turn(*rich()) if not event["type"].endswith(missing)]
        output = sorted(map(str, map(_bare, assembled(events).output)))
        assert output == sorted(map(str, whole()))

    def test_any_one_event(self) -> None:
        """Leave out each event of a rich turn: the output is the same, the deltas still add up."""
        events = turn(*rich())
        for cut in range(len(events) - 1):
            kind, following = events[cut]["type"], events[cut + 1]["type"]
            if kind.endswith(".delta") and kind == following:
                continue  # a hole in a text, which nothing can fill
            output = assembled([*events[:cut], *events[cut + 1 :]]).output
            assert sorted(map(str, map(_bare, output))) == sorted(map(str, whole())), events[cut]

    def test_fields_of_events(self) -> None:
        """openai's client hands on what a provider leaves out as None."""
        for field in ("item_id", "content_index", "summary_index", "output_index", "logprobs"):
            told = message("Hello, world.")
            thought = reasoning("Hm, well.", content=["yes"])
            for event in [*told.events, *thought.events]:
                event.pop(field, None)
            assembled(turn(told)), assembled(turn(thought))

    def test_text_that_is_null(self) -> None:
        told = message("Hello, world.")
        told.events.insert(4, {**told.events[3], "delta": None})
        for event in told.events:
            if event["type"] == "response.output_text.done":
                event["text"] = None
            elif event["type"] == "response.content_part.done":
                event["part"]["text"] = None
        told = copy.deepcopy(told)
        told.events[-1]["item"]["content"] = [text_part("Hello, world.")]
        assert assembled([CREATED, *told.events, completed()]).output

    def test_items_of_events(self) -> None:
        """A provider's empty `added` makes a gap in its indexes, as openai's client knows."""
        empty: JSONObject = {"type": "response.output_item.added", "output_index": 0}
        done: JSONObject = {"type": "response.output_item.done", "output_index": 0}
        told = message("a", index=1)
        stream = assembled([CREATED, empty, {**empty, "item": None}, done, *turn(told)[2:]])
        assert len(stream.output) == 1

    def test_lists_that_clients_iterate_over(self) -> None:
        bare: JSONObject = {"type": "output_text", "text": "hi"}
        stream = assembled([completed({**message().item, "content": [bare]})])
        assert stream.output[0]["content"] == [text_part("hi")]
        nulls = {**bare, "annotations": None, "logprobs": None}
        stream = assembled([completed({**message().item, "content": [nulls]})])
        assert stream.output[0]["content"] == [text_part("hi")]

    def test_content_summary_or_arguments_that_are_null(self) -> None:
        stream = assembled(
            [
                completed(
                    {**message().item, "content": None},
                    {"type": "reasoning", "id": "rs_1", "summary": None},
                    {**call().item, "arguments": None},
                )
            ]
        )
        assert [stream.output[0]["content"], stream.output[1]["summary"]] == [[], []]
        assert stream.output[2]["arguments"] == ""

    def test_statuses(self) -> None:
        items = [copy.deepcopy(item.item) for item in rich()]
        for item in items:
            item.pop("status", None)
        stream = assembled([completed(*items)])
        assert [item.get("status") for item in stream.output] == ["completed"] * 3 + [None]

    def test_what_is_still_in_progress_at_the_end_is_not(self) -> None:
        told = message("a")
        told.item["status"] = "in_progress"
        assert assembled(turn(told)).output[0]["status"] == "completed"


class TestIdentity:
    def test_a_call_id_that_comes_later(self) -> None:
        """Nothing is said of a call before its identity is known: `done` keeps that of `added`."""
        for late in (call(), custom_call()):
            first = copy.deepcopy(late.events[0])
            first["item"]["call_id"] = ""
            assembly = Assembly().feed(CREATED, first, *late.events[1:-1])
            assert "response.output_item.added" not in assembly.so_far().types
            stream = assembly.feed(late.events[-1], completed(late)).end()
            assert stream.output[0]["call_id"] == late.item["call_id"]

    def test_a_call_id_that_comes_in_the_response_only(self) -> None:
        late = call()
        first = copy.deepcopy(late.events[0])
        first["item"]["call_id"] = None
        stream = assembled([CREATED, first, *late.events[1:-1], completed(late)])
        assert [item["call_id"] for item in stream.output] == ["call_1"]

    def test_several_calls_whose_ids_come_later(self) -> None:
        calls = [call(call_id=f"c{n}", index=n, arguments=f'{{"n": {n}}}', id=FAKE) for n in (0, 1)]
        events = interleaved(*copy.deepcopy(calls))
        for event in events:
            if event["type"] == "response.output_item.added":
                event["item"]["call_id"] = ""
        stream = assembled([CREATED, *events, completed(*calls)])
        assert [(i["call_id"], i["arguments"]) for i in stream.output] == [
            ("c0", '{"n": 0}'),
            ("c1", '{"n": 1}'),
        ]

    def test_a_call_id_that_never_comes(self) -> None:
        late = call(call_id="")
        assembly = Assembly().feed(CREATED, *late.events[:-1])
        assert assembly.end("failed").items == []

    def test_a_call_id_that_changes(self) -> None:
        """Two calls, then, the first one never finished: its identity cannot be taken back."""
        asked = call(call_id="first")
        changed = {**asked.item, "call_id": "second"}
        last: JSONObject = {**asked.events[-1], "item": changed}
        stream = assembled([CREATED, *asked.events[:-1], last, completed(changed)])
        assert [item["call_id"] for item in stream.output] == ["second"]
        assert [item.added["call_id"] for item in stream.items] == ["first", "second"]

    def test_ids_that_change_with_every_event(self) -> None:
        told = message("Hello, world.")
        for number, event in enumerate(told.events):
            if "item_id" in event:
                event["item_id"] = f"msg_{number}"
            if "item" in event:
                event["item"] = {**event["item"], "id": f"msg_{number}"}
        assert len(assembled(turn(told)).output) == 1

    def test_arguments_before_their_call(self) -> None:
        late = call()
        stream = assembled([CREATED, *late.events[1:3], late.events[0], *late.events[3:]])
        assert [item["arguments"] for item in stream.output] == [late.item["arguments"]]

    def test_progress_before_its_item(self) -> None:
        item = {"type": "web_search_call", "id": "ws_1", "status": "completed", "action": SEARCH}
        searched = hosted(item, "web_search_call.in_progress", "web_search_call.searching")
        events = [*searched.events[1:3], searched.events[0], searched.events[3]]
        assert len(assembled([CREATED, *events, completed(searched)]).output) == 1

    def test_an_item_added_again(self) -> None:
        """Adapters announce a message again for its second part."""
        told = message("a text", refusal_part("no"), id=FAKE)
        told.events.insert(6, told.events[0])
        assert len(assembled(turn(told)).output) == 1

    def test_the_index_of_an_item_that_is_done_used_again(self) -> None:
        told = [
            message("a", id="msg_a"),
            message("b", id="msg_b"),
            call(call_id="c1", id=FAKE),
            call(call_id="c2", id=FAKE),
        ]
        stream = assembled(turn(*told))
        assert [item.get("call_id") for item in stream.output] == [None, None, "c1", "c2"]

    def test_one_index_for_all_without_added(self) -> None:
        told = [message("a", id="1"), message("b", id="2"), call(call_id="c1"), call(call_id="c2")]
        events = [event for item in told for event in item.events[1:]]
        assert len(assembled([CREATED, *events, completed(*told)]).output) == 4

    def test_one_index_for_items_of_different_types_at_the_same_time(self) -> None:
        told = [message("a text, not short"), call(), reasoning("a summary, not short")]
        stream = assembled([CREATED, *interleaved(*told), completed(*told)])
        assert [item.done and item.done["type"] for item in stream.items] == [
            "message",
            "function_call",
            "reasoning",
        ]

    def test_indexes_with_gaps(self) -> None:
        told = [message("a", index=7), call(index=3), reasoning("b", index=100)]
        stream = assembled(turn(*told))
        assert [item["type"] for item in stream.output] == ["message", "function_call", "reasoning"]

    def test_part_indexes_with_gaps(self) -> None:
        told, thought = message("a", "b"), reasoning("c", "d", content=["e"], index=1)
        for event in [*told.events, *thought.events]:
            for index in ("content_index", "summary_index"):
                if index in event:
                    event[index] = 2 * event[index] + 1
        stream = assembled(turn(told, thought))
        added = stream.of("response.content_part.added", "response.reasoning_summary_part.added")
        indexes = [event.get("content_index", event.get("summary_index")) for event in added]
        assert indexes == [0, 1, 0, 1, 0]

    def test_part_indexes_without_parts_added(self) -> None:
        told = message("a", "b")
        events = [e for e in told.events if not e["type"].startswith("response.content_part")]
        assert len(assembled([CREATED, *events, completed(told)]).output[0]["content"]) == 2


SEARCH: JSONObject = {"type": "search", "query": "tea"}


class TestTooMuch:
    def test_every_event_twice(self) -> None:
        doubled = [
            event
            for once in turn(*rich())[:-1]
            for event in ([once] if once["type"].endswith(".delta") else [once, once])
        ]
        stream = assembled([*doubled, completed(*rich())])
        assert [_bare(item) for item in stream.output] == whole()

    def test_deltas_after_the_end_of_their_text(self) -> None:
        told, asked = message("abc"), call(index=1)
        events = [*told.events, told.events[2], told.events[-2]]
        events[6:6] = [told.events[2], told.events[2]]
        events += [*asked.events, asked.events[1], asked.events[-2]]
        stream = assembled([CREATED, *events, completed(told, asked)])
        assert [item["type"] for item in stream.output] == ["message", "function_call"]

    def test_the_end_of_an_item_twice_where_the_response_is_empty(self) -> None:
        """The SDK then takes the items from their ends, both of them."""
        asked = call()
        stream = assembled([CREATED, *asked.events, asked.events[-1], completed(asked, asked)])
        assert len(stream.output) == 1

    def test_an_item_that_only_the_stream_had(self) -> None:
        told, gone = message("stays", id="msg_1"), message("was dropped", id="msg_2", index=1)
        stream = assembled([CREATED, *told.events, *gone.events[:-1], completed(told)])
        assert [item["content"][0]["text"] for item in stream.output] == ["stays"]
        assert stream.items[1].done is not None
        assert stream.items[1].done["status"] == "incomplete"

    def test_parts_that_the_item_does_not_have_in_the_end(self) -> None:
        told = message("one", "two")
        told.events[-1]["item"] = {**told.item, "content": told.item["content"][:1]}
        stream = assembled([CREATED, *told.events, completed()], contradicts=True)
        assert len(stream.output[0]["content"]) == 1

    def test_texts_for_the_wrong_kind_of_part(self) -> None:
        told = message("one")
        wrong = {**told.events[2], "type": "response.refusal.delta", "delta": "no"}
        told.events.insert(3, wrong)
        assert assembled(turn(told)).output[0]["content"] == [text_part("one")]

    def test_a_part_that_ends_as_another_kind(self) -> None:
        told = message("one")
        told.events[-2]["part"] = refusal_part("no")
        assert assembled(turn(told)).output[0]["content"] == [text_part("one")]

    def test_parts_of_kinds_that_clients_do_not_know(self) -> None:
        told = message("one")
        odd = {**told.events[1], "part": {"type": "hologram", "data": "?"}, "content_index": 1}
        told.events[1:1] = [odd, {**odd, "type": "response.content_part.done"}]
        assert len(assembled([CREATED, *told.events, completed(told)]).output) == 1


class TestContradictions:
    """The final text is what counts; the structure holds."""

    def test_the_final_text_is_another_one(self) -> None:
        told = message("Hello, world.")
        final = {**told.item, "content": [text_part("Goodbye.")]}
        told.events[-1]["item"] = final
        stream = assembled([CREATED, *told.events, completed(final)], contradicts=True)
        assert stream.output[0]["content"][0]["text"] == "Goodbye."

    def test_the_final_text_is_longer(self) -> None:
        told = message("Hello, world.")
        events = [e for e in told.events if not e["type"].endswith(("text.done", "part.done"))]
        final = {**told.item, "content": [text_part("Hello, world. And all.")]}
        stream = assembled([CREATED, *events[:-1], completed(final)])
        assert stream.of("response.output_text.delta")[-1]["delta"] == " And all."

    def test_the_text_s_own_end_is_longer_than_its_deltas(self) -> None:
        told = message("Hello, world.")
        events = [event for event in told.events if event is not told.events[4]]
        stream = assembled([CREATED, *events, completed(told)])
        assert "".join(e["delta"] for e in stream.of("response.output_text.delta")) == (
            "Hello, world."
        )

    def test_the_arguments_end_is_longer_than_their_deltas(self) -> None:
        asked = call()
        events = [event for event in asked.events if event is not asked.events[3]]
        stream = assembled([CREATED, *events, completed(asked)])
        deltas = [e["delta"] for e in stream.of("response.function_call_arguments.delta")]
        assert "".join(deltas) == asked.item["arguments"]

    def test_the_final_arguments_are_others(self) -> None:
        asked = call()
        final = {**asked.item, "arguments": "{}"}
        asked.events[-1]["item"] = final
        stream = assembled([CREATED, *asked.events, completed(final)], contradicts=True)
        assert stream.output[0]["arguments"] == "{}"

    def test_the_final_item_has_other_parts(self) -> None:
        told = message("Hello.")
        final = {**told.item, "content": [refusal_part("No."), text_part("Sorry.")]}
        told.events[-1]["item"] = final
        stream = assembled([CREATED, *told.events, completed(final)], contradicts=True)
        assert stream.output[0]["content"] == final["content"]

    def test_an_empty_end_of_a_text_is_none(self) -> None:
        told = message("Hello.")
        for event in told.events:
            if event["type"] == "response.output_text.done":
                event["text"] = ""
            elif event["type"] == "response.content_part.done":
                event["part"] = text_part("")
        assert assembled(turn(told)).output[0]["content"] == [text_part("Hello.")]


def test_a_whole_run_of_the_sloppiest_model() -> None:
    """Fake ids, index 0 for everything, no `added`, no parts, and an answer to each call."""
    assembly = Assembly()
    for number in range(3):
        told, asked = message(f"turn {number}", id=FAKE), call(call_id=f"c{number}", id=FAKE)
        deltas = [e for e in [*told.events, *asked.events] if e["type"].endswith(".delta")]
        assembly.feed(CREATED, *deltas, completed(told, asked))
        assembly.local_message(told.item).tool_output(output_of(f"c{number}"))
    stream = assembly.feed(CREATED, completed(message("end", id=FAKE))).end()
    kinds: list[Any] = [item["type"] for item in stream.output]
    assert kinds == ["message", "function_call", "function_call_output"] * 3 + ["message"]


def test_a_failed_model_is_the_run_s_to_tell() -> None:
    assembly = Assembly()
    before = len(assembly.lines)
    assembly.feed(
        {"type": "response.failed", "response": response(status="failed")},
        {"type": "error", "message": "secret text", "code": "x", "param": None},
    )
    assert len(assembly.lines) == before
