"""What must hold of each page of the console in both themes and at two widths."""

import json
from typing import Any, Literal

import pytest
from axe_playwright_python.async_playwright import Axe
from playwright.async_api import Page, expect

from tests.browser.api import log_of, start_run
from tests.browser.conftest import NewPage
from tests.servers import Replica

pytestmark = pytest.mark.asyncio(loop_scope="package")

WIDTHS = {"desktop": 1280, "phone": 360}


async def check(page: Page, width: int) -> None:
    """Nothing is wider than the page, and axe finds nothing."""
    assert await page.evaluate("document.scrollingElement.scrollWidth") == width
    found = (await Axe().run(page)).response["violations"]
    assert [(each["id"], [node["html"] for node in each["nodes"]]) for each in found] == []


@pytest.fixture(scope="module")
def runs(server: Replica) -> dict[str, Any]:
    """One of each kind."""
    text = "# Title\n\n- an `item` of **many** [words](https://example.com)\n\n```\ncode\n```\n"
    calls = [[["echo", {"text": "hi"}], ["broken", {}]]]
    made = {
        "failed": start_run(server, deltas=5, fail=2),
        "whole": start_run(server, turns=[[["echo", {"text": "hi"}]]], deltas=1, delta=text),
        "wrong": start_run(server, turns=calls),
    }
    for id_ in made.values():
        log_of(server, id_)
    return made


@pytest.mark.parametrize("theme", ["light", "dark"])
@pytest.mark.parametrize("width", WIDTHS.values(), ids=WIDTHS)
async def test_each_page_for_everybody(
    new_page: NewPage,
    server: Replica,
    runs: dict[str, Any],
    theme: Literal["light", "dark"],
    width: int,
) -> None:
    page = await new_page(viewport={"width": width, "height": 800}, color_scheme=theme)
    await page.goto(server.url)
    row = page.locator(f'#rows tr[data-id="{runs["failed"]}"]')
    await expect(row).to_be_visible()
    await row.get_by_role("checkbox").check()
    await check(page, width)
    await page.goto(f"{server.url}/#system")
    await expect(page.locator("#replicas tr").first).to_be_visible()
    await check(page, width)
    for id_ in (runs["whole"], runs["failed"]):
        await page.goto(f"{server.url}/#{id_}")
        await expect(page.locator("#verdict")).to_contain_text("each once")
        await expect(page.locator("#waterfall")).to_be_visible()
        await page.locator("#log-box summary").click()
        await page.locator(".log-row").first.click()
        await check(page, width)
        await page.goto("about:blank")


async def test_what_it_is_asked_is_answered_from_its_page(page: Page, server: Replica) -> None:
    """Approve and Refuse create the response that goes on."""
    made = start_run(server)
    log_of(server, made)
    request = {
        "id": "mcpr_1",
        "type": "mcp_approval_request",
        "server_label": "scripted",
        "name": "pay",
        "arguments": '{"amount": 5}',
    }
    events = [json.loads(line) for line in log_of(server, made)]
    ended = events[-1]["response"]
    ended["output"] = [request]
    shown = [
        events[0],
        events[1],
        {"type": "response.output_item.added", "output_index": 0, "item": request},
        {"type": "response.output_item.done", "output_index": 0, "item": request},
        {"type": "response.completed", "response": ended},
    ]
    frames = "".join(
        f"event: {each['type']}\ndata: {json.dumps({**each, 'sequence_number': number})}\n\n"
        for number, each in enumerate(shown)
    )
    await page.route(
        f"**/v1/responses/{made}?stream=true*",
        lambda route: route.fulfill(
            content_type="text/event-stream", body=f"{frames}data: [DONE]\n\n"
        ),
    )
    entry = {"id": made, "model": "scripted", "waits": True, "conversation_id": None}
    entry |= {"principal": "", "created_at": 1.0, "attempts": [], "times": [], "metadata": {}}
    entry |= {"attempt": 1, "finished_at": 2.0}
    await page.route(f"**/v1/runs/{made}", lambda route: route.fulfill(json=entry))
    sent: list[Any] = []

    async def answered(route: Any) -> None:
        if route.request.method != "POST":
            return await route.fallback()
        sent.append(route.request.post_data_json)
        await route.fulfill(json={"id": made[:-1] + ("0" if made[-1] != "0" else "1")})
        return None

    await page.route("**/v1/responses", answered)
    await page.goto(f"{server.url}/#{made}")
    await expect(page.locator("[data-type=mcp_approval_request]")).to_contain_text("pay")
    await page.get_by_label("Reason to refuse pay").fill("too much")
    await page.get_by_role("button", name="Refuse").click()
    await expect(page.locator("#run-id")).not_to_have_text(made)
    answer = {"type": "mcp_approval_response", "approval_request_id": "mcpr_1"}
    assert sent == [
        {
            "model": "scripted",
            "background": True,
            "input": [{**answer, "approve": False, "reason": "too much"}],
            "previous_response_id": made,
        }
    ]
