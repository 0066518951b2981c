"""longrun: run agents behind the Responses API and never lose a run or an event."""

import importlib
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from longrun.access.callers import Caller
    from longrun.app import Longrun, create_app
    from longrun.errors import ConfigurationError, LongrunError
    from longrun.execution.current import Current, at_most_once, current
    from longrun.execution.handling.approvals import Answer, Approval
    from longrun.execution.handling.handler import HandlerRequest, agent
    from longrun.execution.handling.steps import (
        StepFailed,
        Steps,
        sleep,
        steered,
        step,
        stream,
        wait_for,
    )
    from longrun.execution.served import Served
    from longrun.settings import Settings

__all__ = [
    "Answer",
    "Approval",
    "Caller",
    "ConfigurationError",
    "Current",
    "HandlerRequest",
    "Longrun",
    "LongrunError",
    "Served",
    "Settings",
    "StepFailed",
    "Steps",
    "agent",
    "at_most_once",
    "create_app",
    "current",
    "sleep",
    "steered",
    "step",
    "stream",
    "wait_for",
]

_FROM: Final = {
    "Answer": "longrun.execution.handling.approvals",
    "Approval": "longrun.execution.handling.approvals",
    "wait_for": "longrun.execution.handling.steps",
    "HandlerRequest": "longrun.execution.handling.handler",
    "StepFailed": "longrun.execution.handling.steps",
    "Steps": "longrun.execution.handling.steps",
    "agent": "longrun.execution.handling.handler",
    "sleep": "longrun.execution.handling.steps",
    "steered": "longrun.execution.handling.steps",
    "step": "longrun.execution.handling.steps",
    "stream": "longrun.execution.handling.steps",
    "Caller": "longrun.access.callers",
    "ConfigurationError": "longrun.errors",
    "Current": "longrun.execution.current",
    "at_most_once": "longrun.execution.current",
    "current": "longrun.execution.current",
    "Longrun": "longrun.app",
    "LongrunError": "longrun.errors",
    "Served": "longrun.execution.served",
    "Settings": "longrun.settings",
    "create_app": "longrun.app",
}


def __getattr__(name: str) -> Any:
    """Public names are imported when they are used: the Agents SDK alone takes a second."""
    if name not in _FROM:
        raise AttributeError(f"module 'longrun' has no attribute {name!r}")
    return getattr(importlib.import_module(_FROM[name]), name)
