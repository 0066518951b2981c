"""Callers: for whom a request is made, and what it may do."""

import re
from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Final, Literal, get_args

from longrun.errors import ConfigurationError, Forbidden

Scope = Literal["read", "write", "admin"]
"""`read` gets and streams, `write` creates, cancels and deletes, `admin` sees every principal's."""

SCOPES: Final[frozenset[str]] = frozenset(get_args(Scope))

LONGEST_PRINCIPAL: Final = 200

_PRINCIPAL: Final = re.compile(rf"[^\x00-\x1f\x7f\ud800-\udfff]{{0,{LONGEST_PRINCIPAL}}}")
"""Surrogates are no text that Postgres takes."""


@dataclass(frozen=True, slots=True)
class Caller:
    """Whoever sent a request.

    Attributes:
        principal: owns what the request creates, and sees what is theirs.
        scopes: what the request may do.
        key: the public part of the key that was shown.
        agent: the only one that they may run; None: all.
        max_runs: live responses of the principal beyond which they create none; None: no limit.
        max_requests: how often they may ask for a run in a minute; None: no limit.
        max_tokens: tokens of the principal in a day beyond which they create none; None: no limit.
        account: whose limits hold, whomever they act for; None: the principal's.
    """

    principal: str
    scopes: frozenset[str] = frozenset({"read", "write"})
    key: str | None = None
    agent: str | None = None
    max_runs: int | None = None
    max_requests: int | None = None
    max_tokens: int | None = None
    account: str | None = None

    def __post_init__(self) -> None:
        if not _PRINCIPAL.fullmatch(self.principal):
            raise ValueError(
                f"a principal has at most {LONGEST_PRINCIPAL} characters, and neither control "
                "characters nor surrogates"
            )
        if not self.scopes <= SCOPES:
            raise ValueError(f"scopes are of {sorted(SCOPES)}, not {sorted(self.scopes)}")

    @property
    def is_admin(self) -> bool:
        return "admin" in self.scopes

    @property
    def limited_as(self) -> str:
        """The principal whose limits hold. Those below it have none of their own: whoever may act
        for any number of them would have any number of limits."""
        return self.principal if self.account is None else self.account

    def acting_for(self, principal: str) -> "Caller":
        """The caller, for another principal.

        Raises:
            ValueError: there can be no such principal.
        """
        return replace(self, principal=principal, account=self.limited_as)

    def may_act_for(self, principal: str) -> bool:
        """Whether they may do for a principal what they may do for their own: an admin for all,
        others for those below theirs (`website/alice` is below `website`)."""
        below = bool(self.principal) and principal.startswith(f"{self.principal}/")
        return self.is_admin or (below and self.agent is None)

    def require(self, scope: Scope) -> None:
        """Check that the caller may do something.

        Raises:
            Forbidden: they may not. An admin may read.
        """
        if scope not in self.scopes and not (scope == "read" and self.is_admin):
            raise Forbidden(f"This key may not do that: it lacks the scope {scope!r}.")


ANYONE: Final = Caller("")
"""The caller where nobody is asked who they are."""


def scopes_of(names: Iterable[str]) -> frozenset[str]:
    """Scopes by name.

    Raises:
        ConfigurationError: one of them does not exist, or there are none; says which do.
    """
    found = frozenset(name.strip() for name in names) - {""}
    if not found or not found <= SCOPES:
        given = ",".join(sorted(found))
        raise ConfigurationError(f"scopes {given!r}: allowed are read, write and admin")
    return found
