"""`longrun run`, `tail`, `steer`, `cancel` and `retry`: runs, by the URL of a server."""

import sys
from typing import Annotated

import typer

from longrun.cli.options import AsJSON, ServerURL
from longrun.errors import ConfigurationError

app = typer.Typer()

ID = Annotated[str, typer.Argument(metavar="ID", help="The id of a response.")]
IDs = Annotated[list[str], typer.Argument(metavar="ID", help="The ids of responses.")]
Detach = Annotated[
    bool, typer.Option("--detach", "-d", help="Print the id, and do not wait for the run to end.")
]


@app.command()
def run(
    model: Annotated[str, typer.Argument(metavar="AGENT", help="The name of an agent.")],
    text: Annotated[
        str,
        typer.Argument(
            metavar="INPUT", help="Input for the agent; - reads it from standard input."
        ),
    ],
    instructions: Annotated[
        str | None, typer.Option(help="Instructions in addition to the agent's own.")
    ] = None,
    previous: Annotated[
        str | None, typer.Option(metavar="ID", help="Continue this response.")
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
    """Run an agent in the background, and show its output until it ends.

    The run continues if this command is interrupted, and this command continues if the server is
    restarted. With --json, the response is printed once it has ended. Exits with 1 if the response
    does not complete.

    [bold]Example:[/] longrun run demo "a short one"

    [bold]Example:[/] longrun run demo - --detach < question.txt
    """
    from longrun.cli import running

    asked = {
        "model": model,
        "input": sys.stdin.read() if text == "-" else text,
        "instructions": instructions,
        "previous_response_id": previous,
        "conversation": conversation,
        "metadata": _pairs(metadata or []) or None,
    }
    raise typer.Exit(running.run(url, asked, detach, json))


@app.command()
def tail(
    response: ID,
    after: Annotated[
        int | None,
        typer.Option(min=0, help="Start after the event with this number."),
    ] = None,
    url: ServerURL = None,
    json: Annotated[
        bool, typer.Option("--json", help="Print each event as a line of JSON, for programs.")
    ] = False,
) -> None:
    """Show the output of a response from start to end, even if connections drop.

    Exits with 1 if the response does not complete.

    [bold]Example:[/] longrun tail resp_01a2137d79de7cfaa8e62cf1251ceae8

    [bold]Example:[/] longrun tail resp_01a2137d79de7cfaa8e62cf1251ceae8 --json --after 120
    """
    from longrun.cli import running

    raise typer.Exit(running.tail(url, response, after, json))


@app.command()
def steer(
    response: ID,
    text: Annotated[
        str,
        typer.Argument(metavar="MESSAGE", help="The message; - reads it from standard input."),
    ],
    url: ServerURL = None,
    json: AsJSON = False,
) -> None:
    """Put a message into a live run: its next model turn sees it.

    Prints the id of the message, which is now part of the response's input. Exits with 2 if the
    response has ended.

    [bold]Example:[/] longrun steer resp_01a2137d79de7cfaa8e62cf1251ceae8 "in one sentence, please"
    """
    from longrun.cli import running

    running.steer(url, response, sys.stdin.read() if text == "-" else text, json)


@app.command()
def cancel(
    responses: IDs,
    url: ServerURL = None,
    json: AsJSON = False,
) -> None:
    """Cancel runs. Runs that have ended are not changed.

    Exits with 1 if one of them cannot be cancelled.

    [bold]Example:[/] longrun cancel resp_01a2137d79de7cfaa8e62cf1251ceae8
    """
    from longrun.cli import running

    raise typer.Exit(running.cancel(url, responses, json))


@app.command()
def retry(
    response: ID,
    from_step: Annotated[
        int,
        typer.Option(min=0, help="Number of the last step to keep; longrun show lists them."),
    ] = 0,
    input_: Annotated[
        str | None,
        typer.Option(
            "--input",
            "-i",
            metavar="INPUT",
            help="Input after that step; from step 0, it replaces the original input.",
        ),
    ] = None,
    detach: Detach = False,
    url: ServerURL = None,
    json: AsJSON = False,
) -> None:
    """Send a response's request again, as a new response, and show its output.

    The stored request is repeated as it is, and continues what the original continued. With
    --from-step, the recorded steps up to that one are kept: no model is asked and no tool is called
    again for them. Exits with 1 if the response does not complete.

    [bold]Example:[/] longrun retry resp_01a2137d79de7cfaa8e62cf1251ceae8

    [bold]Example:[/] longrun retry resp_01a2137d79de7cfaa8e62cf1251ceae8 --from-step 3 -i "French"
    """
    from longrun.cli import running

    raise typer.Exit(running.retry(url, response, from_step, input_, detach, json))


def _pairs(texts: list[str]) -> dict[str, str]:
    pairs = {}
    for text in texts:
        name, equals, value = text.partition("=")
        if not name or not equals:
            raise ConfigurationError(f"--metadata {text!r}: expected KEY=VALUE")
        pairs[name] = value
    return pairs
