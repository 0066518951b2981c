"""The cases that a step journal has to handle (src/longrun/execution/README.md), one by one.

That they hold at every crash point is shown in test_journal.py; here is what each is about.
"""

import asyncio
import dataclasses
import functools
import json
import logging
import threading
import time
from pathlib import Path
from typing import Any

import asyncpg
import pytest
from agents import Agent, RunContextWrapper, SQLiteSession, function_tool, handoff

import longrun
from longrun.errors import ReplayMismatch
from longrun.execution.replay.journal import Journal, fingerprint
from longrun.store.records import Step
from tests import crashing, postgres
from tests.crashing import (
    Crash,
    Left,
    Served,
    asked,
    check_log,
    crash,
    effects_of,
    finish,
    left_of,
    replica,
    resume_all,
    take_over,
)
from tests.journal_agents import actions, calling, inside, models, outside
from tests.journal_agents.models import agent, calls, says, thinks
from tests.journal_agents.tools import look
from tests.scripted_model import ScriptedModel

SCHEMA = "journal_cases"


@pytest.fixture(autouse=True)
def as_pairs(monkeypatch: pytest.MonkeyPatch) -> None:
    """Calls are shown with their call ids."""
    monkeypatch.setenv("LONGRUN_SERVER_TOOLS", "function_call")


class Ground:
    """Crashes one response at named effects, and looks at what became of it."""

    def __init__(self, url: str, folder: Path) -> None:
        self.url = url
        self.effects = folder / "effects"
        self.plan = folder / "plan"

    async def taken_over(
        self, served: Served, *points: str, after: Served | None = None, given: Any = "go"
    ) -> list[Left]:
        """What is left of responses that died after these effects and were taken over."""
        crashed = Crash(served, self.url, SCHEMA, self.effects, self.plan, given, "first", points)
        plan = crash(crashed)
        await resume_all(crashed._replace(served=after or served), plan)
        self.happened = [effects_of(self.effects)[response_id] for response_id in plan]
        found = [await left_of(self.url, SCHEMA, response_id) for response_id in plan]
        for left, effects, point in zip(found, self.happened, points, strict=True):
            check_log(left)
            assert f"first {point}" in effects, "it did not come to this"
            assert left.attempts[-1] == 2
        return found


@pytest.fixture
def ground(database: postgres.Server, tmp_path: Path) -> Ground:
    return Ground(database.url, tmp_path)


def texts(left: Left) -> list[str]:
    return [item["content"][0]["text"] for item in left.output if item["type"] == "message"]


def outputs(left: Left) -> dict[str, Any]:
    return {
        item["call_id"]: item["output"] for item in left.output if item["type"].endswith("_output")
    }


def keys(left: Left) -> set[tuple[str, str, str]]:
    return {(step.scope, step.kind, step.key) for step in left.steps}


async def test_case_01_agents_as_tools_have_their_inner_steps_recorded_never_the_outer_result(
    ground: Ground,
) -> None:
    served = Served(inside.nested)
    [left] = await ground.taken_over(served, "commit tool /call_1/call_2/call_1")
    assert outputs(left)["call_1"] == "found"
    assert {("/call_1", "model", "1"), ("/call_1/call_2", "tool", "call_1")} <= keys(left)
    assert not {("", "tool", "call_1"), ("", "tool", "call_2")} & keys(left)


async def test_case_02_a_handoffs_callback_is_a_step_keyed_by_its_turn(ground: Ground) -> None:
    served = Served(inside.handing_off)
    recorded, interrupted = await ground.taken_over(
        served, "commit handoff second", "start handoff second"
    )
    assert ("", "handoff", "1") in keys(recorded)
    started = [" ".join(lines).count("start handoff second") for lines in ground.happened]
    assert started == [1, 2]
    assert texts(recorded)[-1] == texts(interrupted)[-1] == "the third is done"


async def test_case_03_keys_are_scope_and_turn_or_call_id_never_a_models_ids(
    ground: Ground,
) -> None:
    """The same call ids at three depths, and `__fake_id__` everywhere."""
    [left] = await ground.taken_over(Served(inside.nested), "start model agent::1")
    assert keys(left) == {
        *(("", "model", turn) for turn in "01"),
        ("", "tool", "call_3"),
        *((f"/{call}", "model", turn) for call in ("call_1", "call_2") for turn in "01"),
        *((f"/{call}", "tool", "call_1") for call in ("call_1", "call_2")),
        *((f"/{call}/call_2", "model", turn) for call in ("call_1", "call_2") for turn in "01"),
        *((f"/{call}/call_2", "tool", "call_1") for call in ("call_1", "call_2")),
    }
    assert models.FAKE not in str(left.output)


