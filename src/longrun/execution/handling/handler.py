"""Handlers: async generators that answer requests, served like agents under a name."""

import inspect
from collections.abc import AsyncIterator, Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from longrun.errors import ConfigurationError
from longrun.execution.parameters import context_of_run, input_items
from longrun.execution.replay.border import Border
from longrun.history.faces import Origin
from longrun.protocol import RunRequest

HandlerFunction = Callable[..., AsyncIterator[Any]]
"""`async def answer(request)` or `async def answer(request, steps)`, with `yield` in it."""


@dataclass(frozen=True, slots=True)
class HandlerRequest:
    """What a handler is to answer.

    Attributes:
        model: the name by which the client called the handler.
        input: all that was said so far, of earlier responses too, as input items that the Responses
            API takes, and the Agents SDK's models on Chat Completions; the request's
            `instructions` are the first of them.
        parameters: what else the request set, by the names of the API: `temperature`, `tools`, …
        context: what the application's `context` has made for this attempt; None without one.
    """

    model: str
    input: list[dict[str, Any]]
    parameters: Mapping[str, Any] = field(default_factory=dict)
    context: Any = field(default=None, repr=False)

    @classmethod
    def of(cls, request: RunRequest, context: Any = None) -> "HandlerRequest":
        """Of what the server understood. What the handler has given itself comes back as its model
        gave it; what others did, as what it says."""
        items = input_items(request)
        border = Border(context_of_run(request), items)
        given = border.going_out(items, origin_of(request.agent))
        return cls(request.agent, list(map(_taken_by_all, given)), request.parameters, context)

    @property
    def text(self) -> str:
        """What the user said last, without pictures and files; empty if they said nothing."""
        for item in reversed(self.input):
            if item.get("role") == "user":
                return _text_of(item.get("content"))
        return ""


def origin_of(name: str) -> Origin:
    """Who has given what a handler yields."""
    return Origin("responses", f"handler {name}")


def _taken_by_all(item: dict[str, Any]) -> dict[str, Any]:
    """A model's message that has no id, as plain text: the SDK's converter to Chat Completions
    refuses its parts, and the Responses API takes both."""
    content = item.get("content")
    if item.get("role") != "assistant" or item.get("id") or not isinstance(content, list):
        return item
    texts = (str(part.get("text") or part.get("refusal") or "") for part in content)
    return {"role": "assistant", "content": "".join(texts)}


def _text_of(content: Any) -> str:
    if isinstance(content, str):
        return content
    parts = (part for part in content or () if isinstance(part, dict))
    return "".join(str(part.get("text") or "") for part in parts)


@dataclass(frozen=True, slots=True)
class Handler:
    """An async generator as it is served. Made by `longrun.agent`.

    `steerable`: it takes the messages that are put into its runs (`longrun.steered`).
    """

    name: str
    function: HandlerFunction
    steerable: bool = False

    def answer(self, request: HandlerRequest, steps: Any) -> AsyncIterator[Any]:
        """Begin to answer."""
        if len(_positional(self.function)) == 1:
            return self.function(request)
        return self.function(request, steps)


def agent(name: str, *, steerable: bool = False) -> Callable[[HandlerFunction], Handler]:
    """Serve an async generator as an agent, whatever framework it uses.

    It gets the request, and `longrun.Steps` if it has a second parameter. What it yields is what
    clients get: text (a string, or many in a row, make one message), items and events of the
    Responses API, as dicts or objects of `openai`, or whole Responses.

    A run that is taken over executes it again from its start. What it did with
    `await longrun.step(…)` is not done again: the recorded result is given. What it had yielded
    before the last such step stays as clients saw it; what it yields again until there is passed
    over.

    Args:
        name: by which it is served.
        steerable: it asks with `await longrun.steered()` for the messages that clients put into its
            runs while they are live; else such messages are refused.

    Example:
        @longrun.agent(name="echo")
        async def echo(request):
            yield request.text

    Raises:
        ConfigurationError: it is no async generator of one or two arguments.
    """

    def served(function: HandlerFunction) -> Handler:
        if not inspect.isasyncgenfunction(function):
            raise ConfigurationError(
                f"longrun.agent is for async generators (async def with yield in it), not for "
                f"{function!r}"
            )
        if len(_positional(function)) not in (1, 2):
            raise ConfigurationError(
                f"{function!r} cannot be served: expected one argument, the request, or two, the "
                "request and longrun.Steps"
            )
        return Handler(name, function, steerable)

    return served


def _positional(function: HandlerFunction) -> list[inspect.Parameter]:
    kinds = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
    parameters = inspect.signature(function).parameters.values()
    return [each for each in parameters if each.kind in kinds]
