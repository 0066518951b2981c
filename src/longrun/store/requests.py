"""A request as Postgres has it: the one place where its columns and its JSON are made and read."""

from collections.abc import Mapping
from typing import Any

from longrun.jsontext import dumps, loads
from longrun.protocol import RunRequest


def columns_of(request: RunRequest) -> dict[str, Any]:
    """The columns of `responses` that hold a request, by name."""
    return {
        "id": request.response_id,
        "principal": request.principal,
        "agent": request.agent,
        "background": request.background,
        "stored": request.stored,
        "document": dumps(request.document).decode(),
        "input": dumps(request.input).decode(),
        "request": dumps(request.parameters).decode(),
    }


def request_of(row: Mapping[str, Any]) -> RunRequest:
    """The request that these columns hold."""
    return RunRequest(
        response_id=row["id"],
        principal=row["principal"],
        agent=row["agent"],
        background=row["background"],
        stored=row["stored"],
        input=loads(row["input"]),
        document=loads(row["document"]),
        parameters=loads(row["request"]),
    )
