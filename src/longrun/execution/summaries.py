"""Summaries of contexts, by a model: how it is asked, and what it said."""

import dataclasses
from collections.abc import Iterable, Sequence
from typing import Any, Final

from agents import ModelSettings, ModelTracing
from agents.items import ModelResponse
from openai.types.responses import ResponseOutputMessage, ResponseOutputText

from longrun.errors import LongrunError

DEFAULT_PROMPT: Final = (
    "The conversation above is about to be replaced by a summary of it. Write this summary, for "
    "the model that goes on with the conversation and will see nothing else of it. Say what was "
    "asked for and what is still open; what was done and decided, and why; what tools have given "
    "that is still needed, with names, numbers, ids and paths word for word; what comes next. "
    "Answer with the summary alone."
)
"""Where LONGRUN_COMPACTION_PROMPT gives no other."""


class NoSummary(LongrunError):
    """A model gave no text where a summary was asked for."""

    default_code = "compaction_failed"

    def __init__(self) -> None:
        super().__init__("The model gave no summary of the context.")


def request_of_summary(
    items: Sequence[Any],
    prompt: str,
    settings: ModelSettings,
    *,
    most_tokens: int,
    instructions: Any,
) -> dict[str, Any]:
    """What a model is asked, by the names of `Model.get_response`.

    Args:
        items: the context, in the form in which the model takes it.
        settings: those of its agent.
        most_tokens: that the summary may have, reasoning included.
        instructions: of whoever asks for the compaction, beside the prompt.
    """
    return {
        "system_instructions": instructions,
        "input": [*items, {"role": "user", "content": prompt or DEFAULT_PROMPT}],
        # Nothing is to be called, and nothing is left to be compacted by the provider.
        "model_settings": dataclasses.replace(
            settings,
            tool_choice=None,
            parallel_tool_calls=None,
            context_management=None,
            max_tokens=min(settings.max_tokens or most_tokens, most_tokens),
        ),
        "tools": [],
        "output_schema": None,
        "handoffs": [],
        "tracing": ModelTracing.DISABLED,
        "previous_response_id": None,
        "conversation_id": None,
        "prompt": None,
    }


def summary_in(response: ModelResponse) -> str:
    """The text of a model's answer.

    Raises:
        NoSummary: there is none.
    """
    text = "\n\n".join(filter(None, map(_text_of, response.output))).strip()
    if not text:
        raise NoSummary
    return text


def _text_of(item: Any) -> str:
    if not isinstance(item, ResponseOutputMessage):
        return ""
    return "".join(_texts(item.content))


def _texts(parts: Iterable[Any]) -> Iterable[str]:
    return (part.text for part in parts if isinstance(part, ResponseOutputText))
