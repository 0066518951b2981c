"""What an application gives its runs: context, configuration, hooks, session, agents made anew."""

import asyncio
import contextlib
import sys
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import pytest
from agents import (
    Agent,
    AgentHooks,
    ModelSettings,
    RunConfig,
    RunContextWrapper,
    RunHooks,
    Runner,
    SQLiteSession,
    function_tool,
)
from agents.lifecycle import RunHooksBase

import longrun
from longrun.app import create_app
from longrun.errors import ConfigurationError
from longrun.execution.application import Application, of_modules
from longrun.execution.configuration import run_config
from longrun.execution.current import Current
from longrun.execution.hooks import Hooks
from longrun.execution.registry import Registry, given, load
from longrun.execution.served import Served, made
from longrun.settings import Settings
from tests.journal_agents.models import agent, calls, says
from tests.unit import runs
from tests.unit.streams import request

CURRENT = Current("resp_1", 1, "somebody")


@function_tool
async def show(context: RunContextWrapper[Any]) -> str:
    """Show the context."""
    return repr(context.context)


def showing() -> Agent[Any]:
    return agent("agent", [calls("show")], [says("done")], tools=[show])


async def output_of(**given: Any) -> str:
    """What a tool saw as the context."""
    stream = runs.check(await runs.run(showing(), request(input="go"), **given))
    assert stream.response is not None
    assert stream.response["status"] == "completed", stream.response["error"]
    return str(next(i["output"] for i in stream.response["output"] if "output" in i))


async def error_of(served: Any = None, **given: Any) -> str:
    stream = runs.check(await runs.run(served or showing(), request(input="go"), **given))
    assert stream.response is not None
    assert stream.response["status"] == "failed"
    return str(stream.response["error"]["message"])


class TestContext:
    async def test_is_made_from_the_run(self) -> None:
        async def later(run: Current) -> str:
            await asyncio.sleep(0)
            assert longrun.current() == run
            return f"attempt {run.attempt}"

        assert await output_of(context=lambda run: f"attempt {run.attempt}") == repr("attempt 1")
        assert await output_of(context=later) == repr("attempt 1")
        assert await output_of(context=lambda: "nothing needed") == repr("nothing needed")
        assert await output_of() == "None"

    async def test_one_that_is_a_context_manager_is_left_with_the_run(self) -> None:
        events: list[str] = []

        @contextlib.asynccontextmanager
        async def context() -> AsyncIterator[str]:
            events.append("entered")
            try:
                yield "inner"
            finally:
                await asyncio.sleep(0)
                events.append("left")

        assert await output_of(context=context) == repr("inner")
        assert events == ["entered", "left"]
        await runs.run(showing(), request(input="go"), context=context, cancel_after=3)
        assert events == ["entered", "left"] * 2

    async def test_one_that_swallows_what_failed_leaves_the_run_failed(self) -> None:
        @contextlib.asynccontextmanager
        async def context() -> AsyncIterator[str]:
            with contextlib.suppress(Exception):
                yield "inner"

        failing = agent("agent", [RuntimeError("secret")])
        assert await error_of(failing, context=context) == "The agent failed."

    async def test_one_that_cannot_be_left_fails_nothing(
        self, caplog: pytest.LogCaptureFixture
    ) -> None:
        @contextlib.asynccontextmanager
        async def context() -> AsyncIterator[str]:
            yield "inner"
            raise SystemExit("no")

        assert await output_of(context=context) == repr("inner")
        assert "could not be left" in caplog.text

    @pytest.mark.parametrize(
        "error", [RuntimeError("secret"), SystemExit(1), asyncio.CancelledError]
    )
    async def test_one_that_cannot_be_made_fails_its_run(self, error: Any) -> None:
        def context() -> Any:
            raise error

        assert await error_of(context=context) == "The agent failed."


class Noting(RunHooks[Any]):
    """Notes what it is told."""

    def __init__(self, told: list[str], error: BaseException | None = None) -> None:
        self.told = told
        self.error = error

    async def on_tool_start(self, context: Any, agent: Any, tool: Any) -> None:
        self.told.append(f"start {tool.name}")

    async def on_tool_end(self, context: Any, agent: Any, tool: Any, result: Any) -> None:
        self.told.append(f"end {tool.name}")
        if self.error is not None:
            raise self.error

    async def on_llm_start(self, *args: Any) -> None:
        self.told.append("llm")


