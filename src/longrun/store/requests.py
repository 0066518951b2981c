"""A request as Postgres has it: the one place where its columns and its JSON are made and read."""

from collections.abc import Iterable, Mapping
from hashlib import blake2b
from typing import Any

from longrun.jsontext import dumps, loads
from longrun.protocol import RunRequest


def columns_of(request: RunRequest) -> dict[str, Any]:
    """The columns of `responses` that hold a request, by name."""
    metadata = request.document.get("metadata") or {}
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
        "metadata_hashes": metadata_hashes(metadata.items()) or None,
    }


def metadata_hashes(pairs: Iterable[tuple[str, str]]) -> list[int]:
    """What `key=value` pairs are found by: their texts may hold what Postgres's text cannot."""
    return sorted(_hash(f"{len(key)} {key}={value}") for key, value in pairs)


def _hash(text: str) -> int:
    digest = blake2b(text.encode("utf-8", "surrogatepass"), digest_size=8).digest()
    return int.from_bytes(digest, signed=True)


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
        previous_id=row["previous_id"],
        conversation_id=row["conversation_id"],
    )
