"""A real Chromium, driven by Playwright, and the servers that its pages come from.

Without Chromium these tests are skipped, but never in CI (`CI` set): there they fail.
"""

import contextlib
import os
import shutil
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator

import pytest
import pytest_asyncio
from playwright.async_api import Browser, Page, async_playwright, expect

from tests import postgres, servers

AGENTS = "longrun.demo.agents:agents tests.scripted:agents"

NAMES = ("chromium", "chromium-browser", "google-chrome")

ARGUMENTS = (
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-gpu",
    "--disable-quic",
    "--disable-sync",
    "--no-first-run",
)

SECONDS = 1000.0  # Playwright counts in milliseconds

expect.set_options(timeout=20 * SECONDS)


def chromium() -> str:
    """The path of the browser; without one the test is skipped, or fails in CI."""
    found = next(filter(None, map(shutil.which, NAMES)), None)
    if found is None:
        reason = f"no browser: none of {', '.join(NAMES)} is installed"
        if os.environ.get("CI"):
            pytest.fail(reason)
        pytest.skip(reason)
    return found


@pytest_asyncio.fixture(scope="package", loop_scope="package")
async def browser() -> AsyncIterator[Browser]:
    """One Chromium for all tests; each page has a profile of its own."""
    path = chromium()
    async with async_playwright() as playwright:
        launched = await playwright.chromium.launch(executable_path=path, args=ARGUMENTS)
        yield launched
        await launched.close()


NewPage = Callable[..., Awaitable[Page]]


@pytest_asyncio.fixture(loop_scope="package")
async def new_page(browser: Browser) -> AsyncIterator[NewPage]:
    """Opens pages. At the end of the test none of them may have had an error.

    Requests that fail are the tests' own doing and are no errors here.
    """
    errors: list[str] = []

    async def opened(**options: object) -> Page:
        context = await browser.new_context(**options)  # type: ignore[arg-type]
        page = await context.new_page()
        page.set_default_timeout(20 * SECONDS)
        page.on("pageerror", lambda error: errors.append(str(error)))
        page.on("console", lambda said: errors.append(said.text) if said.type == "error" else None)
        return page

    yield opened
    for context in browser.contexts:
        await context.close()
    assert [e for e in errors if not e.startswith(("Failed to load resource", "Access to "))] == []


@pytest_asyncio.fixture(loop_scope="package")
async def page(new_page: NewPage) -> Page:
    """A page as a desktop has it."""
    return await new_page(viewport={"width": 1280, "height": 800})


@pytest.fixture(scope="package")
def server(database: postgres.Server) -> Iterator[servers.Replica]:
    """A replica with the demo agents and the scripted ones, shared by all tests here."""
    chromium()
    with servers.replicas(1, database.url, schema="browser", agents=AGENTS) as (replica,):
        yield replica


StartOn = Callable[..., contextlib.AbstractContextManager[servers.Replica]]


@pytest.fixture
def start_on(database: postgres.Server) -> StartOn:
    """Starts a replica on a given port, beside `server` on the same database."""

    @contextlib.contextmanager
    def started(port: int, **environment: str) -> Iterator[servers.Replica]:
        replica = servers.start(
            database.url,
            schema="browser",
            agents=AGENTS,
            arguments=("--port", str(port)),
            environment=environment,
            wait=False,
        )
        replica.url = f"http://127.0.0.1:{port}"
        try:
            servers.wait_ready(replica)
            yield replica
        finally:
            replica.end()
            replica.log.unlink(missing_ok=True)

    return started