# Agents whose code was changed since: a replay must notice, or must not mind.


def handing(
    *, tool: Any = look, name: str = "second", to: str = "third", stops: bool = False
) -> Agent[Any]:
    third = agent(to, [says("the end")])
    second = agent(
        name,
        [calls("look", "call_1", what="a")],
        [calls("transfer_to_third", "call_2")],
        tools=[tool],
        handoffs=[handoff(third, tool_name_override="transfer_to_third")],
        tool_use_behavior="stop_on_first_tool" if stops else "run_llm_again",
    )
    on = handoff(second, tool_name_override="transfer_to_second")
    return agent("agent", [calls("transfer_to_second", "call_0")], handoffs=[on])


def asking(*, tool: Any = look, name: str = "inner", stops: bool = False) -> Agent[Any]:
    inner = agent(
        name,
        [calls("look", "call_1", what="a")],
        [says("found")],
        tools=[tool],
        tool_use_behavior="stop_on_first_tool" if stops else "run_llm_again",
    )
    return agent(
        "agent",
        [calls("ask", "call_1", input="x")],
        [calls("look", "call_2", what="after")],
        [says("asked")],
        tools=[inner.as_tool("ask", "ask"), look],
    )


watch = dataclasses.replace(look, name="watch")

CHANGES: dict[str, tuple[Any, str, Any]] = {
    "agent renamed": (handing, "commit tool /call_1", functools.partial(handing, name="other")),
    "handoff leads elsewhere": (
        handing,
        "commit handoff third",
        functools.partial(handing, to="fourth"),
    ),
    "ends earlier": (handing, "commit handoff third", functools.partial(handing, stops=True)),
    "tool renamed": (handing, "commit tool /call_1", functools.partial(handing, tool=watch)),
    "inner agent renamed": (
        asking,
        "commit tool /call_1/call_1",
        functools.partial(asking, name="other"),
    ),
    "inner tool renamed": (
        asking,
        "commit tool /call_1/call_1",
        functools.partial(asking, tool=watch),
    ),
    "inner ends earlier": (
        asking,
        "start tool /call_2",
        functools.partial(asking, stops=True),
    ),
}
"""How the code was, after which effect the response died, and how the code is now."""


@pytest.mark.parametrize("change", CHANGES)
async def test_case_04_changed_code_fails_the_run_and_says_so(
    change: str, ground: Ground, caplog: pytest.LogCaptureFixture
) -> None:
    """Also within an agent as a tool, whose error function would swallow it."""
    was, died_after, now = CHANGES[change]
    [left] = await ground.taken_over(Served(was), died_after, after=Served(now))
    assert left.status == "failed"
    assert "code was changed" in left.document["error"]["message"]
    assert "ReplayMismatch" in caplog.text
    assert not [line for line in ground.happened[0] if line.startswith("last start")], "mixed"


def test_case_04_another_tool_or_other_arguments_under_a_call_id_are_a_mismatch() -> None:
    given = fingerprint(tool="look", arguments="1")
    for changed in (
        fingerprint(tool="watch", arguments="1"),
        fingerprint(tool="look", arguments="2"),
    ):
        journal = Journal([Step("", "tool", "call_1", given, "{}")])
        with pytest.raises(ReplayMismatch):
            journal.find("", "tool", "call_1", changed)
        with pytest.raises(ReplayMismatch):
            journal.find("", "tool", "call_1", given)


async def test_case_04_changed_instructions_are_a_warning(
    ground: Ground, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING):
        [left] = await ground.taken_over(Served(inside.instructed), "start model second::0")
    assert left.status == "completed"
    assert "its input_digest differs" in caplog.text


def long_run(turns: int) -> Agent[Any]:
    return agent(
        "agent",
        *([calls("nothing", f"call_{n}", n=n)] for n in range(turns)),
        [says("at last")],
        tools=[nothing],
    )


@function_tool
async def nothing(n: int) -> str:
    """Do nothing, many times over."""
    return "x" * 100


