"""Functions that an application gives: sync or async, called with the run or with nothing."""

import inspect
from collections.abc import Callable
from typing import Any

from longrun.errors import ConfigurationError
from longrun.execution.current import Current


def check_callable(what: str, function: Any, makes: str) -> None:
    """Whether a function can be called with the run, or with nothing.

    Args:
        what: the name under which it was given.
        makes: what it is to give, for the message.

    Raises:
        ConfigurationError: says what was given, and what is allowed.
    """
    if not callable(function):
        raise ConfigurationError(
            f"{what} is {function!r} ({type(function).__name__}): expected a function that {makes}"
        )
    needed = arguments_of(function)
    if needed > 1:
        raise ConfigurationError(
            f"{what} is {function!r}, which needs {needed} arguments: expected a function that "
            f"{makes}, with no parameter or with one, which gets the run (longrun.current())"
        )


def arguments_of(function: Callable[..., Any]) -> int:
    """How many arguments a function cannot do without."""
    try:
        parameters = inspect.signature(function).parameters.values()
    except (TypeError, ValueError):
        return 0
    positional = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
    needed = [each for each in parameters if each.default is inspect.Parameter.empty]
    return sum(each.kind in positional for each in needed)


async def asked(function: Callable[..., Any], run: Current) -> Any:
    """What the function gives. It gets the run if it has a parameter that it needs."""
    found = function(run) if arguments_of(function) else function()
    return await found if inspect.isawaitable(found) else found
