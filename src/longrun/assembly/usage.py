"""Usage: the sum over all turns of a response."""

from dataclasses import dataclass
from typing import Any


@dataclass(slots=True)
class UsageSum:
    """Token counts, added up turn by turn. A turn whose model told nothing adds nothing."""

    input_tokens: int = 0
    cached_tokens: int = 0
    cache_write_tokens: int = 0
    output_tokens: int = 0
    reasoning_tokens: int = 0

    def add(self, usage: Any) -> None:
        """Add a `ResponseUsage` (or None); fields that an older or looser model lacks count 0."""
        if usage is None:
            return
        read = getattr(usage, "input_tokens_details", None)
        wrote = getattr(usage, "output_tokens_details", None)
        self.input_tokens += usage.input_tokens or 0
        self.output_tokens += usage.output_tokens or 0
        self.cached_tokens += getattr(read, "cached_tokens", 0) or 0
        self.cache_write_tokens += getattr(read, "cache_write_tokens", 0) or 0
        self.reasoning_tokens += getattr(wrote, "reasoning_tokens", 0) or 0

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
            "total_tokens": self.input_tokens + self.output_tokens,
        }
