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


_TAKES_CALLS = "Agents SDK|AI SDK|LangChain"

GAPS = [
    Gap(
        "an agent on Chat Completions cannot go on: its items come back without ids",
        ".*",
        "chat .* by (previous|reference).*",
    ),
    Gap("item_reference goes to the provider as it is", ".*", ".* by reference.*"),
    Gap(
        "reasoning goes to the provider under our id and with a status",
        "(?!AI SDK).*",
        "responses reasoning by whole",
    ),
    Gap(
        "hosted calls go to the provider without their id, or under ours",
        ".*",
        "responses hosted by .*",
    ),
    Gap(
        "the server's own tools are shown as function_call, which is the client's to execute",
        _TAKES_CALLS,
        ".* (server tool|both tools) .*|.* tools by .*",
    ),
    Gap(
        "the server's own tools are shown as function_call, which is the client's to execute",
        "pydantic-ai",
        ".* server tool plain|.* tools by (previous|whole)",
    ),
    Gap(
        "what a client adds to an item (`parsed_arguments`) goes to the provider",
        "openai-node .",
        "responses (client tool|both tools) stream|responses tools by whole stream",
    ),
]


def reason(client: str, case: str) -> str | None:
    """Why a case of a client fails today; None if it works."""
    found = (
        gap.reason
        for gap in GAPS
        if re.fullmatch(gap.clients, client) and re.fullmatch(gap.cases, case)
    )
    return next(found, None)
