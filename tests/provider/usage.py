"""What a response that was made of some requests says was used."""

from collections.abc import Iterable
from typing import Any

from tests.provider.memory import Asked


def usage_of(asked: Iterable[Asked]) -> dict[str, Any]:
    """The `usage` of a Response object: the sum of what the provider told of each request."""
    told = [each.usage or {} for each in asked]
    given = [
        each.get("input_tokens_details", each.get("prompt_tokens_details", {})) for each in told
    ]
    made = [
        each.get("output_tokens_details", each.get("completion_tokens_details", {}))
        for each in told
    ]
    return {
        "input_tokens": _sum(told, "input_tokens", "prompt_tokens"),
        "input_tokens_details": {
            "cached_tokens": _sum(given, "cached_tokens"),
            "cache_write_tokens": _sum(given, "cache_write_tokens"),
        },
        "output_tokens": _sum(told, "output_tokens", "completion_tokens"),
        "output_tokens_details": {"reasoning_tokens": _sum(made, "reasoning_tokens")},
        "total_tokens": _sum(told, "total_tokens"),
    }


def _sum(told: Iterable[dict[str, Any]], *names: str) -> int:
    return sum(each.get(name, 0) for each in told for name in names)
