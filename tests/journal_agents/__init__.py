"""Agents whose every effect is written down (tests/crashing.py), one for each thing a run can do.

By theme: `models`, `tools`, and then agents: `calling`, `inside`, `outputs`, `actions`, `outside`.
"""

from typing import Any

from tests.crashing import Served
from tests.journal_agents.actions import hosted_like_tools, local_shell
from tests.journal_agents.calling import (
    HISTORY,
    asking_approval,
    continuing,
    first_tool_ends,
    parallel,
    paying,
    plain,
    raising,
    sequential,
    structured,
    timing_out,
    tool_ends,
)
from tests.journal_agents.inside import (
    guarded,
    handing_off,
    instructed,
    nested,
    nested_failing,
    nested_streamed,
    retrying,
    tripping,
)
from tests.journal_agents.outputs import long_outputs, rich_outputs
from tests.journal_agents.outside import mcp_server, session, with_mcp

SCENARIOS: dict[str, tuple[Served, Any]] = {
    "plain": (Served(plain), "go"),
    "sequential tools": (Served(sequential), "go"),
    "parallel tools": (Served(parallel), "go"),
    "handoffs": (Served(handing_off), "go"),
    "agents as tools": (Served(nested), "go"),
    "agents as tools, streamed": (Served(nested_streamed), "go"),
    "agents as tools, failing": (Served(nested_failing), "go"),
    "a tool that raises": (Served(raising), "go"),
    "guardrails": (Served(guarded), "go"),
    "a guardrail that trips": (Served(tripping), "go"),
    "structured output": (Served(structured), "go"),
    "MCP": (Served(with_mcp, mcp_server), "go"),
    "rich outputs": (Served(rich_outputs), "go"),
    "long outputs": (Served(long_outputs), "go"),
    "shell, custom, patch, computer": (Served(hosted_like_tools), "go"),
    "local shell": (Served(local_shell), "go"),
    "stop on first tool": (Served(first_tool_ends), "go"),
    "stop at tools": (Served(tool_ends), "go"),
    "tool timeout": (Served(timing_out), "go"),
    "at most once": (Served(paying), "go"),
    "approval": (Served(asking_approval), "go"),
    "retried requests": (Served(retrying), "go"),
    "changing instructions": (Served(instructed), "go"),
    "a session": (Served(sequential, session=session), "go"),
    "a session, handoffs": (Served(handing_off, session=session), "go"),
    "previous response": (Served(continuing), HISTORY),
}
"""What is served, and what it is asked."""
