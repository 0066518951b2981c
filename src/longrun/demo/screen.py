"""What the demonstration shows: an answer that grows, cuts, resumes and the proof.

On a terminal with colours, elsewhere plain lines without control characters.
"""

import contextlib
from collections.abc import Iterator
from typing import Any, TextIO

from rich.console import Console
from rich.table import Table
from rich.text import Text

from longrun import jsontext
from longrun.demo.reading import Connection, Replica

INDENT = "  "
WIDEST = 96
LONGEST_PIECE = 6
COLOURS = ("cyan", "magenta", "yellow", "blue")


_CALLED = ("response.mcp_call_arguments.done", "response.function_call_arguments.done")
"""A call is made, of the server's tools or of the client's."""


class Screen:
    """Writes to one stream, at once, and knows whether it is in the middle of a line."""

    def __init__(self, stream: TextIO) -> None:
        # Legacy encodings lose a sign, not the demonstration.
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="replace")
        self._console = Console(file=stream, highlight=False, markup=False, emoji=False)
        self._width = min(self._console.width, WIDEST) - LONGEST_PIECE
        self._column = 0
        self._names: dict[int, str | None] = {}

    def act(self, number: int, title: str) -> None:
        self.line("")
        self.line(f"{number}  {title}", "bold")

    def line(self, text: str, style: str = "") -> None:
        """A line of its own, after the one that is under way."""
        if self._column:
            self._break()
        self._console.out(text, style=style or None)

    def lines(self, *texts: str, style: str = "") -> None:
        for text in texts:
            self.line(INDENT + text, style)

    @contextlib.contextmanager
    def waiting(self, text: str) -> Iterator[None]:
        """Say what is awaited, with a spinner where there is a terminal."""
        if self._console.is_terminal:
            with self._console.status(Text(text)):
                yield
        else:
            self.line(text)
            yield

    def opening(self, replica: Replica, starting_after: int | None) -> None:
        if starting_after is None:
            self.lines(f"▶ replica {replica.name}, a new response", style=_colour(replica.name))
        else:
            self.lines(
                f"↻ replica {replica.name}, starting_after={starting_after}",
                style=_colour(replica.name),
            )

    def closed(self, connection: Connection, last: int | None) -> None:
        where = "before its first event" if last is None else f"at event {last}"
        if connection.end == "cut":
            self.lines(f"✂ cut after {connection.seconds:.1f} s {where}", style="bold red")
        elif connection.end == "dropped":
            self.lines(
                f"⚡ dropped unexpectedly after {connection.seconds:.1f} s {where}"
                f" ({connection.reason})",
                style="bold red",
            )
        else:
            self.lines(f"■ ended {where}", style="bold")

    def event(self, kind: str, fields: dict[str, Any]) -> None:
        """Show an event, if it is one that a reader wants to see."""
        if kind == "response.output_text.delta":
            self._piece(fields["delta"])
        elif kind == "response.in_progress" and fields["response"]["output"]:
            self.lines("⇄ another replica took over; what was not finished comes anew", style="dim")
        elif kind == "response.output_item.added":
            self._names[fields["output_index"]] = fields["item"].get("name")
        elif kind in _CALLED:
            name = self._names.get(fields["output_index"])
            self.lines(_call(name, fields["arguments"]), style="dim")
        elif kind == "response.output_item.done" and fields["item"].get("output") is not None:
            self.lines(f"← {fields['item']['output']}", style="dim")

    def facts(self, rows: list[tuple[str, str, bool]]) -> None:
        """The table of the proof: what, how much, and whether that is as it should be."""
        table = Table(box=None, show_header=False, pad_edge=False)
        for what, value, good in rows:
            table.add_row(Text(INDENT + what), Text(value, style="green" if good else "bold red"))
        self.line("")
        self._console.print(table)
        self.line("")

    def _piece(self, piece: str) -> None:
        for number, text in enumerate(piece.split("\n")):
            if number:
                self._break()
            if self._column + len(text) > self._width and text.startswith(" "):
                self._break()
            if not self._column:
                text = text.lstrip()
            if text:
                self._console.out(text if self._column else INDENT + text, end="")
                self._column += len(text)

    def _break(self) -> None:
        self._console.out("")
        self._column = 0


def _call(name: str | None, text: str) -> str:
    arguments = jsontext.loads(text)
    return f"→ {name}({', '.join(f'{k}={v!r}' for k, v in arguments.items())})"


def _colour(name: str) -> str:
    return COLOURS[(ord(name[0]) - ord("A")) % len(COLOURS)]
