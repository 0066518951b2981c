"""The view `events`: one row an event, for people with psql."""

import json

from longrun.jsontext import dumps
from longrun.store.database import Database
from tests.postgres import Server
from tests.reading import create, parse, read, script, stream_url
from tests.servers import Replica
from tests.storing import add_response, connected, log_of, writing

TEXTS = [
    "a\x00b",
    "\ud800 alone",
    "\udc00\ud800 the wrong way round",
    "\U0001f600",
    "a\nb\r\n\u2028\u2029c\x85",
    '\\ \\\\ " \\u0000 \\n',
    "\x7f\x1b",
    "",
]


async def view(url: str, schema: str, response_id: str) -> list[tuple[int, int, str, object]]:
    async with connected(url) as connection:
        rows = await connection.fetch(
            f'SELECT sequence_number, attempt, type, event FROM "{schema}".events '
            "WHERE response_id = $1 ORDER BY sequence_number",
            response_id,
        )
    return [(r["sequence_number"], r["attempt"], r["type"], json.loads(r["event"])) for r in rows]


async def test_it_shows_one_row_per_event_whatever_is_in_it(
    store: Database, database: Server
) -> None:
    response_id = await add_response(store)
    written = [
        {"type": "response.output_text.delta", "sequence_number": n, "delta": text}
        for n, text in enumerate(TEXTS * 3, 1)
    ]
    async with writing(store) as writer:
        run = log_of(writer, response_id)
        for place in range(0, len(written), 5):
            run.append([dumps(each) for each in written[place : place + 5]])
        await run.flush()
    rows = await view(database.url, store.settings.db_schema, response_id)
    assert [number for number, *_ in rows] == list(range(len(written) + 1))
    assert [row[2] for row in rows][:2] == ["response.created", "response.output_text.delta"]
    assert {row[1] for row in rows} == {1}
    assert [row[3] for row in rows][1:] == written


async def test_it_shows_what_was_streamed(two: list[Replica], database: Server) -> None:
    turns = [
        [["odd", {"kind": kind}] for kind in ("nul", "surrogate", "emoji", "lines")],
        [["big", {"size": 1_000_000}]],
    ]
    response = await create(two[0], script(turns=turns, deltas=10))
    schema = two[0].environment["LONGRUN_SCHEMA"]
    rows = await view(database.url, schema, response["id"])
    frames = parse(await read(stream_url(two[1], response["id"]))).frames
    assert [(number, kind, event) for number, _, kind, event in rows] == [
        (frame.number, frame.type, frame.event) for frame in frames
    ]
    assert len(rows[-1][3]["response"]["output"][-2]["output"]) == 1_000_000  # type: ignore[index]
