"""`GET /runs`: what consoles and command lines show of the responses of a caller."""

import secrets
import signal
from collections.abc import AsyncIterator, Iterator
from typing import Any

import httpx2
import pytest

from longrun.jsontext import dumps
from longrun.store.overview import FIRST_WORDS, SCANNED, first_words
from tests import servers
from tests.postgres import Server
from tests.reading import create, eventually, in_background, script
from tests.servers import SEALED, Replica
from tests.storing import connected, reads_tables


@pytest.fixture(scope="module")
def replica(database: Server) -> Iterator[Replica]:
    with servers.replicas(1, database.url, schema="runs") as started:
        yield started[0]


@pytest.fixture
async def client(replica: Replica) -> AsyncIterator[httpx2.AsyncClient]:
    async with httpx2.AsyncClient(base_url=replica.base_url, timeout=30) as opened:
        yield opened


async def runs(client: httpx2.AsyncClient, **query: Any) -> dict[str, Any]:
    answer = await client.get("/runs", params=query)
    assert answer.status_code == 200, answer.text
    return dict(answer.json())


async def test_an_entry(client: httpx2.AsyncClient, replica: Replica) -> None:
    ended = await create(replica, "tell  me", model="scripted", metadata={"k": "v"}, user="ann")
    failed = await create(replica, script(deltas=5, fail=2), model="scripted")
    page = await runs(client, limit=2)
    assert [each["id"] for each in page["data"]] == [failed["id"], ended["id"]]
    entry, other = page["data"][1], page["data"][0]
    assert entry["created_at"] <= entry.pop("finished_at")
    assert int(entry.pop("created_at")) == ended["created_at"]
    assert entry.pop("events") > 3
    assert entry == {
        "object": "run",
        "id": ended["id"],
        "principal": "",
        "model": "scripted",
        "status": "completed",
        "background": False,
        "input": "tell me",
        "attempt": 1,
        "deaths": 0,
        "handovers": 0,
        "replica_id": None,
        "waits": False,
        "previous_response_id": None,
        "conversation_id": None,
        "forked_from": None,
        "metadata": {"k": "v"},
        "user": "ann",
        "usage": ended["usage"],
        "error": None,
        "reason": None,
    }
    assert (other["status"], other["error"]) == ("failed", failed["error"])


async def test_pages_and_filters(client: httpx2.AsyncClient, replica: Replica) -> None:
    mark = secrets.token_hex(8)
    made = [
        (await create(replica, f"{mark} {n}", model="scripted", metadata={"m": mark}))["id"]
        for n in range(5)
    ]
    broken = script(fail=0, delta=mark)
    made.append((await create(replica, broken, model="scripted", metadata={"m": mark}))["id"])
    made.reverse()
    mine = {"metadata[m]": mark}
    seen: list[str] = []
    after: str | None = ""
    while after is not None:
        page = await runs(client, limit=4, after=after, **mine)
        seen += [each["id"] for each in page["data"]]
        after = page["next_after"]
    assert seen == made

    async def found(**query: Any) -> list[str]:
        return [each["id"] for each in (await runs(client, **query))["data"]]

    assert await found(status="failed", **mine) == made[:1]
    assert await found(status="failed, completed", **mine) == made
    assert await found(status="queued,in_progress", **mine) == []
    assert await found(model="chain", **mine) == []
    if SEALED:  # what is encrypted is not searched
        assert await found(q=mark) == []
    else:
        assert await found(q=mark) == made
        assert await found(q=f"{mark.upper()} 3") == [made[2]]
        assert await found(q=f'"delta": "{mark}"') == made[:1]  # text, in which quotes are escaped
    assert await found(q=made[3]) == [made[3]]
    assert made[3] in await found(q=made[3][:20])
    assert made[3] not in await found(q=made[3][:9] + "f")
    assert await found(q="100%") == []


@reads_tables
async def test_a_search_goes_on_where_it_stopped(
    client: httpx2.AsyncClient, replica: Replica, database: Server
) -> None:
    """A text is looked for in so many responses a page, and what is beyond is on the next one."""
    oldest = await create(replica, "a needle", model="scripted")
    async with connected(database.url) as connection:
        await connection.execute(
            """
            INSERT INTO runs.responses (id, principal, agent, status, background, stored, attempt,
                spent, document, input, request, deadline_at, finished_at)
            SELECT 'resp_ffff' || lpad(to_hex(n), 28, '0'), '', 'scripted', 'completed', true, true,
                1, 1, '{}', '[{"role": "user", "content": "hay"}]', '{}', now(), now()
            FROM generate_series(1, $1::integer) AS n
            """,
            SCANNED + 10,
        )
    try:
        page = await runs(client, q="needle")
        assert page["data"] == []
        page = await runs(client, q="needle", after=page["next_after"])
        assert [each["id"] for each in page["data"]] == [oldest["id"]]
        assert page["next_after"] is None
    finally:
        async with connected(database.url) as connection:
            await connection.execute("DELETE FROM runs.responses WHERE id > 'resp_ffff'")


@pytest.mark.parametrize(
    "query", ["status=lost", "after=resp_1", "limit=0", "order=asc", "q=%00"], ids=str
)
async def test_a_query_that_is_none(client: httpx2.AsyncClient, query: str) -> None:
    answer = await client.get(f"/runs?{query}")
    assert answer.status_code == 400
    assert answer.json()["error"]["param"] == query.partition("=")[0]


