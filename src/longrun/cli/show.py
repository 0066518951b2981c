"""`longrun show`: one response, for its operator."""

import asyncio
from datetime import UTC, datetime
from typing import Annotated, Any

import typer

from longrun.cli.options import AsJSON, DatabaseURL, DataDir
from longrun.errors import BadRequest, ConfigurationError
from longrun.jsontext import dumps, loads
from longrun.loglines import on_terminal
from longrun.settings import Settings
from longrun.store.forks import Source
from longrun.store.overview import attempt_in

app = typer.Typer()


@app.command()
def show(
    response: Annotated[str, typer.Argument(metavar="ID", help="The id of a response.")],
    database_url: DatabaseURL = None,
    data_dir: DataDir = None,
    json: AsJSON = False,
) -> None:
    """Print the status of a response, its attempts, and why it failed.

    The reason is the exception, where it was raised, and its traceback. Clients do not see it
    unless LONGRUN_SHOW_ERRORS is set.

    [bold]Example:[/] longrun show resp_01a2137d79de7cfaa8e62cf1251ceae8
    """
    from longrun.store.command import inspect_response

    settings = Settings.load(database_url=database_url, data_dir=data_dir)
    found = asyncio.run(inspect_response(settings, response))
    if found is None:
        raise ConfigurationError(f"there is no response {response!r}")
    columns, source = found
    told = {**_as_json(columns), "numbered_steps": _numbered(source)}
    print(dumps(told).decode() if json else on_terminal(_as_text(told)), end="\n" if json else "")


def _as_json(found: dict[str, Any]) -> dict[str, Any]:
    """The columns, with what is JSON text in them read, and times as text."""
    document = loads(found["document"])
    reason = found["reason"]
    told: dict[str, Any] = {
        name: value.isoformat() if isinstance(value, datetime) else value
        for name, value in found.items()
        if name not in ("document", "reason", "ran_on")
    }
    told["attempts"] = [
        {
            "attempt": number,
            "replica_id": replica,
            "until": datetime.fromtimestamp(until, UTC).isoformat(),
            "how": how,
        }
        for number, replica, until, how in map(attempt_in, found["ran_on"] or ())
    ]
    ended = {name: document.get(name) for name in ("error", "incomplete_details", "usage")}
    return {**told, **ended, "reason": loads(reason) if reason else None}


def _numbered(source: Source | None) -> list[dict[str, Any]]:
    """The steps as they can be forked; none of a handler's."""
    from longrun.execution.forking import course_of

    if source is None:
        return []
    try:
        return [step._asdict() for step in course_of(source).steps]
    except BadRequest:
        return []


def _as_text(told: dict[str, Any]) -> str:
    """A line for each thing that is known; the traceback at the end."""
    reason = told["reason"] or {}
    rows: list[tuple[str, Any]] = [
        (name, told[name])
        for name in (
            *("id", "status", "agent", "principal", "attempt", "deaths", "handovers"),
            *("replica_id", "created_at", "finished_at", "events", "items"),
        )
    ]
    rows += [
        (f"attempt {each['attempt']}", f"{each['how']} at {each['until']} on {each['replica_id']}")
        for each in told["attempts"]
    ]
    numbered = told["numbered_steps"]
    if numbered:
        rows += [(f"step {each['step']}", _step_words(each)) for each in numbered]
    else:
        rows += [("steps", ", ".join(told["steps"]))]
    rows += [("told", (told["error"] or {}).get("message"))]
    rows += [("incomplete", (told["incomplete_details"] or {}).get("reason"))]
    rows += [(name, reason.get(name)) for name in ("exception", "message", "step")]
    if reason:
        rows += [("failed in", f"attempt {reason['attempt']}")]
    lines = [f"{name:<12} {value}" for name, value in rows if value not in (None, "")]
    return "\n".join([*lines, "", reason["traceback"]] if reason else lines) + "\n"


def _step_words(step: dict[str, Any]) -> str:
    kind = "turn of" if step["kind"] == "model" else step["kind"]
    words = " ".join(step["arguments"].split())[:60]
    return f"{kind} {step['name']} {words}".rstrip() + ("" if step["finished"] else " (running)")
