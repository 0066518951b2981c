"""Usage: the sum over all turns of a response."""

from dataclasses import dataclass
from typing import Any


@dataclass(slots=True)
class UsageSum:
    """Token counts, added up turn by turn. A turn whose model told nothing adds nothing: where none
    does, all are 0."""

    input_tokens: int = 0
    cached_tokens: int = 0
    cache_write_tokens: int = 0
    output_tokens: int = 0
    reasoning_tokens: int = 0

    def add(self, usage: Any) -> None:
        """Add a `ResponseUsage`, the SDK's `Usage`, or None; fields that an older or looser model
        lacks count 0."""
        read = getattr(usage, "input_tokens_details", None)
        wrote = getattr(usage, "output_tokens_details", None)
        self.input_tokens += _count(usage, "input_tokens")
        self.output_tokens += _count(usage, "output_tokens")
        self.cached_tokens += _count(read, "cached_tokens")
        self.cache_write_tokens += _count(read, "cache_write_tokens")
        self.reasoning_tokens += _count(wrote, "reasoning_tokens")

    @property
    def total_tokens(self) -> int:
        return self.input_tokens + self.output_tokens

    def by_kind(self) -> dict[str, int]:
        """As they are counted: of `input` some are `cached`, of `output` some are `reasoning`."""
        return {
            "input": self.input_tokens,
            "cached": self.cached_tokens,
            "output": self.output_tokens,
            "reasoning": self.reasoning_tokens,
        }

    def as_json(self) -> dict[str, Any]:
        """The `usage` of a Response object."""
        return {
            "input_tokens": self.input_tokens,
            "input_tokens_details": {
                "cached_tokens": self.cached_tokens,
                "cache_write_tokens": self.cache_write_tokens,
            },
            "output_tokens": self.output_tokens,
            "output_tokens_details": {"reasoning_tokens": self.reasoning_tokens},
            "total_tokens": self.total_tokens,
        }


def _count(of: Any, name: str) -> int:
    count = getattr(of, name, None)
    return count if isinstance(count, int) else 0
