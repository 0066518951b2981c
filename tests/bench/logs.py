"""Responses made in Postgres, with logs as slow runs leave them: an event a chunk."""

import json
from collections.abc import Sequence
from typing import Any, Final

from longrun import ids
from longrun.assembly.kinds import ITEM_ADDED, ITEM_DONE
from tests.bench import store
from tests.bench.runs import query

_EVENTS: Final = """
    INSERT INTO {schema}.event_chunks (response_id, first, last, attempt, data)
    SELECT response.id, n, n, 1, convert_to(
        CASE n
            WHEN 0 THEN '{{"type":"response.created","sequence_number":0,"response":{{}}}}'
            WHEN $2 - 1 THEN
                '{{"type":"response.completed","sequence_number":' || n || ',"response":{{}}}}'
            ELSE '{{"type":"response.output_text.delta","sequence_number":' || n
                || ',"content_index":0,"delta":"'
                || substr(md5(n || response.id), 1, 1 + (n % 7)::integer)
                || ' ","item_id":"msg_' || substr(response.id, 6, 32)
                || '00","logprobs":[],"output_index":0}}'
        END,
        'UTF8'
    )
    FROM unnest($1::text[]) AS response (id)
    CROSS JOIN generate_series($3::bigint, $4::bigint - 1) AS n
    ON CONFLICT DO NOTHING
"""

PART: Final = 100_000
"""About how many events a statement adds."""

_END: Final = """
    UPDATE {schema}.responses
    SET status = 'completed', replica_id = NULL, finished_at = now() - interval '1 hour'
    WHERE id = ANY($1)
"""

_COPIES: Final = """
    INSERT INTO {schema}.responses (id, principal, agent, status, background, stored, attempt,
        spent, document, input, request, created_at, deadline_at, finished_at, compacted_at)
    SELECT 'resp_' || lpad(to_hex(n), 32, '0'), principal, agent, status, background, stored,
        attempt, spent, document, input, request, created_at, deadline_at, finished_at, now()
    FROM {schema}.responses CROSS JOIN generate_series($2::bigint, $3::bigint) AS n
    WHERE id = $1
"""


def add(url: str, schema: str, responses: int, events: int) -> list[str]:
    """Responses that ended an hour ago, each with so many events in as many chunks."""
    made = store.prepare(url, schema, responses)
    query(url, f"DELETE FROM {schema}.event_chunks WHERE response_id = ANY($1)", made)
    extend(url, schema, made, 0, events)
    query(url, _END.format(schema=schema), made)
    return made


def extend(url: str, schema: str, of: Sequence[str], first: int, end: int) -> None:
    """Events from `first` on to before `end`, of each of these responses; those at 0 and at
    `end - 1` begin and end a log."""
    part = max(1, PART // len(of))
    for start in range(first, end, part):
        stop = min(start + part, end)
        query(url, _EVENTS.format(schema=schema), list(of), end, start, stop)


_WAITING: Final = """
    UPDATE {schema}.responses SET status = 'queued', replica_id = NULL, attempt = 0, spent = 0,
        agent = 'of nobody', deadline_at = now() + interval '1 day'
    WHERE id = $1
"""

_BEGIN: Final = """
    INSERT INTO {schema}.event_chunks (response_id, first, last, attempt, data)
    SELECT response.id, chunk.first, chunk.last, chunk.attempt, chunk.data
    FROM {schema}.event_chunks AS chunk CROSS JOIN {schema}.responses AS response
    WHERE chunk.response_id = $1 AND response.id <> $1 AND response.agent = 'of nobody'
    ON CONFLICT DO NOTHING
"""


def copy(url: str, schema: str, response_id: str, count: int) -> None:
    """So many responses like this one besides, without logs; older than it by their ids."""
    for start in range(0, count, PART):
        query(url, _COPIES.format(schema=schema), response_id, start, min(start + PART, count) - 1)


def add_waiting(url: str, schema: str, count: int) -> list[str]:
    """Responses that have begun, and that no replica ever executes."""
    [first] = store.prepare(url, schema, 1)
    query(url, _WAITING.format(schema=schema), first)
    copy(url, schema, first, count - 1)
    query(url, _BEGIN.format(schema=schema), first)
    rows = query(url, f"SELECT id FROM {schema}.responses WHERE agent = 'of nobody'")
    return [row["id"] for row in rows]


def size(url: str, schema: str, *tables: str) -> int:
    """Bytes that tables take on disk, with their indexes, once what is dead is given back."""
    total = 0
    for table in tables:
        query(url, f"VACUUM FULL {schema}.{table}")
        rows = query(url, _SIZE, f"{schema}.{table}")
        total += int(rows[0][0])
    return total


_SIZE: Final = """
    SELECT sum(pg_total_relation_size(relid)) FROM pg_partition_tree($1::regclass)
"""

_ROWS: Final = """
    INSERT INTO {schema}.event_chunks (response_id, first, last, attempt, data)
    SELECT $1, $3 + n, $3 + n, 1, convert_to(event, 'UTF8')
    FROM unnest($2::text[]) WITH ORDINALITY AS given (event, n)
"""

_ITEMS: Final = """
    INSERT INTO {schema}.items (response_id, output_index, item)
    SELECT $1, index - 1, item FROM unnest($2::text[]) WITH ORDINALITY AS given (item, index)
"""


def add_live(url: str, schema: str, items: int, deltas: int) -> str:
    """A response that has begun and goes on for ever: messages of so many deltas, an event a chunk,
    the last of them not finished."""
    response_id = max(add_waiting(url, schema, 1))  # the newest: ids sort by time
    finished: list[str] = []
    for index in range(items):
        name = ids.item_id(response_id, index, "message")
        shown = {"id": name, "type": "message", "role": "assistant", "status": "in_progress"}
        where: dict[str, Any] = {"output_index": index}
        events = [{"type": ITEM_ADDED, **where, "item": {**shown, "content": []}}]
        about = {"item_id": name, "content_index": 0, "logprobs": [], **where}
        said = [f"word{n} " for n in range(deltas)]
        events += [{"type": "response.output_text.delta", "delta": each, **about} for each in said]
        if index < items - 1:
            text = {"type": "output_text", "text": "".join(said), "annotations": []}
            item = {**shown, "status": "completed", "content": [text]}
            events.append({"type": ITEM_DONE, **where, "item": item})
            finished.append(json.dumps(item))
        first = index * (deltas + 2)
        lines = [
            json.dumps({"type": event["type"], "sequence_number": first + n, **event})
            for n, event in enumerate(events, 1)
        ]
        query(url, _ROWS.format(schema=schema), response_id, lines, first)
    query(url, _ITEMS.format(schema=schema), response_id, finished)
    query(url, f"VACUUM ANALYZE {schema}.event_chunks")
    return response_id
