"""Import strings and the agents behind them."""

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from agents import Agent

from longrun.errors import ConfigurationError
from longrun.execution.registry import DEMO_AGENTS, Registry, load

MODULE = """
from agents import Agent

one, two, three = (Agent(name=name) for name in ("one", "two", "three"))
a_list = [one, two]
a_tuple = (two, one)
a_dict = {"x": two, "y": three}

def make_one():
    return one

def make_list():
    return [one, two]

async def make_async():
    return one

def generate():
    yield one
    yield two

def breaks_off():
    yield one
    raise RuntimeError("no more")

def needs_something(what):
    return one

def fails():
    raise RuntimeError("no key")

class Holder:
    inner = three

    def make(self):
        return two

holder = Holder()
holder.deep = Holder()
text, number, nothing, wrong = "one", 5, None, [one, "two"]
"""


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """The current directory, with modules of its own."""
    (tmp_path / "served.py").write_text(MODULE)
    (tmp_path / "broken.py").write_text("import nothing_like_that")
    (tmp_path / "wrong_syntax.py").write_text("def")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    yield tmp_path
    for name in ("served", "broken", "wrong_syntax"):
        sys.modules.pop(name, None)


def names(*strings: str) -> list[str]:
    return [agent.name for agent in load(strings)]


class TestLoad:
    @pytest.mark.parametrize(
        ("attribute", "expected"),
        [
            ("one", ["one"]),
            ("a_list", ["one", "two"]),
            ("a_tuple", ["two", "one"]),
            ("a_dict", ["two", "three"]),
            ("make_one", ["one"]),
            ("make_list", ["one", "two"]),
            ("generate", ["one", "two"]),
            ("holder.inner", ["three"]),
            ("holder.deep.make", ["two"]),
        ],
    )
    def test_what_an_attribute_may_be(self, attribute: str, expected: list[str]) -> None:
        assert names(f"served:{attribute}") == expected

    def test_several(self) -> None:
        assert names("served:two", "served:a_list") == ["two", "one", "two"]

    def test_of_the_current_directory(self, folder: Path) -> None:
        assert str(folder) not in sys.path
        names("served:one")
        names("served:one")
        assert sys.path.count(str(folder)) == 1

    def test_the_demonstration(self) -> None:
        assert len(names(DEMO_AGENTS)) >= 2

    @pytest.mark.parametrize(
        ("string", "said"),
        [
            ("served", "not an import string"),
            ("served:", "not an import string"),
            (":one", "not an import string"),
            ("", "not an import string"),
            ("nowhere:one", "cannot import 'nowhere'"),
            ("broken:one", "nothing_like_that"),
            ("wrong_syntax:one", "SyntaxError"),
            ("served:none_like_that", "has no 'none_like_that'"),
            ("served:holder.nothing.at.all", "has no 'holder.nothing.at.all'"),
            ("served:fails", "RuntimeError: no key"),
            ("served:needs_something", "calling 'served:needs_something' failed"),
            ("served:text", "is str"),
            ("served:number", "is int"),
            ("served:nothing", "is NoneType"),
            ("served:wrong", "has 'two' among its agents: expected an agents.Agent, got str"),
            ("served:breaks_off", "listing 'served:breaks_off' failed: RuntimeError: no more"),
        ],
    )
    def test_errors_name_the_string_and_what_is_wrong(self, string: str, said: str) -> None:
        with pytest.raises(ConfigurationError) as raised:
            load([string])
        assert said in raised.value.message
        assert repr(string) in raised.value.message

    @pytest.mark.filterwarnings("ignore:coroutine .* was never awaited:RuntimeWarning")
    def test_a_coroutine_is_no_agent(self) -> None:
        with pytest.raises(ConfigurationError, match="coroutine"):
            load(["served:make_async"])


class TestRegistry:
    def test_something_that_is_no_agent(self) -> None:
        with pytest.raises(ConfigurationError, match="got str"):
            Registry(["one"])  # type: ignore[list-item]

    def test_keeps_the_order(self) -> None:
        made = [Agent(name=name) for name in ("c", "a", "b")]
        registry = Registry(made)
        assert registry.names() == ["c", "a", "b"]
        assert registry.get("a") is made[1]

    def test_an_unknown_name(self) -> None:
        with pytest.raises(KeyError):
            Registry([Agent(name="a")]).get("b")

    def test_a_name_twice(self) -> None:
        with pytest.raises(ConfigurationError, match="two agents are named 'a'"):
            Registry([Agent(name="a"), Agent(name="a")])

    def test_no_name(self) -> None:
        with pytest.raises(ConfigurationError, match="without a name"):
            Registry([Agent(name=" ")])

    @pytest.mark.parametrize("name", ["a\0b", "a\ud800", "\udfff"])
    def test_a_name_that_postgres_cannot_hold(self, name: str) -> None:
        with pytest.raises(ConfigurationError, match="NUL or a lone surrogate"):
            Registry([Agent(name=name)])

    def test_a_name_in_any_script(self) -> None:
        names = ["Ärztin", "助手", "🦉 owl"]
        assert Registry([Agent(name=name) for name in names]).names() == names

    def test_no_agent(self) -> None:
        with pytest.raises(ConfigurationError, match="no agent"):
            Registry([])