class TestHooks:
    async def test_are_told_beside_ours(self) -> None:
        told: list[str] = []
        assert await output_of(hooks=Noting(told)) == "None"
        assert told == ["llm", "start show", "end show", "llm"]

    async def test_may_be_made_for_each_run(self) -> None:
        told: list[str] = []
        await output_of(hooks=lambda run: Noting(told))
        assert told[:2] == ["llm", "start show"]

    def test_all_of_them_are_handed_on(self) -> None:
        names = {name for name in vars(RunHooksBase) if name.startswith("on_")}
        assert names == {name for name in vars(Hooks) if name.startswith("on_")}

    @pytest.mark.parametrize("error", [RuntimeError("secret"), SystemExit(1), KeyboardInterrupt()])
    async def test_one_that_raises_fails_its_run_after_the_tool_is_recorded(
        self, error: BaseException
    ) -> None:
        commits = await runs.run(showing(), request(input="go"), hooks=Noting([], error))
        stream = runs.check(commits)
        assert stream.response is not None
        assert stream.response["error"]["message"] == "The agent failed."
        assert [step.kind for step in commits.committed_steps] == ["model", "tool"]

    async def test_a_run_that_one_starts_is_its_own_affair(self) -> None:
        class Asking(RunHooks[Any]):
            async def on_llm_start(self, *args: Any) -> None:
                found = await Runner.run(agent("inner", [says("hello")]), "go")
                assert found.final_output == "hello"

        commits = await runs.run(showing(), request(input="go"), hooks=Asking())
        assert [step.kind for step in commits.committed_steps] == ["model", "tool", "model"]


def merged(given: RunConfig | None, model_settings: ModelSettings | None = None) -> RunConfig:
    return run_config(
        given,
        group_id="resp_1",
        workflow_name="agent",
        model_settings=model_settings,
        traced=False,
    )


class TestRunConfig:
    def test_keeps_what_is_ours(self) -> None:
        found = merged(RunConfig(trace_metadata={"a": 1}, nest_handoff_history=True))
        assert (found.group_id, found.workflow_name, found.tracing_disabled) == (
            *("resp_1", "agent"),
            True,
        )
        assert (found.trace_metadata, found.nest_handoff_history) == ({"a": 1}, True)
        assert merged(RunConfig(workflow_name="mine")).workflow_name == "mine"

    def test_what_a_request_asks_for_wins(self) -> None:
        given = RunConfig(model_settings=ModelSettings(temperature=0.1, top_p=0.2))
        found = merged(given, ModelSettings(temperature=0.9)).model_settings
        assert found is not None
        assert (found.temperature, found.top_p) == (0.9, 0.2)
        assert merged(given).model_settings == given.model_settings
        assert merged(None, ModelSettings(top_p=1)).model_settings == ModelSettings(top_p=1)

    async def test_is_the_run_s(self) -> None:
        asked: list[Any] = []

        def noting(data: Any) -> Any:
            asked.append(data.context)
            return data.model_data

        config = RunConfig(call_model_input_filter=noting)
        for each in (config, lambda run: config):
            await output_of(run_config=each, context=lambda: "context")
        assert asked == ["context"] * 4

    @pytest.mark.parametrize("name", ["group_id", "sandbox"])
    async def test_what_cannot_be_set(self, name: str) -> None:
        values: dict[str, Any] = {"group_id": "mine", "sandbox": {}}
        config = RunConfig(**{name: values[name]})
        with pytest.raises(ConfigurationError, match=f"RunConfig.{name} cannot be set: "):
            Application(run_config=config)
        assert await error_of(run_config=lambda: config) == "The agent failed."


class TestWrongTypes:
    @pytest.mark.parametrize(
        ("given", "said"),
        [
            ({"context": {"pool": 1}}, "context is {'pool': 1} (dict): expected a function"),
            ({"session": SQLiteSession}, None),
            ({"session": SQLiteSession("one")}, "(SQLiteSession): expected a function"),
            ({"run_config": {"model": "x"}}, "run_config is {'model': 'x'} (dict)"),
            ({"hooks": AgentHooks()}, "expected a function that gives agents.RunHooks"),
            ({"context": lambda a, b: 1}, "which needs 2 arguments"),
            ({"context": lambda a, b=2, *c, d=3: 1}, None),
            ({"lifespan": 5}, "lifespan is 5 (int)"),
        ],
    )
    def test_are_refused_at_start(self, given: Any, said: str | None) -> None:
        if said is None:
            Application(**given)
            return
        with pytest.raises(ConfigurationError) as raised:
            Application(**given)
        assert said in raised.value.message

    @pytest.mark.parametrize("name", ["hooks", "run_config"])
    async def test_made_in_a_run_fail_it(self, name: str, caplog: pytest.LogCaptureFixture) -> None:
        assert await error_of(**{name: lambda: "text"}) == "The agent failed."
        assert f"{name} gave str: expected agents.Run" in caplog.text


