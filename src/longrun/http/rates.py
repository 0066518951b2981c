"""Requests are counted for whoever sent them, and those beyond a rate are refused (contract,
"Limits"). Answers say how the caller stands as OpenAI's do, in `x-ratelimit-…`."""

from typing import Final, NamedTuple

from starlette.types import ASGIApp, Receive, Scope, Send

from longrun.access.callers import Caller
from longrun.access.rates import Rates, Standing, Wanted
from longrun.errors import RateLimited, rest_of_day
from longrun.http.access import known_caller, path_of
from longrun.http.answers import also_say
from longrun.protocol import Allowance

_CREATE: Final = frozenset(
    f"{prefix}/responses{rest}" for prefix in ("", "/v1") for rest in ("", "/compact")
)
"""Where a model is asked."""

_KEY: Final = b"idempotency-key"

_COUNTED: Final = "longrun.counted"
"""Where a request's ASGI scope has how it was counted, if it has such a header."""


class RunRates:
    """Counts what asks for a run, however it comes.

    Args:
        most: how many a principal may send in a minute; None: no limit.
    """

    def __init__(self, rates: Rates, most: int | None) -> None:
        self._rates = rates
        self._most = most

    async def take(self, caller: Caller) -> Standing | None:
        """Count one; how its caller stands to the limit that is closest. None: there is no limit.
        Whoever takes has to `check` it."""
        wanted = self._wanted(caller)
        if not wanted:
            return None
        standings = await self._rates.take(wanted)
        return min(standings, key=lambda standing: (standing.remaining, -standing.wait))

    def give_back(self, caller: Caller) -> None:
        """What was counted has asked for no run."""
        self._rates.give_back(self._wanted(caller))

    def _wanted(self, caller: Caller) -> list[Wanted]:
        wanted = []
        if self._most is not None:
            wanted.append(Wanted(f"runs {caller.limited_as}", self._most))
        if caller.max_requests is not None:
            # Of the key, for whomever it is used; without a key, of whom the application names.
            subject = f"key {caller.key or caller.limited_as}"
            wanted.append(Wanted(subject, caller.max_requests))
        return wanted

    def check(self, standing: Standing) -> None:
        """Raises:
        RateLimited: there were too many.
        """
        _check(standing, "that ask for a run")


class OtherRates:
    """Counts what asks for no run, however it comes.

    Args:
        most: how many a principal may send in a minute; None: no limit.
    """

    def __init__(self, rates: Rates, most: int | None) -> None:
        self._rates = rates
        self._most = most

    async def count(self, caller: Caller) -> None:
        """Count one.

        Raises:
            RateLimited: there were too many.
        """
        if self._most is not None:
            [standing] = await self._rates.take([Wanted(f"others {caller.limited_as}", self._most)])
            _check(standing, "besides those that ask for a run")


class RateLimits:
    """Counts a request before anything of it is read.

    Args:
        runs: counts those that ask for a run.
        others: counts all others.
    """

    def __init__(self, app: ASGIApp, *, runs: RunRates, others: OtherRates) -> None:
        self._app = app
        self._runs = runs
        self._others = others

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        caller = known_caller(scope)
        if caller is not None:
            # A WebSocket has no method; what is asked on it is counted there.
            method = scope.get("method", "GET")
            if method == "POST" and path_of(scope) in _CREATE:
                await self._count_run(caller, scope)
            elif method != "OPTIONS":
                await self._others.count(caller)
        await self._app(scope, receive, send)

    async def _count_run(self, caller: Caller, scope: Scope) -> None:
        standing = await self._runs.take(caller)
        if standing is not None:
            also_say(scope, _of_requests(standing))
        if any(name == _KEY for name, _ in scope["headers"]):
            # It may be a repeated one, which the endpoint finds out.
            scope[_COUNTED] = _Counted(self, caller, standing)
        elif standing is not None:
            self._runs.check(standing)

    def check_run(self, standing: Standing | None) -> None:
        """A request that was counted is no repeated one.

        Raises:
            RateLimited: there are too many of those that ask for a run.
        """
        if standing is not None:
            self._runs.check(standing)

    async def count_repeated(self, caller: Caller, standing: Standing | None) -> None:
        """A request that was counted among those that ask for a run is one of the others.

        Raises:
            RateLimited: there are too many of those.
        """
        if standing is not None and not standing.wait:
            self._runs.give_back(caller)
        await self._others.count(caller)


class _Counted(NamedTuple):
    """A request with an Idempotency-Key, as it was counted before it was known whether it is a
    repeated one."""

    limits: RateLimits
    caller: Caller
    standing: Standing | None


def check_run(scope: Scope) -> None:
    """See `RateLimits.check_run`."""
    counted: _Counted | None = scope.get(_COUNTED)
    if counted is not None:
        counted.limits.check_run(counted.standing)


async def count_repeated(scope: Scope) -> None:
    """See `RateLimits.count_repeated`."""
    counted: _Counted | None = scope.get(_COUNTED)
    if counted is not None:
        await counted.limits.count_repeated(counted.caller, counted.standing)


def _check(standing: Standing, which: str) -> None:
    if standing.wait:
        raise RateLimited(standing.limit, which, standing.wait)


def say_tokens(scope: Scope, allowance: Allowance) -> None:
    """Say with the answer to the creation of a response how many tokens are left of a day's."""
    spent, limit = allowance.tokens, allowance.max_tokens
    if spent is not None and limit is not None:
        also_say(scope, _headers("tokens", limit, max(0, limit - spent), rest_of_day()))


def _of_requests(standing: Standing) -> list[tuple[bytes, bytes]]:
    return _headers("requests", standing.limit, standing.remaining, standing.reset)


def _headers(what: str, limit: int, remaining: int, reset: float) -> list[tuple[bytes, bytes]]:
    said = {"limit": str(limit), "remaining": str(remaining), "reset": as_duration(reset)}
    return [(f"x-ratelimit-{name}-{what}".encode(), text.encode()) for name, text in said.items()]


def as_duration(seconds: float) -> str:
    """Seconds as OpenAI writes them in these headers, which is as Go does: `1h2m3s`, `6m0s`,
    `1.5s`, `120ms`."""
    milliseconds = round(seconds * 1000)
    if milliseconds < 1000:
        return f"{milliseconds}ms" if milliseconds else "0s"
    minutes, rest = divmod(milliseconds, 60_000)
    hours, minutes = divmod(minutes, 60)
    text = f"{rest / 1000:g}s"
    if hours:
        return f"{hours}h{minutes}m{text}"
    return f"{minutes}m{text}" if minutes else text
