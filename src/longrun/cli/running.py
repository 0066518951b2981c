"""What `longrun run`, `tail`, `steer`, `cancel` and `retry` do, and what they exit with."""

import sys
import uuid
from collections.abc import Callable, Iterator
from typing import Any, Final

import openai
import typer
from openai.types.responses import Response, ResponseStreamEvent
from rich.console import Console
from rich.markup import escape

from longrun.cli.server import connected, in_words
from longrun.cli.viewing import Ending, View
from longrun.client import create_and_follow, follow
from longrun.errors import ConfigurationError
from longrun.jsontext import dumps

INTERRUPTED: Final = 130
"""What a shell says of a command that Ctrl-C ended."""


def run(url: str | None, asked: dict[str, Any], detach: bool, json: bool) -> int:
    """Create a response from the parameters that are not None, and follow it."""
    return _create(connected(url), asked, detach, json)


def tail(url: str | None, response_id: str, after: int | None, json: bool) -> int:
    """Follow a response."""
    client = connected(url)
    with in_words(client):
        # Following would wait for a server that is away, which is wanted only once it was there.
        client.responses.retrieve(response_id)

    def events() -> Iterator[ResponseStreamEvent]:
        for event in follow(client, response_id, after=after):
            if json:
                print(_as_json(event), flush=True)
            yield event

    return _code_of(_watched(client, events, shown=not json))


def steer(url: str | None, response_id: str, text: str, json: bool) -> None:
    """Put a message into a live response."""
    client = connected(url)
    with in_words(client):
        accepted = client.post(
            f"/responses/{response_id}/steer",
            body={"input": text},
            # Its retries put the message in once.
            options={"headers": {"Idempotency-Key": uuid.uuid4().hex}},
            cast_to=dict[str, Any],
        )
    print(dumps(accepted).decode() if json else accepted["input"][0]["id"])


def cancel(url: str | None, response_ids: list[str], json: bool) -> int:
    """Cancel responses."""
    client = connected(url)
    said: dict[str, str | None] = {}
    refused: dict[str, str] = {}
    for each in response_ids:
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
    return 1 if refused else 0


def retry(
    url: str | None, response_id: str, step: int, given: str | None, detach: bool, json: bool
) -> int:
    """Create a response with another's request as it is stored, or one that goes on from a step of
    that one, and follow it."""
    fork = {"response_id": response_id, "step": step}
    return _create(
        connected(url), {"input": given, "extra_body": {"longrun": {"fork": fork}}}, detach, json
    )


def _create(client: openai.OpenAI, asked: dict[str, Any], detach: bool, json: bool) -> int:
    given = {name: value for name, value in asked.items() if value is not None}
    if detach:
        with in_words(client):
            made = client.responses.create(**given, background=True)
        print(_as_json(made) if json else made.id)
        return 0
    with in_words(client):
        client.models.list()
    ended = _watched(client, lambda: create_and_follow(client, **given), shown=not json)
    if json and ended is not None:
        print(_as_json(ended))
    return _code_of(ended)


def _as_json(said: Response | ResponseStreamEvent) -> str:
    """As it came. Pydantic's own JSON has no place for a lone surrogate."""
    return dumps(said.to_dict(mode="python")).decode()


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
        raise typer.Exit(INTERRUPTED) from None


def _say_how_to_go_on(response_id: str) -> None:
    console = Console(stderr=True, highlight=False, soft_wrap=True)
    console.print("\nIt goes on without you:", style="dim")
    for command in ("tail", "cancel"):
        console.print(f"  longrun {command} {escape(response_id)}")


def _code_of(ended: Response | None) -> int:
    return 0 if ended is not None and ended.status == "completed" else 1
