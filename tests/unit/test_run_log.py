"""A run's log before it is written: what it takes, and what is too large for it."""

import pytest

from longrun.errors import Fenced, LongrunError, NotStored, TooLarge
from longrun.pending import LONGEST, Pending, pending
from longrun.store.records import Ending, Step
from longrun.store.run_log import (
    ENTRY_BYTES,
    ENVELOPE_BYTES,
    OUTPUT_ITEMS,
    STEP_ITEMS,
    RunLog,
    check_size,
)

LIMIT = 100_000


@pytest.fixture
def run() -> RunLog:
    return RunLog("resp_1", 1, 5, wake=lambda _: None, buffer_bytes=1 << 30, max_item_bytes=LIMIT)


def step(size: int) -> Step:
    return Step("", "tool", "call_1", "{}", "x" * size)


def event(size: int, type: str = "response.output_item.done") -> bytes:
    head = b'{"type":"%b","sequence_number":0,"delta":"' % type.encode()
    return head + b"x" * (size - len(head) - 2) + b'"}'


def delta(size: int, index: int = 0) -> Pending:
    said = {"type": "response.output_text.delta", "sequence_number": 0, "output_index": index}
    return pending({**said, "delta": "x" * size}, is_delta=True)


class TestSizes:
    def test_what_is_as_large_as_allowed_is_taken(self, run: RunLog) -> None:
        run.append(
            [event(LIMIT), event(LIMIT + ENVELOPE_BYTES)],
            items=[(0, "x" * LIMIT)],
            steps=[step(LIMIT * STEP_ITEMS)],
        )
        assert run.lost is None
        assert run.next_sequence == 7
        assert len(run.next_entries(1)) == 1

    @pytest.mark.parametrize(
        ("what", "given"),
        [
            ("an event", {"events": [event(80), event(LIMIT + ENVELOPE_BYTES + 1)]}),
            ("an output item", {"events": [], "items": [(0, "x" * (LIMIT + 1))]}),
            ("an output item", {"events": [], "items": [(0, "{}"), (1, "é" * (LIMIT // 2 + 1))]}),
            ("a step", {"events": [], "steps": [step(LIMIT * STEP_ITEMS + 1)]}),
        ],
    )
    def test_what_is_larger_loses_the_log_in_words(
        self, run: RunLog, what: str, given: dict[str, object]
    ) -> None:
        run.append([event(100)])
        run.append(**given)  # type: ignore[arg-type]
        assert isinstance(run.lost, TooLarge)
        assert f"The run produced {what} of " in run.lost.message
        assert "LONGRUN_MAX_ITEM_BYTES" in run.lost.message
        assert not run.has_entries
        assert run.must_wait

    async def test_whoever_waits_is_told(self, run: RunLog) -> None:
        run.append([], items=[(0, "x" * (LIMIT + 1))])
        with pytest.raises(TooLarge):
            await run.flush()
        with pytest.raises(NotStored):
            await run.ready()

    def test_events_with_the_whole_response_may_be_larger(self, run: RunLog) -> None:
        run.append([event(LIMIT * 2, "response.in_progress")])
        run.append([event(LIMIT * 3, "response.completed")], ending=Ending("completed", "{}"))
        assert run.lost is None

    @pytest.mark.parametrize("size", [20, 1000, LONGEST + 1])
    def test_an_item_that_never_ends_is_bounded_while_it_is_streamed(
        self, run: RunLog, size: int
    ) -> None:
        said = 0
        while run.lost is None and said < 2 * LIMIT:
            run.append([delta(size)])
            said += size
        assert isinstance(run.lost, TooLarge)
        assert LIMIT < said <= LIMIT + ENTRY_BYTES + size

    def test_many_items_may_have_as_much_text_each(self, run: RunLog) -> None:
        for index in range(OUTPUT_ITEMS):
            for _ in range(LIMIT // 1000 - 1):
                run.append([delta(1000, index)])
            run.append([event(1000)], items=[(index, "x" * LIMIT)])
        assert run.lost is None

    def test_all_items_together_are_bounded_too(self, run: RunLog) -> None:
        for index in range(OUTPUT_ITEMS):
            run.append([], items=[(index, "x" * LIMIT)])
        assert run.lost is None
        run.append([], items=[(OUTPUT_ITEMS, "x")])
        assert isinstance(run.lost, TooLarge)

    def test_the_size_is_that_of_the_encoded_text(self) -> None:
        check_size("a text", "é" * 50, 100)
        check_size("a text", "\ud800" * 10, 30)
        with pytest.raises(TooLarge, match="a text of 102 bytes; at most 100"):
            check_size("a text", "é" * 51, 100)


def test_the_first_reason_stays(run: RunLog) -> None:
    """A run that is fenced must not end a response that is another's."""
    run.lose(Fenced("another's"))
    run.append([], items=[(0, "x" * (LIMIT + 1))])
    run.lose(LongrunError("abandoned"))
    assert isinstance(run.lost, Fenced)
