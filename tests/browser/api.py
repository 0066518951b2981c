"""The API as these tests use it beside the browser: start a run, read its log."""

import json
import urllib.request
from typing import Any

from tests.servers import Replica


def start_run(replica: Replica, model: str = "scripted", **script: Any) -> str:
    """Start a background run of a scripted agent. Returns its id."""
    body = {"model": model, "input": json.dumps(script), "background": True}
    request = urllib.request.Request(
        f"{replica.base_url}/responses",
        json.dumps(body).encode(),
        {"content-type": "application/json"},
    )
    with urllib.request.urlopen(request, timeout=30) as answer:
        return str(json.load(answer)["id"])


def response(replica: Replica, response_id: str) -> dict[str, Any]:
    """The response as it stands."""
    url = f"{replica.base_url}/responses/{response_id}"
    with urllib.request.urlopen(url, timeout=30) as answer:
        return dict(json.load(answer))


def log_of(replica: Replica, response_id: str) -> list[str]:
    """The data of all events, in order, read to the end of the run."""
    url = f"{replica.base_url}/responses/{response_id}?stream=true"
    with urllib.request.urlopen(url, timeout=60) as answer:
        lines = answer.read().decode().split("\n")
    data = [line.removeprefix("data: ") for line in lines if line.startswith("data: ")]
    assert data.pop() == "[DONE]"
    return data


def text_of(document: dict[str, Any]) -> str:
    """The text of a response's messages."""
    return "".join(
        part["text"]
        for item in document["output"]
        if item["type"] == "message"
        for part in item["content"]
    )