@pytest.mark.parametrize("turns", [100, 200])
async def test_case_04_hashing_and_replay_are_linear(turns: int, ground: Ground) -> None:
    """200 and 400 steps. The figures are reported, not held to."""
    served = Served(functools.partial(long_run, turns))
    crashed = Crash(
        served,
        *(ground.url, SCHEMA, ground.effects, ground.plan, "go", "first"),
        [f"start model agent::{turns}"],
    )
    [response_id] = crash(crashed)
    async with crashing.resuming(crashed) as app:
        started = time.perf_counter()
        await take_over(app)
        async with asyncio.timeout(30):
            while f"{response_id} last start" not in ground.effects.read_text():
                await asyncio.sleep(0.005)
        seconds = time.perf_counter() - started
        await finish(app, [response_id])
    left = await left_of(ground.url, SCHEMA, response_id)
    assert (left.status, len(left.steps)) == ("completed", 2 * turns + 1)
    print(f"{2 * turns} steps replayed in {seconds:.2f} s")


@pytest.mark.parametrize("point", ["session added", "session about to add", "session get"])
async def test_case_05_a_session_is_read_from_the_record_and_not_written_twice(
    point: str, ground: Ground, tmp_path: Path
) -> None:
    """It is the one session of a user, who was here before."""
    with outside.files():
        [left] = await ground.taken_over(Served(calling.sequential, session=outside.session), point)
        [response_id] = effects_of(ground.effects)
        session = SQLiteSession(response_id, outside.SESSIONS / response_id)
        held = [dict(item) for item in await session.get_items()]
        session.close()
    assert [item["call_id"] for item in held if item.get("type") == "function_call_output"] == [
        "call_1",
        "call_2",
        "call_3",
    ]
    assert [item.get("role") for item in held].count("user") == 1
    assert ("", "session", "get 1") in keys(left)


@function_tool
async def remember(context: RunContextWrapper[Any], what: str) -> str:
    """Write to the run's context, and tell what was there."""
    before, context.context = context.context, what
    return f"before: {before}"


def remembering() -> Agent[Any]:
    first, second = (calls("remember", f"call_{n}", what=f"w{n}") for n in (1, 2))
    return agent("agent", [first], [second], [says("done")], tools=[remember])


async def test_case_06_what_a_tool_writes_to_the_context_is_lost_its_result_is_not(
    ground: Ground,
) -> None:
    [left] = await ground.taken_over(Served(remembering), "commit tool /call_1")
    assert outputs(left) == {"call_1": "before: None", "call_2": "before: None"}


async def test_case_07_guardrails_run_again_their_models_are_not_asked_again(
    ground: Ground,
) -> None:
    await ground.taken_over(Served(inside.guarded), "start model agent::1")
    [happened] = ground.happened
    for name in ("guard in", "guard before", "guard after"):
        assert [line.split()[0] for line in happened if name in line].count("last") >= 1
    asked_again = [line for line in happened if line.startswith("last start model")]
    assert {line.split()[3].split(":")[0] for line in asked_again} == {"agent", "outjudge"}


@pytest.mark.parametrize("kind", ["shell", "custom", "patch", "computer", "local_shell"])
async def test_case_08_executors_of_other_tools_are_steps(kind: str, ground: Ground) -> None:
    served = Served(functools.partial(actions.acting, kind))
    done, under_way = await ground.taken_over(
        served, f"commit tool /call_{kind}", f"start tool /call_{kind}"
    )
    started = [str(lines).count(f"start tool /call_{kind}") for lines in ground.happened]
    assert started == [1, 2]
    assert outputs(done) == outputs(under_way)
    assert texts(done) == ["acted"]


class Thread:
    """A tool in a thread, which a cancel cannot stop."""

    def __init__(self) -> None:
        self.started = threading.Event()
        self.may_end = threading.Event()
        self.ended = threading.Event()
        self.told: list[bool] = []

    def agent(self) -> Agent[Any]:
        @function_tool
        def work() -> str:
            """Work."""
            self.told.append(longrun.current().cancelled)
            self.started.set()
            self.may_end.wait(30)
            self.told.append(longrun.current().cancelled)
            self.ended.set()
            return "late"

        return agent("agent", [calls("work", "call_1")], [says("never")], tools=[work])


