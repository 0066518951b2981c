"""Models on Chat Completions that were cut off, at their limit or by a content filter: what the
Agents SDK reads of their streams does not say so, but for `finish_reason`, which it hands on to
nobody."""

from collections.abc import AsyncIterator
from typing import Any, Final

from agents import ModelBehaviorError
from openai.types.responses import Response, ResponseCompletedEvent, ResponseIncompleteEvent
from openai.types.responses.response import IncompleteDetails

_REASONS: Final = {"length": "max_output_tokens", "content_filter": "content_filter"}
"""Why a response is incomplete, by `finish_reason`."""


class CutOff:
    """Tells of one stream that it was cut off, as the Responses API does.

    Args:
        response: what the SDK fills.
        stream: the chunks that the provider sends.
    """

    def __init__(self, response: Response, stream: AsyncIterator[Any]) -> None:
        self._response = response
        self._stream = stream
        self._reason: str | None = None

    async def chunks(self) -> AsyncIterator[Any]:
        """The chunks, as they are."""
        async for chunk in self._stream:
            for choice in chunk.choices or ():
                self._reason = _REASONS.get(choice.finish_reason or "", self._reason)
            yield chunk

    async def events(self, made: AsyncIterator[Any]) -> AsyncIterator[Any]:
        """What the SDK makes of the chunks; at the end that the response is incomplete, if it is.

        Raises:
            ModelBehaviorError: the SDK's, for anything else than a cut before the first word.
        """
        try:
            async for event in made:
                if self._reason is not None and isinstance(event, ResponseCompletedEvent):
                    yield _incomplete(event.response, event.sequence_number, self._reason)
                else:
                    yield event
        except ModelBehaviorError:
            if self._reason is None:
                raise
            yield _incomplete(self._response, 0, self._reason)


def _incomplete(response: Response, number: int, reason: str) -> ResponseIncompleteEvent:
    output = list(response.output or ())
    if output and hasattr(output[-1], "status"):
        output[-1] = output[-1].model_copy(update={"status": "incomplete"})
    details = IncompleteDetails.construct(reason=reason)
    cut = {"status": "incomplete", "incomplete_details": details, "output": output}
    return ResponseIncompleteEvent.construct(
        type="response.incomplete",
        sequence_number=number,
        response=response.model_copy(update=cut),
    )
