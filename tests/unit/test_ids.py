"""Ids: sorted by time, never twice, and known for ours."""

import re
import threading
import time
import uuid

import pytest

from longrun import ids


class TestUUIDs:
    def test_have_the_shape_of_version_7(self) -> None:
        for _ in range(1000):
            made = uuid.UUID(ids.uuid7_hex())
            assert (made.version, made.variant) == (7, uuid.RFC_4122)

    def test_begin_with_the_time(self) -> None:
        before = time.time_ns() // 1_000_000
        milliseconds = int(ids.uuid7_hex()[:12], 16)
        # Many at once count into the milliseconds to come.
        assert before <= milliseconds <= time.time_ns() // 1_000_000 + 1_000

    def test_grow_strictly_however_fast_they_are_made(self) -> None:
        made = [ids.uuid7_hex() for _ in range(50_000)]
        assert made == sorted(set(made))

    def test_grow_when_the_clock_goes_back(self, monkeypatch: pytest.MonkeyPatch) -> None:
        first = ids.uuid7_hex()
        monkeypatch.setattr(time, "time_ns", lambda: 0)
        assert first < ids.uuid7_hex() < ids.uuid7_hex()

    def test_are_unique_over_threads(self) -> None:
        made: list[list[str]] = [[] for _ in range(8)]
        ready = threading.Barrier(8)

        def make(into: list[str]) -> None:
            ready.wait()
            into.extend(ids.uuid7_hex() for _ in range(5_000))

        threads = [threading.Thread(target=make, args=(into,)) for into in made]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert len({each for into in made for each in into}) == 40_000
        assert all(into == sorted(into) for into in made)

    def test_end_at_random(self) -> None:
        assert len({ids.uuid7_hex()[-15:] for _ in range(1000)}) == 1000


class TestResponseIds:
    def test_are_recognised(self) -> None:
        made = ids.new_response_id()
        assert re.fullmatch(r"resp_[0-9a-f]{32}", made)
        assert ids.is_response_id(made)

    @pytest.mark.parametrize(
        "text",
        [
            "",
            "resp_",
            "resp_" + "0" * 31,
            "resp_" + "0" * 33,
            "resp_" + "A" * 32,
            "resp_" + "g" * 32,
            "resp_" + "\u0661" * 32,
            "resp_" + "0" * 31 + "\n",
            "0" * 37,
            "resq_" + "0" * 32,
            "resp_resp_" + "0" * 27,
            "resp_" + "0" * 31 + "\0",
            "../../etc/passwd",
        ],
    )
    def test_others_are_not(self, text: str) -> None:
        assert not ids.is_response_id(text)

    def test_replicas_have_theirs(self) -> None:
        assert ids.new_replica_id().startswith("replica_")


class TestItemIds:
    def test_say_what_they_are_of(self) -> None:
        response_id = ids.new_response_id()
        for kind, prefix in (
            ("message", "msg"),
            ("function_call", "fc"),
            ("reasoning", "rs"),
            ("something_new", "item"),
        ):
            made = ids.item_id(response_id, 3, kind)
            assert made == f"{prefix}_{response_id[5:]}000003"

    def test_are_unique_over_responses_indexes_and_types(self) -> None:
        responses = [ids.new_response_id() for _ in range(20)]
        made = [ids.item_id(r, n, "message") for r in responses for n in range(100)]
        assert len(set(made)) == 2000

    def test_are_the_same_again(self) -> None:
        """A successor gives an item the id that it had."""
        assert ids.item_id("resp_a", 1, "message") == ids.item_id("resp_a", 1, "message")

    def test_no_two_types_share_a_prefix(self) -> None:
        prefixes = list(ids.ITEM_PREFIXES.values())
        assert len(set(prefixes)) == len(prefixes)


class TestCells:
    def test_are_the_last_two_of_a_uuid(self) -> None:
        for cell in ("00", "01", "7f", "ff"):
            for made in (
                ids.new_response_id(cell),
                ids.new_conversation_id(cell),
                ids.new_item_id("message", cell),
            ):
                assert made.endswith("ce11" + cell)
                found = uuid.UUID(made.rpartition("_")[2])
                assert (found.version, found.variant) == (7, uuid.RFC_4122)
                assert ids.cell_of(made) == cell
            assert ids.cell_of(ids.item_id(ids.new_response_id(cell), 3, "message")) == cell

    def test_ids_stay_unique_and_in_order(self) -> None:
        made = [ids.new_response_id("2a") for _ in range(50_000)]
        assert made == sorted(set(made))

    @pytest.mark.parametrize(
        "text",
        [
            "",
            "resp_019abc00",
            "resp_019ac0ffee007abc8abc123456789a01",  # of a version before
            "resp_019ac0ffee008abc8abc12345ce1101",
            "resp_019ac0ffee008abc8abc123456ce1101",  # no UUIDv7
            "resp_019AC0FFEE007ABC8ABC123456CE1101",
            "resp_019ac0ffee007abc8abc123456ce1101ab",
            "x" * 1000 + "_019ac0ffee007abc8abc123456ce1101",
            "call_019ac0ffee007abc8abc123456ce1101\n",
        ],
    )
    def test_other_ids_name_none(self, text: str) -> None:
        assert ids.cell_of(text) is None
