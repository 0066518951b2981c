"""The chat page: what was said is there after a reload, and on a second device."""

import json
import re
import urllib.request

import pytest
from axe_playwright_python.async_playwright import Axe
from playwright.async_api import Page, expect

from tests.browser.api import response
from tests.browser.conftest import NewPage
from tests.servers import Replica

pytestmark = pytest.mark.asyncio(loop_scope="package")


def asks(**script: object) -> str:
    return json.dumps(script)


async def say(page: Page, text: str) -> None:
    await page.get_by_label("Message").fill(text)
    await page.get_by_role("button", name="Send").click()


async def opened(page: Page, server: Replica, chat: str = "") -> None:
    await page.goto(f"{server.url}/console/chat.html?model=scripted{chat}")


async def test_a_chat_over_a_reload_and_a_second_device(
    page: Page, new_page: NewPage, server: Replica
) -> None:
    await opened(page, server)
    await say(page, asks(deltas=60, pause=0.1, delta="w{n} "))
    said = page.locator(".said")
    await expect(said.first).to_contain_text("w3 ")
    await page.reload()
    await expect(said.first).to_contain_text("w0 w1 w2 ")
    chat = re.sub(r"^[^#]*", "", page.url)
    phone = await new_page(viewport={"width": 360, "height": 700}, color_scheme="dark")
    await opened(phone, server, chat)
    await expect(phone.locator(".asked")).to_have_count(1)
    await expect(phone.locator(".said").first).to_contain_text("w59 ")
    await expect(phone.get_by_role("button", name="Send")).to_be_visible()
    await say(phone, asks(show=True))
    # The first device sees what the second has said, and its answer knows the turn before.
    await expect(page.locator(".asked")).to_have_count(2)
    await expect(said.nth(1)).to_contain_text("w58 w59")
    await expect(phone.locator(".said").nth(1)).to_contain_text("w58 w59")
    for each in (page, phone):
        assert (await Axe().run(each)).response["violations"] == []
        width = await each.evaluate("document.scrollingElement.scrollWidth")
        assert width == (each.viewport_size or {})["width"]


async def test_it_is_stopped_and_begun_anew(page: Page, server: Replica) -> None:
    await opened(page, server)
    await say(page, asks(deltas=2000, pause=0.1))
    await expect(page.locator(".said")).to_contain_text("word1 ")
    await page.get_by_role("button", name="Stop").click()
    await expect(page.locator(".said")).to_contain_text("Stopped.")
    await page.get_by_role("button", name="New chat").click()
    await expect(page.locator(".said")).to_have_count(0)
    await say(page, "<b>bold</b>")
    await expect(page.locator(".said")).to_have_text("<b>bold</b>")
    listed = f"{server.base_url}/responses?limit=1"
    with urllib.request.urlopen(listed, timeout=30) as answer:
        [newest] = json.load(answer)["data"]
    assert response(server, newest["id"])["previous_response_id"] is None


async def test_what_the_server_refuses_is_told(page: Page, server: Replica) -> None:
    await page.goto(f"{server.url}/console/chat.html?model=nobody")
    await say(page, "hello")
    await expect(page.get_by_role("status")).to_contain_text("does not exist")
