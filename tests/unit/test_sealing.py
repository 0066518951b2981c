"""Sealed values: they come back as they were, in their place and with their key alone."""

import base64
import logging

import pytest
from hypothesis import given
from hypothesis import strategies as st

from longrun import ids
from longrun.errors import Unreadable
from longrun.key_ring import KeyRing, RingKey
from longrun.store import sealing as places
from longrun.store.batch import Share, append_columns, share_of
from longrun.store.records import Ending, Part, Step
from longrun.store.run_log import RunLog
from longrun.store.sealed_batch import seal_columns
from longrun.store.sealing import Place, Sealing, check_value

ONE, TWO = RingKey("one", b"1" * 32), RingKey("two", b"2" * 32)
PLACE = places.chunk_place("resp_1", 3, 9)


def ring(*keys: RingKey, plain: bool = False) -> Sealing:
    return Sealing(KeyRing(keys, None if plain else keys[0]))


SEALING = ring(ONE)

parts = st.one_of(st.integers(-1, 1 << 40), st.text(st.characters(exclude_characters="\0")))
places_of_any_kind = st.builds(
    Place,
    st.text(st.characters(exclude_characters="\0"), max_size=50),
    st.sampled_from(["chunk", "item", "model", "document"]),
    st.lists(parts, max_size=4).map(tuple),
)


@given(places_of_any_kind, st.binary(max_size=5000))
def test_bytes_come_back(place: Place, plain: bytes) -> None:
    sealed = SEALING.seal(place, plain)
    assert sealed[0] == places.VERSION
    assert SEALING.open(place, sealed) == plain
    if len(plain) > 4:
        assert plain not in sealed


@given(places_of_any_kind, st.text(max_size=5000))
def test_text_comes_back(place: Place, plain: str) -> None:
    sealed = SEALING.seal_text(place, plain)
    assert sealed.isascii()
    assert SEALING.open_text(place, sealed) == plain


