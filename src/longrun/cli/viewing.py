"""A response on the terminal, as it is streamed: its text, its tools, and how it ended."""

import sys
from collections.abc import Iterable
from typing import Any, Final

from openai.types.responses import Response, ResponseStreamEvent
from rich.console import Console
from rich.markup import escape

from longrun.client import Transcript
from longrun.loglines import on_terminal
from longrun.protocol import TERMINAL_EVENTS

LONGEST: Final = 100
"""Characters of a tool's arguments or output that are shown."""


class Ending:
    """Waits for the end of a response, and shows nothing.

    Attributes:
        response: the Response of the last event that has one.
    """

    def __init__(self) -> None:
        self.response: Response | None = None

    def show(self, events: Iterable[ResponseStreamEvent]) -> Response | None:
        """Take them all; returns the response as it ended, or None if it has not."""
        ended = False
        for event in events:
            self.take(event)
            ended = event.type in TERMINAL_EVENTS
        return self.response if ended else None

    def take(self, event: ResponseStreamEvent) -> None:
        """Take the next one."""
        self.response = getattr(event, "response", None) or self.response


class View(Ending):
    """Shows the events of a response.

    The text goes to standard output, everything else, dimmed, to standard error. A takeover may
    take back what was begun: on a terminal the text is then shown again from its beginning, and
    elsewhere it is written only when it is whole, so that what is piped on is true.
    """

    def __init__(self) -> None:
        super().__init__()
        self._output = sys.stdout
        self._notes = Console(stderr=True, highlight=False, soft_wrap=True)
        self._live = self._output.isatty()
        self._transcript = Transcript()
        self._shown = ""

    def show(self, events: Iterable[ResponseStreamEvent]) -> Response | None:
        """Show them all; returns the response as it ended, or None if it has not."""
        ended = super().show(events)
        if ended is not None:
            self._finish(ended)
        return ended

    def take(self, event: ResponseStreamEvent) -> None:
        """Show the next one."""
        super().take(event)
        if event.type == "response.created":
            self._note(f"{event.response.id} · {event.response.model}")
        elif event.type == "response.output_item.done":
            self._end(event.item)
        if self._transcript.take(event) and self._live:
            self._write()

    def _write(self) -> None:
        text = self._transcript.text
        if not text.startswith(self._shown):
            self._note("\n↺ taken over by another replica: from the beginning of its answer")
            self._shown = ""
        self._output.write(on_terminal(text[len(self._shown) :]))
        self._output.flush()
        self._shown = text

    def _end(self, item: Any) -> None:
        if item.type in ("function_call", "mcp_call"):
            self._break()
            self._note(f"→ {item.name}({_short(item.arguments)}){_result(item)}")
        elif item.type == "mcp_approval_request":
            self._break()
            self._note(f"? {item.name}({_short(item.arguments)}) waits for approval")

    def _finish(self, response: Response) -> None:
        text = response.output_text
        if self._live:
            self._break()
        elif text:
            self._output.write(text + "\n")
            self._output.flush()
        if response.status != "completed":
            reason = escape(on_terminal(_reason(response)))
            self._notes.print(f"[bold red]{response.status}[/]{reason}")
        elif response.usage is not None:
            usage = response.usage
            self._note(f"{usage.input_tokens} + {usage.output_tokens} tokens")

    def _break(self) -> None:
        """Begin a line, if the text has not."""
        if self._live and self._shown and not self._shown.endswith("\n"):
            self._output.write("\n")
            self._output.flush()

    def _note(self, text: str) -> None:
        self._notes.print(escape(on_terminal(text)), style="dim")


def _short(text: str | None) -> str:
    line = " ".join((text or "").split())
    return line if len(line) <= LONGEST else line[: LONGEST - 1] + "…"


def _result(item: Any) -> str:
    error, output = getattr(item, "error", None), getattr(item, "output", None)
    if error:
        return f" failed: {_short(str(error))}"
    return f" = {_short(output)}" if output else ""


def _reason(response: Response) -> str:
    if response.error is not None:
        return f": {response.error.message}"
    details = response.incomplete_details
    return f": {details.reason}" if details is not None and details.reason else ""
