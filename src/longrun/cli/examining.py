"""What `longrun doctor --url` looks at: what a server says of itself."""

from typing import Any, Final

import httpx2

from longrun.cli.server import connected
from longrun.store.doctor import Finding

ANSWERS_WITHIN: Final = 10.0
"""Seconds that an answer may take."""


def of_server(url: str) -> list[Finding]:
    """What a server says of itself, and whether the key is one of its."""
    client = connected(url)
    server = str(client.base_url).rstrip("/").removesuffix("/v1")
    try:
        with httpx2.Client(base_url=server, timeout=ANSWERS_WITHIN) as asking:
            ready = asking.get("/readyz")
            listed = asking.get("/v1/models", headers={"authorization": f"Bearer {client.api_key}"})
    except httpx2.HTTPError as error:
        return [
            Finding(
                "server",
                "failure",
                f"{server} does not answer: {type(error).__name__}: {error}",
                "Check the URL, or start one with `longrun serve`",
            )
        ]
    return [_readiness(server, ready), _models(listed)]


def _readiness(server: str, answer: httpx2.Response) -> Finding:
    said = _json_of(answer)
    if said is None or "problems" not in said:
        return Finding(
            "server",
            "failure",
            f"{server}/readyz answers {answer.status_code}, and not as longrun does",
            "Check the URL, and whether a proxy in front lets /readyz through",
        )
    amiss = [*said["problems"], *said.get("warnings", [])]
    if not amiss:
        return Finding("server", "ok", f"{server} is ready")
    state: Any = "failure" if said["problems"] else "warning"
    return Finding("server", state, "; ".join(amiss), "Look into its log")


def _models(answer: httpx2.Response) -> Finding:
    if answer.status_code == 401:
        return Finding(
            "key",
            "failure",
            "the key in LONGRUN_API_KEY is not valid",
            "Make one with `longrun keys create NAME`",
        )
    said = _json_of(answer)
    if answer.status_code != 200 or said is None:
        return Finding("agents", "failure", f"/v1/models answers {answer.status_code}")
    return Finding("agents", "ok", ", ".join(each["id"] for each in said["data"]))


def _json_of(answer: httpx2.Response) -> dict[str, Any] | None:
    try:
        said = answer.json()
    except ValueError:
        return None
    return said if isinstance(said, dict) else None
