"""What does not work yet, case by case, and why: each is an xfail that turns into an error when it
works, so that its line here goes."""

import re
from dataclasses import dataclass


@dataclass(frozen=True)
class Gap:
    """Cases that fail today.

    Attributes:
        reason: what is not there yet.
        clients: a pattern of their names.
        cases: a pattern of the cases' names.
    """

    reason: str
    clients: str
    cases: str


GAPS: list[Gap] = []


def reason(client: str, case: str) -> str | None:
    """Why a case of a client fails today; None if it works."""
    found = (
        gap.reason
        for gap in GAPS
        if re.fullmatch(gap.clients, client) and re.fullmatch(gap.cases, case)
    )
    return next(found, None)
