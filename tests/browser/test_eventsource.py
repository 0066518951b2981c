"""A browser's own EventSource follows a run over servers that come and go."""

import contextlib
import http.server
import re
import signal
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any, get_args

import pytest
import pytest_asyncio
from openai.types.responses import ResponseStreamEvent
from playwright.async_api import Error, Page, expect

from tests.browser.api import log_of, response, start_run, text_of
from tests.browser.conftest import SECONDS, StartOn
from tests.servers import Replica, free_port

pytestmark = pytest.mark.asyncio(loop_scope="package")

README = Path(__file__).resolve().parents[2] / "README.md"

(FOLLOW,) = re.findall(r"```js\n([^`]*`[^`]*`[^`]*new EventSource.*?)```", README.read_text(), re.S)
"""The README's way to follow a run, word for word; `id` is the run's."""

TYPES = [
    get_args(event.model_fields["type"].annotation)[0]
    for event in get_args(get_args(ResponseStreamEvent)[0])
]

COLLECT = """([url, types]) => {
    window.received = [];
    window.source = new EventSource(url);
    for (const type of types) {
        source.addEventListener(type, (event) => { if (event.data) received.push(event.data); });
    }
}"""
"""Takes every event and never closes: only a 204 can end it."""

CLOSED = 2

SLOW: dict[str, Any] = {"deltas": 300, "pause": 0.01}
"""A run of about four seconds: long enough to lose the server in its midst."""


@pytest_asyncio.fixture(loop_scope="package")
async def blank(page: Page, server: Replica) -> Page:
    """A page of the server's origin, with nothing on it."""
    await page.goto(f"{server.url}/healthz")
    return page


class TestSameOrigin:
    async def test_a_run_is_followed_to_its_end_and_no_further(
        self, blank: Page, server: Replica
    ) -> None:
        """After the end the browser comes back, as after any other, and is told to stay away.

        It then repeats the old cursor in the URL, next to the newer header, which wins.
        """
        run = start_run(server, deltas=20)
        answers: list[int] = []
        blank.on("response", lambda answer: answers.append(answer.status))
        await blank.evaluate(COLLECT, [f"/v1/responses/{run}?stream=true&starting_after=7", TYPES])
        await blank.wait_for_function(f"source.readyState === {CLOSED}")
        assert await blank.evaluate("received") == log_of(server, run)[8:]
        assert answers == [200, 204]

    async def test_the_server_goes_away_and_another_comes(
        self, page: Page, server: Replica, start_on: StartOn
    ) -> None:
        """Beside the collecting one, the README's own: each resumes, and the text is whole."""
        port = free_port()
        with start_on(port) as first:
            run = start_run(server, **SLOW)
            await page.goto(f"{first.url}/healthz")
            await page.evaluate(COLLECT, [f"/v1/responses/{run}?stream=true", TYPES])
            await page.evaluate("document.body.replaceChildren()")
            await page.evaluate(f"(id) => {{ {FOLLOW} }}", run)
            text = page.locator("body")
            await expect(text).to_contain_text("word30 ")
            first.signal(signal.SIGTERM)
            assert first.wait() == 0
        before = await page.evaluate("received.length")
        log = log_of(server, run)
        assert before < len(log)
        with start_on(port):
            await page.wait_for_function(f"received.length >= {len(log)}", timeout=60 * SECONDS)
            await expect(text).to_contain_text("word299 ")
        assert await page.evaluate("received") == log
        assert await text.text_content() == text_of(response(server, run))

    async def test_an_unknown_run(self, blank: Page) -> None:
        unknown = "resp_" + "0" * 32
        await blank.evaluate(COLLECT, [f"/v1/responses/{unknown}?stream=true", TYPES])
        await blank.wait_for_function(f"source.readyState === {CLOSED}")
        assert await blank.evaluate("received") == []


START = """(server) => fetch(`${server}/v1/responses`, {
    method: "POST",
    headers: {"content-type": "application/json"},
    body: JSON.stringify({model: "scripted", input: "hello", background: true}),
}).then((answer) => answer.json()).then((run) => run.object)"""


@contextlib.contextmanager
def elsewhere() -> Iterator[str]:
    """The web server of somebody else, with an empty page. Gives its origin."""

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            self.send_header("content-type", "text/html")
            self.send_header("content-length", "15")
            self.end_headers()
            self.wfile.write(b"<!doctype html>")

        def log_message(self, *args: Any) -> None:
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as web:
        thread = threading.Thread(target=web.serve_forever, args=(0.05,))
        thread.start()
        yield f"http://127.0.0.1:{web.server_port}"
        web.shutdown()
        thread.join()


class TestCrossOrigin:
    async def test_a_page_of_an_allowed_origin(
        self, page: Page, server: Replica, start_on: StartOn
    ) -> None:
        """It may start a run, follow it, and come back with its last id (which ends it here)."""
        with elsewhere() as origin:
            await page.goto(origin)
            with start_on(free_port(), LONGRUN_CORS_ORIGINS=origin) as replica:
                assert await page.evaluate(START, replica.url) == "response"
                run = start_run(server, deltas=20)
                url = f"{replica.url}/v1/responses/{run}?stream=true"
                await page.evaluate(COLLECT, [url, TYPES])
                await page.wait_for_function(f"source.readyState === {CLOSED}")
            assert await page.evaluate("received") == log_of(server, run)

    async def test_a_page_of_another_origin_is_refused(self, page: Page, server: Replica) -> None:
        with elsewhere() as origin:
            await page.goto(origin)
            with pytest.raises(Error, match="Failed to fetch"):
                await page.evaluate(START, server.url)
            url = f"{server.url}/v1/responses/{start_run(server)}?stream=true"
            await page.evaluate(COLLECT, [url, TYPES])
            await page.wait_for_function(f"source.readyState === {CLOSED}")
            assert await page.evaluate("received") == []
