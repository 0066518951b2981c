"""`longrun run`, `tail`, `cancel` and `retry`: runs, by the URL of a server."""

import sys
from collections.abc import Callable, Iterator
from typing import Annotated, Any, Final

import openai
import typer
from openai.types.responses import Response, ResponseStreamEvent
from rich.console import Console
from rich.markup import escape

from longrun.cli.options import AsJSON
from longrun.cli.server import ServerURL, connected, in_words
from longrun.cli.viewing import Ending, View
from longrun.client import create_and_follow, follow
from longrun.errors import ConfigurationError
from longrun.jsontext import dumps

app = typer.Typer()

ID = Annotated[str, typer.Argument(metavar="ID", help="The id of a response.")]
IDs = Annotated[list[str], typer.Argument(metavar="ID", help="The ids of responses.")]
Detach = Annotated[
    bool, typer.Option("--detach", "-d", help="Print the id, and do not wait for the end.")
]

_AGAIN: Final[dict[str, Any]] = {
    "instructions": None,
    "max_output_tokens": None,
    "max_tool_calls": None,
    "metadata": {},
    "parallel_tool_calls": True,
    "previous_response_id": None,
    "prompt_cache_key": None,
    "reasoning": None,
    "safety_identifier": None,
    "service_tier": "auto",
    "temperature": 1.0,
    "text": {"format": {"type": "text"}},
    "tool_choice": "auto",
    "tools": [],
    "top_logprobs": 0,
    "top_p": 1.0,
    "truncation": "disabled",
    "user": None,
}
"""Parameters that a response shows, with what it shows for one that its request did not have."""


@app.command()
def run(
    model: Annotated[str, typer.Argument(metavar="AGENT", help="The name of an agent.")],
    text: Annotated[
        str,
        typer.Argument(metavar="INPUT", help="What it is asked; - reads it from standard input."),
    ],
    instructions: Annotated[
        str | None, typer.Option(help="Instructions besides the agent's own.")
    ] = None,
    previous: Annotated[
        str | None, typer.Option(metavar="ID", help="Go on from this response.")
    ] = None,
    conversation: Annotated[
        str | None, typer.Option(metavar="ID", help="Take the next turn of this conversation.")
    ] = None,
    metadata: Annotated[
        list[str] | None,
        typer.Option(metavar="KEY=VALUE", help="Metadata of the response; may be repeated."),
    ] = None,
    detach: Detach = False,
    url: ServerURL = None,
    json: AsJSON = False,
) -> None:
    """Run an agent in the background, and show what it says until it ends.

    It goes on when this command is interrupted, and this command when the server is restarted.
    With --json, the response is printed when it has ended. Exits with 1 if it does not complete.

    [bold]Example:[/] longrun run demo "three days in Lisbon"

    [bold]Example:[/] longrun run demo - --detach < question.txt
    """
    asked = {
        "model": model,
        "input": sys.stdin.read() if text == "-" else text,
        "instructions": instructions,
        "previous_response_id": previous,
        "conversation": conversation,
        "metadata": _pairs(metadata or []) or None,
    }
    _create(connected(url), {n: v for n, v in asked.items() if v is not None}, detach, json)


@app.command()
def tail(
    response: ID,
    after: Annotated[
        int | None,
        typer.Option(min=0, help="Number of the last event that is known, to go on after it."),
    ] = None,
    url: ServerURL = None,
    json: Annotated[
        bool, typer.Option("--json", help="Print each event as a line of JSON, for programs.")
    ] = False,
) -> None:
    """Show what a response says, from its start and until it ends, however connections fare.

    Exits with 1 if it does not complete.

    [bold]Example:[/] longrun tail resp_01a2137d79de7cfaa8e62cf1251ceae8

    [bold]Example:[/] longrun tail resp_01a2137d79de7cfaa8e62cf1251ceae8 --json --after 120
    """
    client = connected(url)

    def events() -> Iterator[ResponseStreamEvent]:
        for event in follow(client, response, after=after):
            if json:
                print(event.model_dump_json(exclude_unset=True), flush=True)
            yield event

    _exit(_watched(client, events, shown=not json))


