"""What is parked while approvals are waited for: who can read it."""

import re
from importlib.metadata import version
from typing import Final

from agents.run_state import CURRENT_SCHEMA_VERSION, SUPPORTED_SCHEMA_VERSIONS

from longrun.errors import BadRequest
from longrun.store.approvals import Asked

FORMAT: Final = 1
"""The version in which we write what is parked; a server reads those up to its own."""

WRITTEN_BY: Final = f"openai-agents {version('openai-agents')}, RunState {CURRENT_SCHEMA_VERSION}"

_RUN_STATE: Final = re.compile(r"\bRunState (\S+)")


def check_readable(asked: Asked) -> None:
    """Whether this server can go on from what waits for an approval.

    Raises:
        BadRequest: another version wrote it, which this one does not know.
    """
    problem = unreadable(asked.format, asked.written_by)
    if problem is not None:
        raise BadRequest(problem, param="input", code="approval_not_readable")


def unreadable(format_: int, written_by: str) -> str | None:
    """Why this server cannot read what was parked; None if it can."""
    if format_ > FORMAT:
        return (
            f"The response that asked for this approval was parked by a newer version of longrun "
            f"(format {format_}; this server reads up to {FORMAT})."
        )
    state = _RUN_STATE.search(written_by)
    if state is not None and state[1] not in SUPPORTED_SCHEMA_VERSIONS:
        return (
            f"The response that asked for this approval was parked with {written_by}, which the "
            f"openai-agents {version('openai-agents')} of this server cannot read."
        )
    return None
