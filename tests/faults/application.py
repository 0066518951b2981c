"""An application as a module of `longrun serve`: what stands beside its agents is used.

What is opened, made and closed is written down, each with the process that did it.
"""

import contextlib
import os
from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Any

from agents import Agent, RunContextWrapper, RunHooks, function_tool

import longrun
from tests.scripted import echo, note_effect, scripted


@dataclass
class Context:
    """That of a run."""

    pool: str
    attempt: int


@contextlib.asynccontextmanager
async def lifespan(app: Any) -> AsyncIterator[str]:
    """What all runs of a process share."""
    note_effect("opened", f"{os.getpid()}")
    yield f"pool of {os.getpid()}"
    note_effect("closed", f"{os.getpid()} {app.settings.db_schema}")


async def context(run: longrun.Current) -> Context:
    """The context of a run."""
    note_effect("context", f"{os.getpid()} {run.attempt}")
    return Context(run.state, run.attempt)


class Hooks(RunHooks[Any]):
    """Written down as well."""

    async def on_tool_start(self, context: Any, agent: Any, tool: Any) -> None:
        note_effect("hook", f"{os.getpid()} {tool.name}")


hooks = Hooks()


@function_tool
async def show(given: RunContextWrapper[Context]) -> str:
    """Show the context."""
    return f"{given.context.pool}, attempt {given.context.attempt}"


def made(run: longrun.Current) -> Agent[Context]:
    """The agent of one run."""
    note_effect("agent", f"{os.getpid()} {run.attempt}")
    return Agent(name="anything", model=scripted(), tools=[show, echo])


agents = {"made": made}
