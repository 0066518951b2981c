"""Runs on real replicas, over HTTP, and what Postgres has of them."""

import asyncio
import json
import time
import urllib.request
from collections.abc import Sequence
from typing import Any, NamedTuple

import asyncpg

from longrun.store.sealing import chunk_place
from tests.bench.agents import NAME, Length, Pace
from tests.bench.reader import Stream
from tests.servers import Replica
from tests.storing import SEALING


class Logged(NamedTuple):
    """What the event log has of some finished responses.

    Attributes:
        events: how many, of all.
        characters: how many their deltas have.
        size: bytes of the log.
        finished_at: when the last of them finished, as `time.time()`.
        problems: gaps, repeats, a wrong end.
    """

    events: int
    characters: int
    size: int
    finished_at: float
    problems: list[str]


def create(replica: Replica, pace: Pace | Length, model: str = NAME) -> str:
    """Start a background run; returns the response's id."""
    body = {"model": model, "input": pace.as_text(), "background": True}
    request = urllib.request.Request(
        f"{replica.base_url}/responses",
        json.dumps(body).encode(),
        {"content-type": "application/json"},
    )
    with urllib.request.urlopen(request, timeout=30) as answer:
        return str(json.load(answer)["id"])


def stream_of(replica: Replica, response_id: str, after: int = -1) -> Stream:
    """Its stream, from the start or after an event."""
    beyond = f"&starting_after={after}" if after >= 0 else ""
    path = f"/v1/responses/{response_id}?stream=true{beyond}"
    return Stream(_port_of(replica), path, after=after)


def creation(replica: Replica, pace: Pace) -> Stream:
    """The stream of a response that it creates."""
    body = {"model": NAME, "input": pace.as_text(), "stream": True}
    return Stream(_port_of(replica), "/v1/responses", json.dumps(body))


def _port_of(replica: Replica) -> int:
    return int(replica.url.rpartition(":")[2])


def query(url: str, sql: str, *arguments: Any) -> list[Any]:
    """Ask Postgres, on a connection for this once."""

    async def ask() -> list[Any]:
        connection = await asyncpg.connect(url)
        try:
            return list(await connection.fetch(sql, *arguments))
        finally:
            await connection.close()

    return asyncio.run(ask())


def process_of(url: str, schema: str, response_id: str) -> int | None:
    """The process that runs a response; None if none does."""
    rows = query(
        url,
        f"SELECT replica.pid FROM {schema}.responses AS response"
        f" JOIN {schema}.replicas AS replica ON replica.id = response.replica_id"
        " WHERE response.id = $1",
        response_id,
    )
    return int(rows[0]["pid"]) if rows else None


def wait_for_ends(url: str, schema: str, ids: Sequence[str], timeout: float = 60) -> None:
    """Wait until all of these responses are finished.

    Raises:
        TimeoutError: they are not.
    """
    deadline = time.monotonic() + timeout
    unfinished = (
        f"SELECT id FROM {schema}.responses WHERE id = ANY($1) AND finished_at IS NULL LIMIT 1"
    )
    while query(url, unfinished, list(ids)):
        if time.monotonic() > deadline:
            raise TimeoutError(f"not all of {len(ids)} runs ended within {timeout} s")
        time.sleep(0.1)


def _read(url: str, schema: str, ids: Sequence[str]) -> list[dict[str, Any]]:
    """What each log has, opened where it is encrypted."""
    ended = query(
        url,
        "SELECT id, extract(epoch FROM finished_at)::float AS finished_at"
        f" FROM {schema}.responses WHERE id = ANY($1)",
        list(ids),
    )
    lines: dict[str, list[bytes]] = {}
    for id_, first, last, data in query(
        url,
        "SELECT response_id, first, last, data"
        f" FROM {schema}.event_chunks WHERE response_id = ANY($1) ORDER BY response_id, last",
        list(ids),
    ):
        opened = SEALING.open(chunk_place(id_, first, last), data)
        lines.setdefault(id_, []).extend(opened.split(b"\n"))
    found = []
    for id_, finished_at in ended:
        events = [json.loads(line) for line in lines.get(id_, ())]
        numbers = [event["sequence_number"] for event in events]
        found.append(
            {
                "id": id_,
                "finished_at": finished_at,
                "events": len(events),
                "first": min(numbers, default=None),
                "last": max(numbers, default=-1),
                "numbers": len(set(numbers)),
                "characters": sum(len(event.get("delta", "")) for event in events),
                "size": sum(len(line) + 1 for line in lines.get(id_, ())),
                "end": events[-1]["type"] if events else None,
            }
        )
    return found


def logged(url: str, schema: str, ids: Sequence[str]) -> Logged:
    """Look whether each log has its events numbered 0, 1, 2, …, the last terminal."""
    rows = _read(url, schema, ids)
    found = {row["id"]: row for row in rows}
    problems = [f"{id_} has no log" for id_ in ids if id_ not in found]
    for row in rows:
        is_whole = row["first"] == 0 and row["last"] + 1 == row["numbers"] == row["events"]
        if not is_whole or row["end"] != "response.completed":
            problems.append(f"the log of {row['id']} is not as it should be: {dict(row)}")
    return Logged(
        sum(row["events"] for row in rows),
        sum(row["characters"] for row in rows),
        sum(row["size"] for row in rows),
        max((row["finished_at"] or 0.0 for row in rows), default=0.0),
        problems,
    )