def test_first_words() -> None:
    def said(text: Any, role: str = "user") -> dict[str, Any]:
        return {"role": role, "content": text}

    parts = [{"type": "input_text", "text": "look"}, {"type": "input_image", "image_url": "data:"}]
    items = [said("first"), said("last\n one"), said("me", "assistant")]
    assert first_words(dumps(items).decode()) == "last one"
    assert first_words(dumps([said([*parts, {"text": "at it"}])]).decode()) == "look at it"
    assert first_words(dumps([{"type": "function_call_output", "output": "x"}]).decode()) == ""
    assert first_words("[]") == ""
    long = dumps([said("wörd " * 3000)]).decode()
    assert len(first_words(long)) == FIRST_WORDS
    assert first_words(long[:4096]) == first_words(long)
    assert first_words('[{"content":"a\\\\b\\u00') == "a\\b"
    assert first_words('[{"type":"x","output":"') == ""


async def test_its_course(client: httpx2.AsyncClient, replica: Replica) -> None:
    """One run with its attempts, and when its events came."""
    made = await create(replica, script(deltas=3, pause=0.2), model="scripted")
    answer = await client.get(f"/runs/{made['id']}")
    run = answer.json()
    assert {**run, "attempts": [], "times": []} == {
        **(await runs(client, q=made["id"]))["data"][0],
        "attempts": [],
        "times": [],
    }
    [attempt] = run["attempts"]
    assert attempt["replica_id"].startswith("replica_")
    assert attempt["until"] == pytest.approx(run["finished_at"], abs=0.1)
    assert (attempt["attempt"], attempt["first_event"], attempt["how"]) == (1, 0, "completed")
    numbers = [number for number, _ in run["times"]]
    assert numbers == sorted(set(numbers))
    assert numbers[-1] == run["events"] - 1
    times = [ms for _, ms in run["times"]]
    assert times[0] == 0
    assert times == sorted(times)
    took = (run["finished_at"] - run["created_at"]) * 1000
    assert times[-1] == pytest.approx(took, abs=50)
    assert took > 300
    unknown = await client.get("/runs/resp_" + "0" * 32)
    assert unknown.status_code == 404


async def test_the_course_over_a_takeover(database: Server) -> None:
    """Who executed each attempt, and how that ended, is kept by Postgres itself."""
    with servers.replicas(2, database.url, schema="runs_over") as (first, second):
        id_ = await in_background(first, deltas=100, pause=0.02)
        async with httpx2.AsyncClient(base_url=second.base_url, timeout=30) as client:

            async def run() -> dict[str, Any]:
                return dict((await client.get(f"/runs/{id_}")).json())

            async def has_begun() -> bool:
                return (await run())["events"] > 5

            await eventually(has_begun)
            first.signal(signal.SIGKILL)
            first.wait()

            async def has_ended() -> bool:
                return bool((await run())["finished_at"])

            await eventually(has_ended)
            found = await run()
    before, after = found["attempts"]
    assert (before["first_event"], before["how"]) == (0, "died")
    assert (after["attempt"], after["how"]) == (2, "completed")
    assert 0 < after["first_event"] < found["events"]
    assert before["replica_id"] != after["replica_id"]
    assert found["created_at"] < before["until"] < after["until"]


async def test_the_system(client: httpx2.AsyncClient, replica: Replica) -> None:
    held = await in_background(replica, deltas=1, hold=60)
    paced = await in_background(replica, deltas=4000, pause=0.02)

    async def is_paced() -> bool:
        told = (await client.get("/system")).json()
        rates = [each["events_per_second"] for each in told["replicas"]]
        return bool(3 < sum(rates) <= told["events_per_second"] < 200)

    await eventually(is_paced)
    await client.post(f"/responses/{paced}/cancel")
    system = (await client.get("/system")).json()
    assert system["live"] >= 1
    assert (system["waiting"], system["queue"]) == (0, [])
    [alive] = [each for each in system["replicas"] if each["pid"] == replica.process.pid]
    assert alive["lease_seconds"] > 0
    assert alive["runs"] >= 1
    assert {"responses", "event_chunks"} <= {each["name"] for each in system["tables"]}
    await client.post(f"/responses/{held}/cancel")


async def test_what_waits_is_counted_by_agent_and_principal(database: Server, schema: str) -> None:
    environment = {"LONGRUN_MAX_RUNS": "1"}
    started = servers.replicas(1, database.url, schema=schema, environment=environment)
    with started as (full,):
        ids = [await in_background(full, deltas=1, hold=60) for _ in range(3)]
        async with httpx2.AsyncClient(base_url=full.base_url, timeout=30) as client:
            system = (await client.get("/system")).json()
            listed = await runs(client, status="queued")
        [line] = system["queue"]
        assert (line["model"], line["principal"], line["waiting"]) == ("scripted", "", 2)
        assert line["oldest_seconds"] >= 0
        assert [each["id"] for each in listed["data"]] == ids[:0:-1]


async def test_commits_of_rewritten_chunks_have_no_time(
    client: httpx2.AsyncClient, replica: Replica, database: Server
) -> None:
    made = await create(replica, "hello", model="scripted")
    async with connected(database.url) as connection:
        await connection.execute(
            "UPDATE runs.event_chunks SET committed_at = now() + interval '1 hour'"
            " WHERE response_id = $1",
            made["id"],
        )
    run = (await client.get(f"/runs/{made['id']}")).json()
    assert {ms for _, ms in run["times"]} == {None}
