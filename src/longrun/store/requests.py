"""A request as Postgres has it: the one place where its columns and its JSON are made and read."""

from collections.abc import Mapping
from typing import Any

from longrun import ids
from longrun.errors import Unreadable
from longrun.jsontext import dumps, loads
from longrun.protocol import RunRequest, untold
from longrun.store.sealing import Sealing, column_place

_SEALED = ("document", "input", "request")


def columns_of(request: RunRequest, sealing: Sealing) -> dict[str, Any]:
    """The columns of `responses` that hold a request, by name, sealed where that is set up."""
    columns = _plain_columns(request)
    for name in _SEALED:
        columns[name] = sealing.seal_text(column_place(request.response_id, name), columns[name])
    metadata = request.document.get("metadata") or {}
    columns["metadata_hashes"] = sealing.metadata_hashes(metadata.items()) or None
    return columns


def _plain_columns(request: RunRequest) -> dict[str, Any]:
    return {
        "id": request.response_id,
        "principal": request.principal,
        "agent": request.agent,
        "background": request.background,
        "stored": request.stored,
        "document": dumps(request.document).decode(),
        "input": request.input_text or dumps(request.input).decode(),
        "request": dumps(request.parameters).decode(),
        "previous_id": request.previous_id,
        "conversation_id": request.conversation_id,
    }


def request_of(row: Mapping[str, Any], sealing: Sealing) -> RunRequest:
    """The request that these columns hold.

    Raises:
        Unreadable: they cannot be opened.
    """
    opened = {name: sealing.open_text(column_place(row["id"], name), row[name]) for name in _SEALED}
    return _request(row, {name: loads(text) for name, text in opened.items()})


def unreadable_request_of(row: Mapping[str, Any]) -> RunRequest:
    """What is known of a request that cannot be opened: enough to end its response."""
    document = unreadable_document(row["id"], row["agent"], background=row["background"])
    return _request(row, {"document": document, "input": [], "request": {}})


def unreadable_document(
    response_id: str, agent: str, *, background: bool = False
) -> dict[str, Any]:
    """What is shown of a response that cannot be opened, without its status and output."""
    return {
        "id": response_id,
        "object": "response",
        "created_at": ids.created_at(response_id),
        **untold(),
        "error": {"code": "server_error", "message": Unreadable().message},
        "background": background,
        "store": True,
        "model": agent,
    }


def _request(row: Mapping[str, Any], content: Mapping[str, Any]) -> RunRequest:
    return RunRequest(
        response_id=row["id"],
        principal=row["principal"],
        agent=row["agent"],
        background=row["background"],
        stored=row["stored"],
        input=content["input"],
        document=content["document"],
        parameters=content["request"],
        previous_id=row["previous_id"],
        conversation_id=row["conversation_id"],
    )
