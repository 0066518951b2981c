"""The columns of an append, sealed: what `append_log` would cut out of other values, or copy in
plain, it is sent whole."""

from collections.abc import Sequence
from typing import Any

from longrun.ids import input_index
from longrun.jsontext import dumps
from longrun.store import sealing as places
from longrun.store.batch import Share
from longrun.store.cuts import WHOLE
from longrun.store.sealing import Sealing

Columns = dict[str, Any]


def seal_columns(columns: Columns, batch: Sequence[Share], sealing: Sealing) -> None:
    """Seal what `append_columns` made of a batch, in place."""
    owners = columns["response_ids"]
    # Items are cut out of chunks, which must still be plain.
    _seal_items(columns, owners, sealing)
    columns["chunk_data"] = [
        sealing.seal(places.chunk_place(owners[n - 1], first, last), data)
        for n, first, last, data in _rows(columns, "chunk_runs chunk_firsts chunk_lasts chunk_data")
    ]
    for name in ("fingerprint", "result"):
        columns[f"step_{name}s"] = [
            sealing.seal_text(places.step_place(owners[n - 1], scope, kind, key, name), text)
            for n, scope, kind, key, text in _rows(
                columns, f"step_runs step_scopes step_kinds step_keys step_{name}s"
            )
        ]
    for name in ("document", "reason"):
        columns[f"ending_{name}s"] = [
            sealing.seal_some(places.column_place(owners[n - 1], name), text)
            for n, text in _rows(columns, f"ending_runs ending_{name}s")
        ]
    if columns["parked_runs"]:
        columns["parked_states"] = [
            sealing.seal_text(places.parked_place(owners[n - 1]), text)
            for n, text in _rows(columns, "parked_runs parked_states")
        ]
    if columns["said_runs"]:
        columns["said_items"] = _said_items(batch, sealing)


def _seal_items(columns: Columns, owners: Sequence[str], sealing: Sealing) -> None:
    items, models = [], []
    names = "item_runs item_indexes items item_models item_chunks item_starts item_lengths"
    for n, index, text, model, chunk, start, length in _rows(columns, names):
        if text is None:
            data = columns["chunk_data"][chunk - 1]
            text = data[start - 1 : start - 1 + length].decode()
        items.append(sealing.seal_text(places.item_place(owners[n - 1], index), text))
        models.append(sealing.seal_some(places.model_place(owners[n - 1], index), model))
    columns["items"], columns["item_models"] = items, models
    for name, value in zip(("item_chunks", "item_starts", "item_lengths"), WHOLE, strict=True):
        columns[name] = [value] * len(items)


def _said_items(batch: Sequence[Share], sealing: Sealing) -> list[str | None]:
    """The items of inputs that go into conversations, since Postgres cannot take them out of a
    sealed input. An output's row is copied as it is: it has the same place there."""
    return [
        None
        if part.given is None
        else sealing.seal_text(
            places.item_place(share.run.response_id, input_index(-1 - part.place)),
            dumps(part.given).decode(),
        )
        for share in batch
        for entry in share.entries
        if entry.ending
        for part in entry.ending.said
    ]


def _rows(columns: Columns, names: str) -> Any:
    return zip(*[columns[name] for name in names.split()], strict=True)
