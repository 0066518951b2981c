"""Requests are counted for whoever sent them, and those beyond a rate are refused (contract,
"Limits"). Answers say how the caller stands as OpenAI's do, in `x-ratelimit-…`."""

from typing import Final

from starlette.types import ASGIApp, Receive, Scope, Send

from longrun.access.callers import Caller
from longrun.access.rates import Rates, Standing, Wanted
from longrun.errors import RateLimited, rest_of_day
from longrun.http.access import known_caller, path_of
from longrun.http.answers import also_say
from longrun.protocol import Allowance

_CREATE: Final = frozenset({"/responses", "/v1/responses"})


class RateLimits:
    """Counts a request before anything of it is read.

    Args:
        runs: how many requests for a run a principal may send in a minute; None: no limit.
        others: how many other ones.
    """

    def __init__(self, app: ASGIApp, *, rates: Rates, runs: int | None, others: int | None) -> None:
        self._app = app
        self._rates = rates
        self._runs = runs
        self._others = others

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        caller = known_caller(scope)
        if caller is not None:
            if scope["method"] == "POST" and path_of(scope) in _CREATE:
                await self._count_run(caller, scope)
            elif self._others is not None and scope["method"] != "OPTIONS":
                await self._count_other(caller, self._others)
        await self._app(scope, receive, send)

    async def _count_run(self, caller: Caller, scope: Scope) -> None:
        wanted = []
        if self._runs is not None:
            wanted.append(Wanted(f"runs {caller.limited_as}", self._runs))
        if caller.max_requests is not None:
            # Of the key, for whomever it is used; without a key, of whom the application names.
            subject = f"key {caller.key or caller.limited_as}"
            wanted.append(Wanted(subject, caller.max_requests))
        if not wanted:
            return
        standings = await self._rates.take(wanted)
        closest = min(standings, key=lambda standing: (standing.remaining, -standing.wait))
        also_say(scope, _headers("requests", closest.limit, closest.remaining, closest.reset))
        _check(closest, "that ask for a run")

    async def _count_other(self, caller: Caller, limit: int) -> None:
        [standing] = await self._rates.take([Wanted(f"others {caller.limited_as}", limit)])
        _check(standing, "besides those that ask for a run")


def _check(standing: Standing, which: str) -> None:
    if standing.wait:
        raise RateLimited(standing.limit, which, standing.wait)


def say_tokens(scope: Scope, allowance: Allowance) -> None:
    """Say with the answer to the creation of a response how many tokens are left of a day's."""
    spent, limit = allowance.tokens, allowance.max_tokens
    if spent is not None and limit is not None:
        also_say(scope, _headers("tokens", limit, max(0, limit - spent), rest_of_day()))


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
