"""What a request lets its run spend, over all turns and attempts.

What was spent is in the turns: those of earlier attempts are passed again, and counted again.
"""

from collections.abc import Iterable, Mapping
from typing import Any, Final

from longrun.assembly.usage import UsageSum

LEAST_OUTPUT_TOKENS: Final = 16
"""Of a turn: OpenAI refuses to be asked for fewer."""


class BudgetSpent(Exception):
    """The run ends, `incomplete`.

    Attributes:
        reason: the parameter that set the budget, for `incomplete_details`.
    """

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason


class Budget:
    """That of one run.

    Args:
        parameters: of the request, as a run acts upon them.
        usage: the sum of the run's turns and of those inside it, which grows as they end.
    """

    def __init__(self, parameters: Mapping[str, Any], usage: UsageSum) -> None:
        self._usage = usage
        self._output_tokens: int | None = parameters.get("max_output_tokens")
        self._tool_calls: int | None = parameters.get("max_tool_calls")
        self._total_tokens: int | None = parameters.get("longrun", {}).get("max_total_tokens")
        self._of_client = {tool["name"] for tool in parameters.get("tools") or ()}
        self._called = 0

    def check(self) -> None:
        """Before a model is asked.

        Raises:
            BudgetSpent: there is nothing left for it.
        """
        usage = self._usage
        if self._output_tokens is not None and usage.output_tokens:
            left = self._output_tokens - usage.output_tokens
            if left < LEAST_OUTPUT_TOKENS:
                raise BudgetSpent("max_output_tokens")
        total = usage.input_tokens + usage.output_tokens
        if self._total_tokens is not None and total >= self._total_tokens:
            raise BudgetSpent("max_total_tokens")

    def took(self, items: Iterable[Any]) -> None:
        """After a turn of the run's own, before anything that it calls is executed. A turn that
        calls nothing ends the run anyway.

        Raises:
            BudgetSpent: it calls more than is left, or what comes of it can never be asked.
        """
        self._called += (called := sum(map(self._is_executed, items)))
        if self._tool_calls is not None and self._called > self._tool_calls:
            raise BudgetSpent("max_tool_calls")
        if called:
            self.check()

    def _is_executed(self, item: Any) -> bool:
        """Whether it is a call that anybody but the client executes."""
        kind: str = item.type
        of_client = kind == "function_call" and item.name in self._of_client
        return kind.endswith("_call") and not of_client

    def output_tokens(self, of_agent: int | None) -> int | None:
        """What a turn may be asked for; None for as many as the model likes.

        Args:
            of_agent: what its settings say.
        """
        if self._output_tokens is None:
            return of_agent
        left = max(self._output_tokens - self._usage.output_tokens, 1)
        return left if of_agent is None else min(left, of_agent)

    @property
    def tool_calls(self) -> int | None:
        """What a turn may call, at least one: providers take no zero."""
        return None if self._tool_calls is None else max(self._tool_calls - self._called, 1)
