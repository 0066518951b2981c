"""Models on Chat Completions that were cut off at their limit: what the Agents SDK reads of their
streams does not say so, but for `finish_reason`, which it hands on to nobody."""

from collections.abc import AsyncIterator
from typing import Any, Final

from agents import ModelBehaviorError
from openai.types.responses import Response, ResponseCompletedEvent, ResponseIncompleteEvent
from openai.types.responses.response import IncompleteDetails

_LENGTH: Final = "length"


class CutOff:
    """Tells of one stream that it was cut off, as the Responses API does.

    Args:
        response: what the SDK fills.
        stream: the chunks that the provider sends.
    """

    def __init__(self, response: Response, stream: AsyncIterator[Any]) -> None:
        self._response = response
        self._stream = stream
        self._is_cut = False

    async def chunks(self) -> AsyncIterator[Any]:
        """The chunks, as they are."""
        async for chunk in self._stream:
            if any(choice.finish_reason == _LENGTH for choice in chunk.choices or ()):
                self._is_cut = True
            yield chunk

    async def events(self, made: AsyncIterator[Any]) -> AsyncIterator[Any]:
        """What the SDK makes of the chunks; at the end that the response is incomplete, if it is.

        Raises:
            ModelBehaviorError: the SDK's, for anything else than a cut before the first word.
        """
        try:
            async for event in made:
                if self._is_cut and isinstance(event, ResponseCompletedEvent):
                    yield _incomplete(event.response, event.sequence_number)
                else:
                    yield event
        except ModelBehaviorError:
            if not self._is_cut:
                raise
            yield _incomplete(self._response, 0)


def _incomplete(response: Response, number: int) -> ResponseIncompleteEvent:
    output = list(response.output or ())
    if output and hasattr(output[-1], "status"):
        output[-1] = output[-1].model_copy(update={"status": "incomplete"})
    details = IncompleteDetails(reason="max_output_tokens")
    cut = {"status": "incomplete", "incomplete_details": details, "output": output}
    return ResponseIncompleteEvent.construct(
        type="response.incomplete",
        sequence_number=number,
        response=response.model_copy(update=cut),
    )
