"""The states of a response: what the README draws is what happens, and nothing else does.

A trigger on the table notes every transition while responses of all kinds live and end; the
allowed ones are read from the README's diagram.
"""

import asyncio
import json
import re
import signal
from collections.abc import Iterator

import pytest

from tests import postgres
from tests.faults.ground import Ground, ground
from tests.reading import Wire, create
from tests.servers import REPOSITORY

LIVE = ("queued", "in_progress")
ENDS = ("completed", "failed", "incomplete", "cancelled")
ALLOWED = frozenset(
    {
        ("[*]", "queued"),
        ("[*]", "in_progress"),
        ("queued", "in_progress"),
        ("in_progress", "in_progress"),
        *(("in_progress", end) for end in ENDS),
        *((end, "[*]") for end in ENDS),
    }
)

WATCH = """
CREATE TABLE transitions (id text, before text, after text, attempt int, grew boolean);
CREATE FUNCTION note_transition() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    INSERT INTO {schema}.transitions VALUES (
        coalesce(new.id, old.id), coalesce(old.status, '[*]'), coalesce(new.status, '[*]'),
        new.attempt, new.attempt > old.attempt
    );
    RETURN coalesce(new, old);
END $$;
CREATE TRIGGER note_transition AFTER INSERT OR UPDATE OR DELETE ON responses
    FOR EACH ROW EXECUTE FUNCTION note_transition();
"""


def drawn() -> set[tuple[str, str]]:
    """The arrows of the README's diagram."""
    readme = (REPOSITORY / "README.md").read_text()
    section = readme.split("## The states of a response\n", 1)[1]
    diagram = section.split("```mermaid\nstateDiagram-v2\n", 1)[1].split("```", 1)[0]
    return set(re.findall(r"^ *(\S+) --> (\S+)", diagram, re.MULTILINE))


def test_the_readme_draws_what_is_allowed() -> None:
    assert drawn() == ALLOWED


@pytest.fixture
def found(database: postgres.Server, schema: str) -> Iterator[Ground]:
    with ground(database, f"states_{schema}") as made:
        yield made


async def test_only_what_is_drawn_happens(found: Ground) -> None:
    one, two = found.start(2, LONGRUN_MAX_RUNS="8", LONGRUN_RUN_TIMEOUT="12")
    async with found.connected() as connection:
        await connection.execute(WATCH.format(schema=found.schema))
    plain = await found.submit(one, 2)
    incomplete = await found.submit(one, turns=(), incomplete=True)
    failing = await found.submit(one, turns=(), fail=2)
    answer = await create(one, json.dumps({"deltas": 1}), model="gated")
    forgotten = await create(one, json.dumps({"deltas": 1}), model="gated", store=False)
    await found.all_finished([*plain, *incomplete, *failing, answer["id"]])
    await ask(found, "DELETE", f"/{answer['id']}")
    # No room is left anywhere; one more waits, one that waits is cancelled.
    busy = [
        *await found.submit(one, 8, gates=("in a",)),
        *await found.submit(two, 8, gates=("in a",)),
    ]
    await found.reach(busy, "in a")
    waiting = await found.submit(one, 3)
    await ask(found, "POST", f"/{waiting[0]}/cancel")
    await ask(found, "POST", f"/{busy[0]}/cancel")
    await ask(found, "POST", f"/{busy[0]}/cancel")
    (late,) = await found.submit(two, turns=((("stuck", {}),),))
    # Taken over, ended by its deadline, deleted while it runs.
    two.signal(signal.SIGKILL)
    two.wait()
    await ask(found, "DELETE", f"/{busy[1]}")
    found.open("in a")
    ids = [*busy[2:], *waiting, late]
    await found.all_finished(ids)
    (last,) = await found.submit(one)
    await found.all_finished([last])
    rows = await found.sql("SELECT id, status FROM responses")
    ends = {row["id"]: row["status"] for row in rows}
    assert forgotten["id"] not in ends
    assert set(ends.values()) == set(ENDS)
    assert (ends[incomplete[0]], ends[failing[0]], ends[late]) == ("incomplete", "failed", "failed")
    for id_ in (incomplete[0], failing[0]):
        await ask(found, "DELETE", f"/{id_}")
    await check_transitions(found)


async def check_transitions(found: Ground) -> None:
    rows = await found.sql("SELECT * FROM transitions")
    seen = {(row["before"], row["after"]) for row in rows}
    # A live response that is deleted is cancelled first.
    assert seen <= ALLOWED, seen - ALLOWED
    assert seen == ALLOWED, f"the scenario did not show {ALLOWED - seen}"
    for row in rows:
        moved_in = row["after"] == "in_progress" and row["before"] in LIVE
        handed_over = row["before"] == row["after"] and not row["grew"]
        assert row["grew"] or handed_over or not moved_in, dict(row)


async def ask(found: Ground, method: str, path: str) -> None:
    url = f"{found.replicas[0].base_url}/responses{path}"
    async with asyncio.timeout(30), await Wire.open(url, method=method) as wire:
        await wire.rest()
        assert wire.status == 200, bytes(wire.body)
