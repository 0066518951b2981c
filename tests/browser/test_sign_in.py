"""The console of a server that asks who is calling."""

import json
import re
from collections.abc import AsyncIterator, Iterator

import pytest
import pytest_asyncio
from playwright.async_api import Page, expect

from longrun.access.keys import NewKey, new_key
from longrun.store.keys import Keys, KeyToStore
from tests import servers, storing
from tests.browser.conftest import SECONDS
from tests.postgres import Server
from tests.servers import Replica

pytestmark = pytest.mark.asyncio(loop_scope="package")

SCHEMA = "browser_keys"


@pytest_asyncio.fixture(loop_scope="package")
async def key(database: Server) -> AsyncIterator[NewKey]:
    made = new_key()
    async with storing.migrated(database.url, SCHEMA) as opened:
        keys, scopes = Keys(opened), frozenset({"read", "write"})
        await keys.create(KeyToStore(made.prefix, made.hash, made.prefix[3:], "alice", scopes))
        yield made
        await keys.revoke(made.prefix)


@pytest.fixture
def guarded(database: Server, key: NewKey) -> Iterator[Replica]:
    environment = {"LONGRUN_STREAM_TOKEN_SECONDS": "2"}
    with servers.replicas(1, database.url, schema=SCHEMA, environment=environment) as (replica,):
        yield replica


async def sign_in(page: Page, key: str) -> None:
    await page.get_by_label("API key").fill(key)
    await page.get_by_role("button", name="Sign in").click()


async def test_with_a_key_as_without(page: Page, guarded: Replica, key: NewKey) -> None:
    urls: list[str] = []
    page.on("request", lambda request: urls.append(request.url))
    await page.goto(guarded.url)
    await expect(page.get_by_label("API key")).to_be_focused()
    await expect(page.get_by_label("Agent")).not_to_be_visible()
    await sign_in(page, key.text[:-2] + "__")
    await expect(page.locator("#key-problem")).to_have_text("The server does not take this key.")
    await sign_in(page, key.text)
    await expect(page.get_by_label("Agent")).to_have_value("scripted")
    await page.get_by_label("Input").fill(json.dumps({"deltas": 60, "pause": 0.1}))
    await page.get_by_role("button", name="Run", exact=True).click()
    await expect(page.locator("#connection")).to_have_text("live")
    # The token of the first connection is too old by the time of the second.
    await page.wait_for_timeout(2.5 * SECONDS)
    await page.get_by_role("button", name="Cut the connection").click()
    await expect(page.locator("#verdict")).to_have_text(re.compile("over 2 connections; the text"))
    assert not any(key.text in url for url in urls)
    assert len({url for url in urls if "token=" in url}) == 2
    await page.reload()
    await expect(page.locator("#verdict")).to_have_text(re.compile("over 1 connection; the text"))


async def test_the_key_is_this_tabs_alone(page: Page, guarded: Replica, key: NewKey) -> None:
    await page.goto(guarded.url)
    await sign_in(page, key.text)
    await expect(page.get_by_label("Agent")).to_have_value("scripted")
    second = await page.context.new_page()
    await second.goto(guarded.url)
    await expect(second.get_by_label("API key")).to_be_visible()
    assert key.text not in await page.evaluate("JSON.stringify({...localStorage})")
    assert await page.context.cookies() == []
    await page.get_by_role("button", name="Sign out").click()
    await expect(page.get_by_label("API key")).to_be_visible()
    await page.reload()
    await expect(page.get_by_label("API key")).to_be_visible()


async def test_what_a_tab_without_a_key_opens(page: Page, guarded: Replica, key: NewKey) -> None:
    await page.goto(guarded.url)
    await sign_in(page, key.text)
    await page.get_by_label("Input").fill("hello")
    await page.get_by_role("button", name="Run", exact=True).click()
    await expect(page.locator("#verdict")).to_have_text(re.compile("the text equals"))
    await page.get_by_text("The same with curl").click()
    await expect(page.locator("#curl")).to_contain_text("authorization: Bearer $LONGRUN_API_KEY")
    async with page.context.expect_page() as opening:
        await page.get_by_role("link", name="Response as JSON").click()
    opened = await opening.value
    await opened.wait_for_url(re.compile(r"token="))
    await expect(opened.locator("body")).to_contain_text('"status":"completed"')


async def test_a_revoked_key_is_asked_for_again(
    page: Page, guarded: Replica, key: NewKey, database: Server
) -> None:
    await page.goto(guarded.url)
    await sign_in(page, key.text)
    await expect(page.get_by_label("Agent")).to_have_value("scripted")
    async with storing.opened(database.url, SCHEMA) as opened:
        await Keys(opened).revoke(key.prefix)
    # The list asks again and again, and so notices it by itself.
    await expect(page.get_by_label("API key")).to_be_visible()
    await expect(page.locator("#views")).not_to_be_visible()