@given(st.binary(max_size=3000), st.data())
def test_one_changed_bit_is_refused(plain: bytes, data: st.DataObject) -> None:
    sealed = bytearray(SEALING.seal(PLACE, plain))
    at = data.draw(st.integers(8, len(sealed) * 8 - 1))  # the first byte says that it is sealed
    sealed[at // 8] ^= 1 << at % 8
    with pytest.raises(Unreadable):
        SEALING.open(PLACE, bytes(sealed))


@given(st.integers(1, 60))
def test_one_that_is_cut_off_is_refused(missing: int) -> None:
    sealed = SEALING.seal(PLACE, b"some thirty bytes or so of text")
    with pytest.raises(Unreadable):
        SEALING.open(PLACE, sealed[:-missing])


@pytest.mark.parametrize("envelope", ["", "sealed", "one", "one:", "one:!!", "one:AQ==", "x:é"])
def test_what_only_begins_like_an_envelope_is_refused(envelope: str) -> None:
    with pytest.raises(Unreadable):
        SEALING.open_text(PLACE, "sealed:" + envelope)


@given(places_of_any_kind, places_of_any_kind)
def test_nothing_is_opened_in_another_place(here: Place, there: Place) -> None:
    parts_of_both = [tuple(map(str, (p.owner, p.what, *p.position))) for p in (here, there)]
    if parts_of_both[0] != parts_of_both[1]:
        with pytest.raises(Unreadable):
            SEALING.open(there, SEALING.seal(here, b"x"))


def test_no_two_envelopes_are_alike() -> None:
    assert len({SEALING.seal(PLACE, b"the same") for _ in range(100)}) == 100


def test_a_ring_opens_what_each_of_its_keys_has_sealed() -> None:
    old = ring(ONE).seal_text(PLACE, "said before")
    new = ring(TWO, ONE)
    assert new.open_text(PLACE, old) == "said before"
    assert new.seal_text(PLACE, "said now").startswith("sealed:two:")
    assert ring(ONE, TWO, plain=True).seal_text(PLACE, "{}") == "{}"


def test_without_its_key_it_is_refused_and_the_log_names_the_key(
    caplog: pytest.LogCaptureFixture,
) -> None:
    sealed = ring(ONE).seal(PLACE, b"a secret")
    for sealing in (ring(TWO), Sealing(KeyRing()), ring(RingKey("one", b"3" * 32))):
        with caplog.at_level(logging.ERROR), pytest.raises(Unreadable) as raised:
            sealing.open(PLACE, sealed)
        assert "one" not in raised.value.message
        assert "chunk 3 9 of resp_1" in caplog.text
        assert "'one'" in caplog.text
        caplog.clear()


def test_plain_and_sealed_values_are_side_by_side() -> None:
    for sealing in (Sealing(KeyRing()), ring(ONE), ring(ONE, plain=True)):
        assert sealing.open(PLACE, b'{"type":"x"}') == b'{"type":"x"}'
        assert sealing.open_text(PLACE, "[]") == "[]"
        assert sealing.open_some(PLACE, None) is None


def test_long_values_are_compressed_and_say_how_long_they_were() -> None:
    plain = b'{"type":"response.output_item.done"}' * 1000
    sealed = SEALING.seal(PLACE, plain)
    assert len(sealed) < len(plain) // 10
    assert sealed[1] & places.MARKED
    assert int.from_bytes(sealed[2:6]) == len(plain)
    assert not SEALING.seal(PLACE, b"{}")[1] & places.MARKED


def test_metadata_is_found_by_any_key_and_guessed_by_none() -> None:
    pairs = [("customer", "7"), ("tier", "gold")]
    before, after = ring(ONE), ring(TWO, ONE)
    plain = Sealing(KeyRing()).metadata_hashes(pairs)
    sought = after.sought_hashes(pairs)
    for stored in (after.metadata_hashes(pairs), before.metadata_hashes(pairs), plain):
        assert sum(stored == each for each in sought) == 1
    assert plain != before.metadata_hashes(pairs) != after.metadata_hashes(pairs)


def test_a_check_value_tells_keys_apart_and_nothing_else() -> None:
    assert check_value(ONE) == check_value(RingKey("other", b"1" * 32))
    assert check_value(ONE) != check_value(TWO)


class TestBatches:
    """The columns of `append_log`, sealed: nothing of the content is left in any of them."""

    def batch(self) -> list[Share]:
        shares = []
        for number in range(2):
            response_id = ids.new_response_id()
            run = RunLog(
                response_id, 1, 1, wake=lambda _: None, buffer_bytes=1 << 20, max_item_bytes=1 << 20
            )
            item = f'{{"id":"msg_{number}","content":"{"canary " * 200}"}}'
            event = b'{"type":"response.output_item.done","sequence_number":1,"item":%b}'
            run.append(
                [event % item.encode()],
                items=[(number, item)],
                models={number: '{"canary":1}'},
                steps=[Step("", "model", "0", '{"agent":"canary"}', '{"canary":2}')],
            )
            said = [Part(-1, "msg_in", {"role": "user", "content": "canary"}), Part(number, "out")]
            ending = Ending("completed", '{"canary":3}', said, '{"canary":4}')
            run.append(
                [b'{"type":"response.completed","sequence_number":0,"canary":1}'], ending=ending
            )
            share = share_of(run, 1 << 20, 1 << 20)
            assert share is not None
            shares.append(share)
        return shares

    def test_every_value_is_sealed_in_its_place(self) -> None:
        batch = self.batch()
        columns, plain = append_columns(batch), append_columns(batch)
        assert any(columns["item_chunks"] or ()), "items are cut out of chunks"
        seal_columns(columns, batch, SEALING)
        assert "canary" not in repr(columns)
        assert not any(columns["item_chunks"] or ())
        assert columns.keys() == plain.keys()
        for n, share in enumerate(batch):
            id_ = share.run.response_id
            chunk = places.chunk_place(id_, plain["chunk_firsts"][n], plain["chunk_lasts"][n])
            assert SEALING.open(chunk, columns["chunk_data"][n]) == plain["chunk_data"][n]
            item = places.item_place(id_, n)
            [(_, text)] = share.entries[0].items
            assert SEALING.open_text(item, columns["items"][n]) == text
            given = places.said_place("conv_1", ids.input_item_id(id_, 0, "message"))
            assert "canary" in SEALING.open_text(given, columns["said_items"][2 * n])
            assert columns["said_items"][2 * n + 1] is None

    def test_nothing_is_sealed_that_says_where_a_row_belongs(self) -> None:
        batch = self.batch()
        columns, plain = append_columns(batch), append_columns(batch)
        seal_columns(columns, batch, SEALING)
        for name in ("step_keys", "said_ids", "chunk_lasts", "item_indexes", "ending_statuses"):
            assert columns[name] == plain[name]


def test_base64_is_no_part_of_what_tells_plain_from_sealed() -> None:
    assert SEALING.open_text(PLACE, base64.b64encode(b"x").decode()) == "eA=="
