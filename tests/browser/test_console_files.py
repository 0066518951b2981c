"""The console's files as they are served; no browser needed."""

import re
from importlib.resources import files
from typing import get_args

import pytest
from openai.types.responses import ResponseStreamEvent
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from longrun.app import create_app
from longrun.console import routes
from longrun.settings import Settings

FOLDER = files("longrun.console")

NAMES = sorted(
    file.name for file in FOLDER.iterdir() if file.name.endswith((".css", ".html", ".js", ".svg"))
)


async def get(name: str, if_none_match: str | None = None) -> Response:
    """What the route of a file answers."""
    path = "/" if name == "index.html" else f"/console/{name}"
    (endpoint,) = [route.endpoint for route in routes() if route.path == path]
    headers = [(b"if-none-match", if_none_match.encode())] if if_none_match else []
    answer = await endpoint(Request({"type": "http", "headers": headers}))
    assert isinstance(answer, Response)
    return answer


async def text_of(name: str) -> str:
    return bytes((await get(name)).body).decode()


@pytest.mark.parametrize("name", NAMES)
class TestEveryFile:
    async def test_nothing_foreign_may_run_in_it(self, name: str) -> None:
        answer = await get(name)
        assert answer.status_code == 200
        policy = answer.headers["content-security-policy"].split("; ")
        assert "default-src 'self'" in policy
        assert "require-trusted-types-for 'script'" in policy
        assert "unsafe" not in answer.headers["content-security-policy"]
        assert answer.headers["x-content-type-options"] == "nosniff"

    async def test_it_is_not_sent_twice(self, name: str) -> None:
        first = await get(name)
        again = await get(name, first.headers["etag"])
        assert (again.status_code, again.body) == (304, b"")
        other = await get(name, '"another"')
        assert other.body == first.body

    async def test_it_asks_for_nothing_from_elsewhere(self, name: str) -> None:
        text = (await text_of(name)).replace("http://www.w3.org/2000/svg", "")
        assert re.findall(r"https?://|url\(|[\"']//", text) == []

    async def test_it_makes_no_html_of_text(self, name: str) -> None:
        text = await text_of(name)
        assert re.findall(r"innerHTML|outerHTML|insertAdjacent|document\.write|eval\(", text) == []


async def test_what_the_page_names_is_there() -> None:
    named: set[str] = set()
    for name in NAMES:
        text = FOLDER.joinpath(name).read_text("utf-8")
        named |= set(re.findall(r'"(?:console|\.)/([\w.]+)"', text))
    assert named == set(NAMES) - {"index.html"}


def test_each_file_has_one_role() -> None:
    for name in NAMES:
        assert len(FOLDER.joinpath(name).read_text("utf-8").splitlines()) <= 400, name


def test_it_can_be_turned_off() -> None:
    app = create_app(None, Settings.load(console=False))
    paths = {route.path for route in app.routes if isinstance(route, Route)}
    assert "/v1/runs" in paths
    assert not {path for path in paths if path == "/" or path.startswith("/console")}


def test_every_event_of_the_api_is_listened_to() -> None:
    """EventSource hands over only events that are asked for by name; a new one would be lost."""
    union = get_args(ResponseStreamEvent)[0]
    known = {get_args(event.model_fields["type"].annotation)[0] for event in get_args(union)}
    source = FOLDER.joinpath("longrun.js").read_text("utf-8")
    (listed,) = re.findall(r"EVENT_TYPES = `([^`]*)`", source)
    assert sorted(listed.split()) == sorted(known - {"error"})
