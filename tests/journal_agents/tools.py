"""Function tools whose start and end are effects."""

import asyncio

from agents import (
    function_tool,
)

import longrun
from tests.crashing import effect, effect_in_thread, place


@function_tool
async def look(what: str, pause: float = 0.0) -> str:
    """Look at something."""
    await effect(f"start tool {place()}")
    await asyncio.sleep(pause)
    await effect(f"end tool {place()}")
    return f"{what} of {longrun.current().idempotency_key is not None}"


@function_tool
def look_in_thread(what: str) -> str:
    """Look at something, in a thread."""
    effect_in_thread(f"start tool {place()}")
    effect_in_thread(f"end tool {place()}")
    return f"{what} from a thread"


@longrun.at_most_once
@function_tool
async def pay(amount: int) -> str:
    """Pay once."""
    await effect(f"start tool {place()}")
    await effect(f"end tool {place()}")
    return f"paid {amount}"


@function_tool(failure_error_function=lambda context, error: f"failed: {error}")
async def fails(why: str) -> str:
    """Fail, which the model is told."""
    await effect(f"start tool {place()}")
    await effect(f"end tool {place()}")
    raise ValueError(why)


@function_tool(failure_error_function=None)
async def raises() -> str:
    """Raise, which ends the run."""
    await effect(f"start tool {place()}")
    await effect(f"end tool {place()}")
    raise ValueError("secret")


@function_tool(timeout=0.05)
async def endless() -> str:
    """Take too long."""
    await effect(f"start tool {place()}")
    await asyncio.sleep(60)
    return "never"
