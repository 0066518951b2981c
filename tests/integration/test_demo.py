"""`longrun demo` proves what it says, and its proof notices a gap, a repeat and a change."""

import json
import os
import signal
import subprocess
import sys
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import pytest

from longrun.demo.proof import Event, compare, final_text, streamed_text
from longrun.demo.reading import event_texts


def event(number: int, kind: str = "response.output_text.delta", **fields: Any) -> Event:
    return Event.parse(json.dumps({"type": kind, "sequence_number": number, **fields}).encode())


def log() -> list[Event]:
    words = ["One", " two", " three"]
    content = [{"type": "output_text", "text": "".join(words)}]
    output = [{"type": "message", "content": content}]
    return [
        event(0, "response.created"),
        *(event(number, delta=word) for number, word in enumerate(words, 1)),
        event(4, "response.completed", response={"output": output}),
    ]


class TestComparison:
    def test_the_same_is_equal(self) -> None:
        assert compare(log(), log()).differences() == []

    @pytest.mark.parametrize("number", range(5))
    def test_a_gap_is_noticed(self, number: int) -> None:
        received = [each for each in log() if each.number != number]
        comparison = compare(received, log())
        assert comparison.missing == (number,)
        assert comparison.differences() == [f"missing: event {number}"]

    @pytest.mark.parametrize("number", range(5))
    def test_a_repeat_is_noticed(self, number: int) -> None:
        received = sorted([*log(), log()[number]], key=lambda each: each.number)
        comparison = compare(received, log())
        assert comparison.repeated == (number,)
        assert not comparison.equal

    @pytest.mark.parametrize("number", range(5))
    def test_a_changed_event_is_noticed(self, number: int) -> None:
        received = log()
        received[number] = event(number, received[number].type, delta="other")
        comparison = compare(received, log())
        assert comparison.changed == (number,)
        assert "received" in comparison.details[0]
        assert "stored" in comparison.details[0]

    def test_other_bytes_of_the_same_json_are_a_change(self) -> None:
        received = log()
        received[2] = Event.parse(received[2].text.replace(b": ", b":"))
        assert compare(received, log()).changed == (2,)

    def test_text_cut_short_is_a_change(self) -> None:
        received = log()
        received[1] = Event(1, received[1].type, received[1].text[:-1])
        assert compare(received, log()).changed == (1,)

    def test_what_the_log_does_not_have_is_noticed(self) -> None:
        assert compare([*log(), event(5)], log()).unknown == (5,)

    def test_another_order_is_noticed(self) -> None:
        received = log()
        received[1], received[2] = received[2], received[1]
        comparison = compare(received, log())
        assert comparison.disordered == (1,)
        assert not comparison.equal

    @pytest.mark.parametrize(
        "broken",
        [
            lambda log: log[1:],
            lambda log: log[:2] + log[3:],
            lambda log: log[:-1],
            lambda log: [*log[:-1], log[-1], event(5)],
            lambda log: [*log, event(5, "response.failed")],
            lambda log: [],
        ],
    )
    def test_a_broken_log_is_noticed_even_when_it_was_received_so(
        self, broken: Callable[[list[Event]], list[Event]]
    ) -> None:
        assert not compare(broken(log()), broken(log())).equal

    def test_numbers_are_told_in_ranges(self) -> None:
        (said,) = compare([each for each in log() if each.number in {0, 4}], log()).differences()
        assert said == "missing: event 1–3"

    def test_texts(self) -> None:
        assert streamed_text(log()) == final_text(log()) == "One two three"
        assert final_text(log()[:-1]) == ""

    def test_what_a_takeover_takes_back_is_not_in_the_text(self) -> None:
        gone = {"type": "message", "status": "incomplete", "content": []}
        said = [
            event(0, "response.created", response={"output": []}),
            event(1, output_index=0, delta="One"),
            event(2, "response.in_progress", response={"output": [gone]}),
            *(event(each.number + 2, output_index=1, delta=each.fields()["delta"])
              for each in log()[1:-1]),
        ]  # fmt: skip
        assert streamed_text(said) == "One two three"


class TestFrames:
    @pytest.mark.parametrize("size", [1, 2, 7, 1000])
    async def test_events_are_whole_however_the_bytes_come(self, size: int) -> None:
        wire = (
            b': keepalive\nevent: a\ndata: {"n":0}\n\nid: 1\nevent: b\ndata: {"n":1}\n\n'
            b": keepalive\n: keepalive\ndata: [DONE]\n\ndata: after\n\n"
        )

        async def body() -> AsyncIterator[bytes]:
            for at in range(0, len(wire), size):
                yield wire[at : at + size]

        assert [text async for text in event_texts(body())] == [b'{"n":0}', b'{"n":1}']

    async def test_half_an_event_at_the_end_is_none(self) -> None:
        async def body() -> AsyncIterator[bytes]:
            yield b'data: {"n":0}\n\ndata: {"n":1}\n'

        assert [text async for text in event_texts(body())] == [b'{"n":0}']


def demo(*arguments: str, **more: str) -> "subprocess.Popen[str]":
    return subprocess.Popen(
        [sys.executable, "-m", "longrun", "demo", *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, **more},
        start_new_session=True,
    )


class TestDemonstration:
    @pytest.mark.timeout(120)
    def test_it_proves_what_it_says(self, tmp_path: Path) -> None:
        process = demo("--json", "--cut-after", "1", TMPDIR=str(tmp_path))
        output, progress = process.communicate(timeout=110)
        assert process.returncode == 0, progress
        report = json.loads(output)
        assert report["ok"] is True
        assert report["differences"] == []
        assert report["missing"] == report["repeated"] == report["dropped"] == 0
        assert report["equal_to_log"] == {"A": True, "B": True}
        assert report["same_text"] is True
        assert report["status"] == "completed"
        assert report["first"] == 0
        assert report["last"] == report["events"] - 1
        assert report["cuts"] == report["connections"] - 1 >= 15
        served = [connection["replica"] for connection in report["connection_list"]]
        assert served == ["AB"[at % 2] for at in range(len(served))]
        assert sum(c["events"] for c in report["connection_list"]) == report["events"]
        assert "Warning" not in progress
        assert "\x1b" not in progress
        assert f"starting_after={report['connection_list'][1]['starting_after']}" in progress
        assert list(tmp_path.iterdir()) == []

    @pytest.mark.timeout(60)
    def test_stopped_in_the_middle_it_leaves_nothing(self, tmp_path: Path) -> None:
        process = demo("--cut-after", "1", TMPDIR=str(tmp_path))
        assert process.stdout is not None
        # The second act has begun when its first connection is cut.
        while "✂" not in process.stdout.readline():
            assert process.poll() is None
        process.send_signal(signal.SIGINT)
        _, errors = process.communicate()
        assert process.returncode == 130
        assert "Traceback" not in errors
        assert list(tmp_path.iterdir()) == []

    @pytest.mark.timeout(60)
    def test_without_a_server_it_says_so(self) -> None:
        process = demo("--json", "--url", "http://127.0.0.1:9")
        output, _ = process.communicate(timeout=50)
        assert process.returncode == 1
        assert json.loads(output)["ok"] is False
