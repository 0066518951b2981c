"""Whom a request is made for."""

from typing import Final

from starlette.requests import Request

from longrun.access.callers import ANYONE, Caller

CALLER: Final = "longrun.caller"
"""Where a request's ASGI scope has who sent it."""


def caller_of(request: Request) -> Caller:
    """Who sent a request."""
    caller: Caller = request.scope.get(CALLER, ANYONE)
    return caller


def principal_of(request: Request) -> str:
    """Whom a request is made for: they own what it creates, and see what is theirs."""
    return caller_of(request).principal
