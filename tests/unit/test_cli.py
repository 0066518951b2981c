"""The command: its help, its messages, and what it prints for people and programs."""

import json
import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner

from longrun import cli

COMMANDS = ("serve", "demo", "migrate", "settings")

OF_FILES = (
    "ps",
    "run",
    "tail",
    "cancel",
    "retry",
    "show",
    "doctor",
    "prune",
    "dashboard",
    "deploy",
)
"""Commands that have a file, or share one."""


def run(monkeypatch: pytest.MonkeyPatch, *arguments: str) -> int:
    """What `longrun` with these arguments exits with."""
    monkeypatch.setattr(sys, "argv", ["longrun", *arguments])
    with pytest.raises(SystemExit) as exited:
        cli.main()
    return int(exited.value.code or 0)


def test_these_are_all_commands() -> None:
    assert {command.callback.__name__ for command in cli.app.registered_commands} == {  # type: ignore[union-attr]
        *COMMANDS
    }


@pytest.mark.parametrize("command", [*COMMANDS, *OF_FILES])
def test_each_command_has_help_with_an_example(command: str) -> None:
    shown = CliRunner().invoke(cli.app, [command, "--help"], env={"COLUMNS": "100"}).output
    example = shown.split("Example:")[1].splitlines()[0]
    assert f"longrun {command}" in example


class TestSettings:
    def test_prints_what_is(
        self, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
    ) -> None:
        monkeypatch.setenv("LONGRUN_PORT", "9")
        assert run(monkeypatch, "settings") == 0
        lines = [line.split() for line in capsys.readouterr().out.splitlines()]
        assert ["LONGRUN_PORT", "9", "environment"] in lines
        assert ["LONGRUN_LOG_LEVEL", "info", "default"] in lines
        assert run(monkeypatch, "settings", "--json") == 0
        found = json.loads(capsys.readouterr().out)
        assert (found["LONGRUN_PORT"]["value"], found["LONGRUN_PORT"]["default"]) == (9, 8000)


class TestErrors:
    def test_a_command_that_starts_nothing_does_not_say_so(
        self, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
    ) -> None:
        monkeypatch.setenv("LONGRUN_POOLSIZE", "9")
        for command in ("settings", "migrate"):
            assert run(monkeypatch, command) == 2
            said = capsys.readouterr().err
            assert (
                said
                == "error\nLONGRUN_POOLSIZE is not a setting; did you mean LONGRUN_POOL_SIZE?\n"
            )
        assert run(monkeypatch, "serve") == 2
        assert capsys.readouterr().err.startswith("longrun cannot start\nLONGRUN_POOLSIZE")

    def test_of_agents_come_before_any_database(
        self,
        monkeypatch: pytest.MonkeyPatch,
        capsys: pytest.CaptureFixture[str],
        tmp_path: Path,
    ) -> None:
        (tmp_path / "outer_agents.py").write_text("import inner_agents\n")
        (tmp_path / "inner_agents.py").write_text("def look():\n    return {}['key']\n\nlook()\n")
        monkeypatch.chdir(tmp_path)
        monkeypatch.setattr(sys, "path", list(sys.path))
        assert run(monkeypatch, "serve", "outer_agents:agent", "--port", "0") == 2
        said = capsys.readouterr().err.splitlines()
        assert said == [
            "longrun cannot start",
            "cannot import 'outer_agents' (of 'outer_agents:agent'): KeyError: 'key'",
            f"  {tmp_path}/outer_agents.py, line 1, in <module>: import inner_agents",
            f"  {tmp_path}/inner_agents.py, line 4, in <module>: look()",
            f"  {tmp_path}/inner_agents.py, line 2, in look: return {{}}['key']",
        ]
        assert not (tmp_path / ".longrun").exists()