async def test_case_09_a_cancelled_tool_is_not_recorded_and_its_thread_is_told(
    database: postgres.Server,
) -> None:
    thread = Thread()
    async with replica(Served(thread.agent), database.url, SCHEMA) as app:
        request = asked("go")
        await app.parts.admission.submit(request)
        await asyncio.to_thread(thread.started.wait, 30)
        assert await app.parts.admission.cancel(request.response_id, request.principal)
        thread.may_end.set()
        await asyncio.to_thread(thread.ended.wait, 30)
        await finish(app, [request.response_id])
    left = await left_of(database.url, SCHEMA, request.response_id)
    check_log(left)
    assert left.status == "cancelled"
    assert thread.told == [False, True]
    assert keys(left) == {("", "model", "0")}
    assert outputs(left) == {}


async def test_case_10_a_record_and_its_events_are_one_commit(database: postgres.Server) -> None:
    """As Postgres says it: rows written by one transaction have the same `xmin`."""
    async with replica(Served(calling.parallel), database.url, SCHEMA) as app:
        request = asked("go")
        await app.parts.admission.submit(request)
        await finish(app, [request.response_id])
    connection = await asyncpg.connect(database.url)
    rows = {}
    for table in ("steps", "items", "event_chunks"):
        rows[table] = await connection.fetch(
            f"SELECT xmin::text AS tx, * FROM {SCHEMA}.{table} WHERE response_id = $1",
            request.response_id,
        )
    await connection.close()
    done = {
        json.loads(line)["item"]["id"]: chunk["tx"]
        for chunk in rows["event_chunks"]
        for line in chunk["data"].split(b"\n")
        if line.startswith(b'{"type":"response.output_item.done"')
    }
    of_call = {}
    for row in rows["items"]:
        item = json.loads(row["item"])
        assert done[item["id"]] == row["tx"]
        of_call[item["type"], item.get("call_id")] = row["tx"]
    steps = {(row["kind"], row["key"]): row for row in rows["steps"]}
    assert steps["model", "0"]["tx"] == of_call["function_call", "call_1"]
    assert steps["model", "1"]["tx"] == of_call["message", None]
    for call in ("call_1", "call_2", "call_3", "call_4", "call_5"):
        assert steps["tool", call]["tx"] == of_call["function_call_output", call]
    for row in rows["steps"]:
        json.loads(row["result"])


def inner_approval() -> Agent[Any]:
    @function_tool(needs_approval=True)
    async def spend(amount: int) -> str:
        """Spend."""
        raise AssertionError("nobody approved")

    inner = agent(
        "inner",
        [calls("look", "call_1", what="a")],
        [calls("spend", "call_2", amount=1)],
        tools=[look, spend],
    )
    return agent(
        "agent",
        [calls("ask", "call_1", input="x")],
        [says("never")],
        tools=[inner.as_tool("ask", "ask")],
    )


async def test_case_11_of_an_agent_that_waits_for_approval_only_inner_steps_are_recorded(
    ground: Ground,
) -> None:
    [left] = await ground.taken_over(Served(inner_approval), "commit model inner:/call_1:1")
    assert keys(left) == {
        ("", "model", "0"),
        ("/call_1", "model", "0"),
        ("/call_1", "tool", "call_1"),
        ("/call_1", "model", "1"),
    }
    assert outputs(left) == {}
    assert len([line for line in ground.happened[0] if "start model inner" in line]) == 2


class Moody(models.Turns):
    """Says something else in each attempt."""

    def _next(self, items: Any) -> Any:
        name, _ = super()._next(items)
        return name, [thinks("hm"), says(f"in attempt {longrun.current().attempt} this")]


def moody() -> Agent[Any]:
    return Agent(name="agent", model=ScriptedModel(Moody("agent", [says("")])))


async def test_case_12_a_turn_that_was_streaming_is_asked_again_what_was_open_is_incomplete(
    ground: Ground,
) -> None:
    [left] = await ground.taken_over(Served(moody), "commit events")
    assert texts(left) == ["in attempt 2 this"]
    stream = check_log(left)
    incomplete = [
        event["item"]
        for event in stream.of("response.output_item.done")
        if event["item"].get("status") == "incomplete"
    ]
    assert all(item not in left.output for item in incomplete)
    assert "in attempt 2 this" not in str(incomplete)