@app.command()
def cancel(
    responses: IDs,
    url: ServerURL = None,
    json: AsJSON = False,
) -> None:
    """Cancel runs. One that has ended stays as it is.

    Exits with 1 if one of them cannot be cancelled.

    [bold]Example:[/] longrun cancel resp_01a2137d79de7cfaa8e62cf1251ceae8
    """
    client = connected(url)
    said: dict[str, str | None] = {}
    refused: dict[str, str] = {}
    for each in responses:
        try:
            with in_words(client):
                said[each] = client.responses.cancel(each).status
        except ConfigurationError as error:
            refused[each] = error.message
    if json:
        print(dumps({"statuses": said, "refused": refused}).decode())
    else:
        for each, status in said.items():
            print(f"{each} {status}")
        for each, reason in refused.items():
            print(f"{each} {reason}", file=sys.stderr)
    raise typer.Exit(1 if refused else 0)


@app.command()
def retry(
    response: ID,
    detach: Detach = False,
    url: ServerURL = None,
    json: AsJSON = False,
) -> None:
    """Run a response's request again, as a new response, and show what that says.

    It is given the same input and the parameters that the response shows, and goes on from the
    same response or conversation. Exits with 1 if it does not complete.

    [bold]Example:[/] longrun retry resp_01a2137d79de7cfaa8e62cf1251ceae8
    """
    client = connected(url)
    with in_words(client):
        before = client.responses.retrieve(response)
        items = client.responses.input_items.list(response, order="asc", limit=100)
        given = [item.model_dump(exclude_none=True, exclude={"id", "status"}) for item in items]
    shown = before.model_dump()
    again = {name: shown[name] for name, default in _AGAIN.items() if shown.get(name) != default}
    if before.conversation is not None:
        again["conversation"] = before.conversation.id
        again.pop("previous_response_id", None)
    text = again.get("text")
    if text is not None:
        again["text"] = {name: value for name, value in text.items() if value is not None}
    asked = {"model": before.model, "input": given, **again}
    _create(client, {n: v for n, v in asked.items() if v is not None}, detach, json)


def _create(client: openai.OpenAI, asked: dict[str, Any], detach: bool, json: bool) -> None:
    """Create a response, and follow it unless told otherwise. Does not return."""
    if detach:
        with in_words(client):
            made = client.responses.create(**asked, background=True)
        print(made.model_dump_json() if json else made.id)
        raise typer.Exit
    ended = _watched(client, lambda: create_and_follow(client, **asked), shown=not json)
    if json and ended is not None:
        print(ended.model_dump_json())
    _exit(ended)


def _watched(
    client: openai.OpenAI, events: Callable[[], Iterator[ResponseStreamEvent]], *, shown: bool
) -> Response | None:
    """The response as it ended, with its events on the terminal meanwhile if they are `shown`."""
    view = View() if shown else Ending()
    try:
        with in_words(client):
            return view.show(events())
    except KeyboardInterrupt:
        if view.response is not None:
            _say_how_to_go_on(view.response.id)
        raise typer.Exit(130) from None


def _say_how_to_go_on(response_id: str) -> None:
    console = Console(stderr=True, highlight=False, soft_wrap=True)
    console.print("\nIt goes on without you:", style="dim")
    for command in ("tail", "cancel"):
        console.print(f"  longrun {command} {escape(response_id)}")


def _exit(ended: Response | None) -> None:
    raise typer.Exit(0 if ended is not None and ended.status == "completed" else 1)


def _pairs(texts: list[str]) -> dict[str, str]:
    pairs = {}
    for text in texts:
        name, equals, value = text.partition("=")
        if not name or not equals:
            raise ConfigurationError(f"--metadata {text!r}: expected KEY=VALUE")
        pairs[name] = value
    return pairs
