"""The text of a response as it is streamed, with what a takeover took back taken back."""

from collections.abc import Iterable

from openai.types.responses import ResponseOutputItem, ResponseStreamEvent


class Transcript:
    """Adds up the text of the events that it is given (contract, "Streams").

    The rule: the `output` of each event that has a response stands in place of what there was,
    and the deltas in between are added at their `output_index`. After the terminal event, `text`
    is the `output_text` of the response.

    One that is given events from the middle of a stream has the whole text from the next event
    with a response on, the terminal one at the latest.
    """

    def __init__(self) -> None:
        self._texts: dict[tuple[int, int], str] = {}

    def take(self, event: ResponseStreamEvent) -> bool:
        """Take the next event; returns whether it said anything about the text."""
        if event.type == "response.output_text.delta":
            place = event.output_index, event.content_index
            self._texts[place] = self._texts.get(place, "") + event.delta
            return True
        response = getattr(event, "response", None)
        if response is None:
            return False
        self._texts = _texts_of(response.output)
        return True

    @property
    def text(self) -> str:
        """The text of all messages so far, in their order."""
        return "".join(self._texts[place] for place in sorted(self._texts))


def _texts_of(output: Iterable[ResponseOutputItem]) -> dict[tuple[int, int], str]:
    """The texts of messages, by output index and content index."""
    return {
        (place, index): part.text
        for place, item in enumerate(output)
        if item.type == "message"
        for index, part in enumerate(item.content)
        if part.type == "output_text"
    }
