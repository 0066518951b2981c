"""Forks from a run's page, and approvals: both on the server, with nothing in between."""

import json
import re
import urllib.request
from collections.abc import Iterator
from typing import Any

import pytest
from axe_playwright_python.async_playwright import Axe
from playwright.async_api import Page, expect

from tests import postgres, servers
from tests.approvals.agents import AGENTS
from tests.browser.api import log_of, response, start_run, text_of
from tests.browser.conftest import chromium
from tests.provider.agents import environment
from tests.provider.server import Provider
from tests.servers import Replica

pytestmark = pytest.mark.asyncio(loop_scope="package")

WHOLE = re.compile(r"All [\d,]+ events arrived, each once")


@pytest.fixture(scope="module")
def asking(database: postgres.Server, running_provider: Provider) -> Iterator[Replica]:
    """A replica whose agents ask for approvals."""
    chromium()
    with servers.replicas(
        1,
        database.url,
        schema="browser_asking",
        agents=AGENTS,
        environment=environment(running_provider),
    ) as (replica,):
        yield replica


async def shown_id(page: Page, before: str) -> str:
    await expect(page.locator("#run-id")).not_to_have_text(before)
    await expect(page.locator("#verdict")).to_have_text(WHOLE)
    return await page.locator("#run-id").inner_text()


async def test_fork_from_here(page: Page, server: Replica) -> None:
    source = start_run(server, turns=[[["echo", {"text": "a"}]], [["echo", {"text": "b"}]]])
    log_of(server, source)
    await page.goto(f"{server.url}/#{source}")
    await expect(page.locator("#verdict")).to_have_text(WHOLE)
    await page.get_by_text("Steps, and forks from them").click()
    kinds = page.locator("#steps .step-kind")
    await expect(kinds).to_have_text(["Start", "Turn", "Tool", "Turn", "Tool", "Turn"])
    assert (await Axe().run(page)).response["violations"] == []
    await page.get_by_role("button", name="Fork from step 2").click()
    await expect(page.get_by_role("dialog")).to_contain_text("Fork from step 2, tool echo")
    assert (await Axe().run(page)).response["violations"] == []
    await page.get_by_role("button", name="Do not").click()
    await expect(page.get_by_role("dialog")).to_have_count(0)
    await page.get_by_role("button", name="Fork from step 2").click()
    await page.get_by_label("What is said next").fill("and in French?")
    await page.get_by_role("button", name="Fork the run").click()
    made = await shown_id(page, source)
    await expect(page.locator("#facts")).to_contain_text(f"{source}, step 2")
    after = response(server, made)
    assert [item["type"] for item in after["output"]] == ["mcp_call", "message"]
    assert text_of(after) == "and in French?"
    await page.get_by_role("link", name=source).click()
    await expect(page.locator("#run-id")).to_have_text(source)


async def test_from_the_start_with_other_input(page: Page, server: Replica) -> None:
    source = start_run(server, deltas=1, delta="said so")
    log_of(server, source)
    await page.goto(f"{server.url}/#{source}")
    await expect(page.locator("#verdict")).to_have_text(WHOLE)
    await page.get_by_text("Steps, and forks from them").click()
    await page.get_by_role("button", name="Fork from step 0").click()
    given = page.get_by_label("What is said next")
    await expect(given).to_have_value('{"deltas": 1, "delta": "said so"}')
    await given.fill("said otherwise")
    await page.get_by_role("button", name="Fork the run").click()
    assert text_of(response(server, await shown_id(page, source))) == "said otherwise"


async def test_run_again_is_the_same_request(page: Page, server: Replica) -> None:
    source = start_run(server, deltas=1, delta="once more")
    log_of(server, source)
    await page.goto(f"{server.url}/#{source}")
    await expect(page.locator("#verdict")).to_have_text(WHOLE)
    await page.get_by_role("button", name="Run again").click()
    assert text_of(response(server, await shown_id(page, source))) == "once more"


@pytest.mark.parametrize("word", ["Approve", "Refuse"])
async def test_approvals_of_a_run_that_waits(page: Page, asking: Replica, word: str) -> None:
    pay = {"call": "pay", "arguments": {"to": "ann"}}
    asked: Any = {"turns": [[pay]], "then": "the end"}
    waiting = start_run(asking, "responses-asking", **asked)
    log_of(asking, waiting)
    await page.goto(f"{asking.url}/#{waiting}")
    await expect(page.locator("[data-type=mcp_approval_request]")).to_contain_text("pay")
    if word == "Refuse":
        await page.get_by_label("Reason to refuse pay").fill("too dear")
    await page.get_by_role("button", name=word).click()
    made = await shown_id(page, waiting)
    after = response(asking, made)
    assert after["previous_response_id"] == waiting
    [call] = [item for item in after["output"] if item["type"] == "mcp_call"]
    outcome = json.dumps(call)
    assert ("paid ann" in outcome) is (word == "Approve")
    assert ("too dear" in outcome) is (word == "Refuse")
    await page.goto(f"{asking.url}/#{waiting}")
    card = page.locator("[data-type=mcp_approval_request]")
    await expect(card).to_contain_text("answered")
    await expect(page.get_by_role("button", name=word)).to_have_count(0)
    with urllib.request.urlopen(f"{asking.base_url}/runs/{waiting}", timeout=30) as answer:
        assert json.load(answer)["waits"] is False