class TestLifespan:
    @staticmethod
    async def open(lifespan: Any) -> Any:
        async with Application(lifespan=lifespan).opened("the app") as state:
            return state

    async def test_gives_what_it_yields(self) -> None:
        @contextlib.asynccontextmanager
        async def of_nothing() -> AsyncIterator[str]:
            yield "state"

        @contextlib.asynccontextmanager
        async def of_the_app(app: Any) -> AsyncIterator[str]:
            yield f"state of {app}"

        assert await self.open(of_nothing) == "state"
        assert await self.open(of_the_app) == "state of the app"
        assert await self.open(None) is None

    async def test_one_that_fails_says_where(self) -> None:
        @contextlib.asynccontextmanager
        async def fails() -> AsyncIterator[str]:
            raise RuntimeError("no pool")
            yield

        with pytest.raises(ConfigurationError, match=r"(?s)no pool.*test_application.py, line"):
            await self.open(fails)

    async def test_one_that_is_no_context_manager(self) -> None:
        async def bare() -> None: ...

        async def generator() -> AsyncIterator[str]:
            yield ""

        for wrong in (bare, generator, lambda: 5):
            with pytest.raises(ConfigurationError, match="asynccontextmanager"):
                await self.open(wrong)


MODULE = """
import contextlib
from agents import Agent
import json as session

one = Agent(name="one")
hooks = Agent(name="hooks")

def context(run):
    return "mine"

@contextlib.asynccontextmanager
async def lifespan():
    yield 1
"""


@pytest.fixture
def module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A module of agents with more beside them."""
    (tmp_path / "beside.py").write_text(MODULE)
    (tmp_path / "wrong.py").write_text("from agents import Agent\none = Agent('x')\ncontext = 5")
    (tmp_path / "second.py").write_text(MODULE.replace('"one"', '"two"'))
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    yield tmp_path
    for name in ("beside", "wrong", "second"):
        sys.modules.pop(name, None)


class TestModules:
    def test_what_stands_beside_agents(self, module: Path) -> None:
        load(["beside:one"])
        found = of_modules(["beside:one", "beside:hooks"])
        assert found.keys() == {"context", "lifespan"}, "neither a module nor an agent"
        app = create_app("beside:one", Settings.load(database_url="postgresql:///x"))
        assert app._application.context is found["context"]

    def test_arguments_win(self, module: Path) -> None:
        def mine() -> None: ...

        settings = Settings.load(database_url="postgresql:///x")
        app = create_app(["beside:one"], settings, context=mine)
        assert app._application.context is mine
        assert app._application.lifespan is not None

    def test_a_wrong_one_names_the_module(self, module: Path) -> None:
        load(["wrong:one"])
        with pytest.raises(ConfigurationError, match=r"wrong: context is 5 .int.*rename it"):
            of_modules(["wrong:one"])

    def test_two_that_differ(self, module: Path) -> None:
        load(["beside:one", "second:one"])
        with pytest.raises(ConfigurationError, match="both beside and second have 'context'"):
            of_modules(["beside:one", "second:one"])


class TestAgents:
    async def test_are_made_for_each_attempt(self) -> None:
        asked = request(input="go")
        attempts: list[int] = []

        async def factory(run: Current) -> Agent[Any]:
            attempts.append(run.attempt)
            return showing()

        commits = await runs.run(factory, asked)
        runs.check(commits)
        died = commits.died_after(4)
        await runs.take_over(factory, asked, died)
        assert attempts == [1, 2]

    async def test_what_is_no_agent_fails_its_run(self, caplog: pytest.LogCaptureFixture) -> None:
        assert await error_of(lambda: "text") == "The agent failed."
        assert "gave str: expected an agents.Agent" in caplog.text

    async def test_names(self) -> None:
        one = Agent[Any](name="one")

        def by_name(run: Current) -> Agent[Any]:
            return one

        found = Registry(given({"key": by_name, "other": one, "x": Served(by_name, "explicit")}))
        assert found.names() == ["key", "one", "explicit"]
        assert Registry(given([by_name, one])).names() == ["by_name", "one"]
        assert Registry(given(Served(one, "renamed"))).names() == ["renamed"]
        assert Registry(given(lambda: [one])).names() == ["one"]
        assert found.agents() == [one]
        assert await made(found.get("key"), CURRENT) is one

    @pytest.mark.parametrize(
        ("agents", "said"),
        [
            (5, "agents is int: expected an agents.Agent"),
            (b"abc", "agents is bytes: expected"),
            ([5], "agents has 5 among its agents"),
            ([Agent], "expected an agents.Agent, got type"),
            ({"a": 5}, "agents has 5 among its agents"),
            ([lambda: 1], "has no name by which clients could call its agent"),
            ([lambda a, b: 1], "needs 2 arguments"),
            (lambda run: 1, "To make an agent for each run, put the function into a dict"),
            ([], "no agent"),
        ],
    )
    def test_what_cannot_be_served(self, agents: Any, said: str) -> None:
        with pytest.raises(ConfigurationError) as raised:
            Registry(given(agents))
        assert said in raised.value.message

    def test_an_async_function_by_itself(self) -> None:
        async def later() -> None: ...

        with pytest.raises(ConfigurationError, match=r"in a dict or longrun\.Served"):
            given(later)
