"""How many tokens a model's input is about: for models whose providers do not say before they are
asked. No vocabulary is used, since none comes with a package and models differ in theirs."""

from collections.abc import Iterable, Mapping
from typing import Any, Final

from longrun.jsontext import dumps

BYTES_OF_TOKEN: Final = 4
"""Of text in UTF-8: what OpenAI tells for English; other languages and code take more tokens."""

TOKENS_OF_MEDIA: Final = 765
"""Of a picture of 1024 × 1024, as OpenAI counts it; of a file nothing is known, and the same is
taken."""

TOKENS_OF_ITEM: Final = 4
"""What tells where an item begins, ends, and whose it is."""

_MEDIA: Final = frozenset({"input_image", "input_file", "input_audio", "computer_screenshot"})

_UNSEEN: Final = frozenset({"id", "type", "status", "role", "call_id", "annotations", "logprobs"})
"""Fields that are no text for a model, or next to none."""


def tokens_of(
    instructions: Any = None, items: Any = (), tools: Iterable[Mapping[str, Any]] = ()
) -> int:
    """An estimate of the tokens of a model's input.

    Args:
        items: a text, or items of the Responses API.
        tools: by name, description and parameters.
    """
    if isinstance(items, str):
        items = [{"content": items}]
    found = _text_tokens(instructions) + sum(map(tokens_of_item, items))
    return found + sum(len(dumps(tool)) // BYTES_OF_TOKEN for tool in tools)


def tokens_of_item(item: Any) -> int:
    """The same of one item."""
    return TOKENS_OF_ITEM + _tokens(item)


def _tokens(value: Any) -> int:
    if isinstance(value, dict):
        if value.get("type") in _MEDIA:
            return TOKENS_OF_MEDIA
        return sum(_tokens(each) for name, each in value.items() if name not in _UNSEEN)
    if isinstance(value, list):
        return sum(map(_tokens, value))
    return _text_tokens(value)


def _text_tokens(value: Any) -> int:
    if not isinstance(value, str) or not value:
        return 0
    return -(-len(value.encode("utf-8", "surrogatepass")) // BYTES_OF_TOKEN)
