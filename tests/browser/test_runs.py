"""The list of runs, and what the console's page of one run shows beside its transcript."""

import json
import re
import signal
from typing import Any

import pytest
from playwright.async_api import Page, Route, expect

from longrun.console import routes
from tests.browser.api import log_of, response, start_run
from tests.browser.conftest import SECONDS, NewPage, StartOn
from tests.servers import Replica, free_port

pytestmark = pytest.mark.asyncio(loop_scope="package")

WHOLE = re.compile(r"All [\d,]+ events arrived, each once")


def row(page: Page, id_: str) -> Any:
    return page.locator(f'#rows tr[data-id="{id_}"]')


class TestList:
    async def test_it_is_live(self, page: Page, server: Replica) -> None:
        """What starts elsewhere comes up, and changes, with one request for the whole page."""
        asked: list[str] = []
        page.on("request", lambda request: asked.append(request.url))
        await page.goto(server.url)
        await expect(page.locator("#rows .waiting")).to_have_count(0)
        started = start_run(server, deltas=60, pause=0.1)
        await expect(row(page, started).locator(".badge")).to_have_text("running")
        await expect(row(page, started).locator(".asked")).to_have_text(
            '{"deltas": 60, "pause": 0.1}'
        )
        await expect(row(page, started).locator(".badge")).to_have_text("completed")
        log = log_of(server, started)
        await expect(row(page, started).locator(".c-events")).to_have_text(str(len(log)))
        assert not any("/v1/responses/" in url for url in asked)
        await row(page, started).get_by_role("link").click()
        await expect(page.locator("#verdict")).to_have_text(WHOLE)
        await page.go_back()
        await expect(row(page, started)).to_be_visible()

    async def test_filters_and_search(self, page: Page, server: Replica) -> None:
        failed = start_run(server, deltas=5, fail=2, delta="xyzzy")
        other = start_run(server, deltas=1, delta="plugh")
        for id_ in (failed, other):
            log_of(server, id_)
        await page.goto(server.url)
        await page.get_by_role("link", name="Failed").click()
        await expect(row(page, failed).locator(".wrong")).to_have_text("The agent failed.")
        await expect(row(page, other)).to_have_count(0)
        assert page.url.endswith("#?status=failed")
        await page.get_by_role("link", name="All").click()
        await page.get_by_label("Failures first").check()
        await expect(page.locator("#rows tr").first.locator(".badge")).to_have_text("failed")
        await expect(row(page, other)).to_have_count(1)
        await page.keyboard.press("/")
        await page.keyboard.type("PLUGH")
        await page.keyboard.press("Enter")
        await expect(page.locator("#rows tr")).to_have_count(1)
        await expect(row(page, other)).to_have_count(1)
        await page.get_by_label("Search").fill("nothing is like this")
        await page.keyboard.press("Enter")
        await expect(page.get_by_text("No run is like that.")).to_be_visible()
        await page.get_by_label("Search").fill(failed)
        await page.keyboard.press("Enter")
        await expect(page.locator("#run-id")).to_have_text(failed)

    async def test_pages(self, page: Page, server: Replica) -> None:
        """The last of a page is where the next begins, also while others come in."""
        first = [{"id": f"resp_{n:032x}", **entry()} for n in range(120, 70, -1)]
        second = [{"id": f"resp_{n:032x}", **entry()} for n in range(70, 60, -1)]

        async def answer(route: Route) -> None:
            data, after = (second, None) if "after=" in route.request.url else (first, "resp_x")
            await route.fulfill(json={"data": data, "next_after": after})

        await page.route("**/v1/runs?*", answer)
        await page.goto(server.url)
        await expect(page.locator("#rows tr")).to_have_count(50)
        await page.get_by_role("link", name="Older").click()
        await expect(page.locator("#rows tr")).to_have_count(10)
        assert "after=resp_x" in page.url
        await expect(page.get_by_role("link", name="Older")).to_have_count(0)
        await page.get_by_role("link", name="Newest").click()
        await expect(page.locator("#rows tr")).to_have_count(50)

    async def test_many_at_once(self, page: Page, server: Replica) -> None:
        live = [start_run(server, deltas=1, hold=60, delta=f"bulk{n}") for n in range(2)]
        await page.goto(f"{server.url}/#?q=bulk")
        await expect(page.locator("#rows tr")).to_have_count(2)
        await page.get_by_label("Select all runs").check()
        await page.get_by_role("group", name="Selected runs").get_by_text("Cancel").click()
        await expect(page.locator("#bulk-said")).to_have_text("2 cancelled.")
        for id_ in live:
            await expect(row(page, id_).locator(".badge")).to_have_text("cancelled")
        await row(page, live[0]).get_by_role("checkbox").check()
        await page.get_by_role("button", name="Run again").click()
        await expect(page.locator("#bulk-said")).to_have_text("1 started again.")
        await expect(page.locator("#rows tr")).to_have_count(3)
        await page.get_by_label("Select all runs").check()
        await page.get_by_role("group", name="Selected runs").get_by_text("Delete").click()
        await page.get_by_role("button", name="Keep").click()
        await expect(page.locator("#rows tr")).to_have_count(3)
        await page.get_by_role("group", name="Selected runs").get_by_text("Delete").click()
        await page.get_by_role("dialog").get_by_role("button", name="Delete").click()
        await expect(page.locator("#bulk-said")).to_have_text("3 deleted.")
        await expect(page.get_by_text("No run is like that.")).to_be_visible()

    async def test_a_server_that_is_away_and_comes_back(
        self, page: Page, server: Replica, start_on: StartOn
    ) -> None:
        port = free_port()
        known = start_run(server)
        with start_on(port) as first:
            await page.goto(first.url)
            await expect(row(page, known)).to_be_visible()
            first.signal(signal.SIGKILL)
            first.wait()
            await expect(page.locator("#away")).to_be_visible()
            await expect(row(page, known)).to_be_visible()
        with start_on(port):
            await expect(page.locator("#away")).not_to_be_visible()
            await expect(page.locator("#list-problem")).to_have_text("")

    async def test_seven_tabs_at_once(self, new_page: NewPage, server: Replica) -> None:
        """A browser has six connections to a server: each tab follows its run all the same, and
        another one lists them all."""
        first = await new_page()
        live = [start_run(server, deltas=4000, pause=0.05) for _ in range(7)]
        pages = [first, *[await first.context.new_page() for _ in range(6)]]
        for page, id_ in zip(pages, live, strict=True):
            await page.goto(f"{server.url}/#{id_}")
        for page in pages:
            await expect(page.locator("[data-type=message] .body")).to_contain_text("word40 ")
        eighth = await first.context.new_page()
        await eighth.goto(server.url)
        for id_ in live:
            await expect(row(eighth, id_).locator(".badge")).to_have_text("running")
        await eighth.get_by_label("Select all runs").check()
        await eighth.get_by_role("group", name="Selected runs").get_by_text("Cancel").click()
        for page in pages:
            await expect(page.locator("#verdict")).to_have_text(WHOLE)


def entry() -> dict[str, Any]:
    return {
        "principal": "",
        "model": "scripted",
        "status": "completed",
        "input": "x",
        "created_at": 1.0,
        "finished_at": 2.0,
        "attempt": 1,
        "deaths": 0,
        "handovers": 0,
        "replica_id": None,
        "events": 3,
        "waits": False,
        "metadata": {},
        "user": None,
        "usage": None,
        "error": None,
        "reason": None,
    }


class TestRunPage:
    async def test_the_waterfall_and_the_log(self, page: Page, server: Replica) -> None:
        made = start_run(server, turns=[[["echo", {"text": "hi", "pause": 0.3}]]], pause=0.02)
        log = log_of(server, made)
        await page.goto(f"{server.url}/#{made}")
        await expect(page.locator("#verdict")).to_have_text(WHOLE)
        names = page.locator("#waterfall .bar-name")
        await expect(names).to_have_text(["", "Turn 1", "echo", "Turn 2"])
        await expect(page.locator("#waterfall .bar-took").nth(1)).to_have_text(
            re.compile(r"^[2-9]\d\d ms|^\d\.\d s")
        )
        await expect(page.locator(".card .took").first).to_have_text(re.compile(r"\d m?s"))
        await page.get_by_text("Events", exact=True).last.click()
        await expect(page.locator(".log-row")).to_have_count(len(log))
        await page.locator(".log-row").nth(2).click()
        assert json.loads(await page.locator("#event").inner_text()) == json.loads(log[2])

    async def test_it_replays_to_any_event(self, page: Page, server: Replica) -> None:
        made = start_run(server, turns=[[["echo", {"text": "hi"}]]], deltas=20, pause=0.02)
        log = [json.loads(line) for line in log_of(server, made)]
        await page.goto(f"{server.url}/#{made}")
        await expect(page.locator("#verdict")).to_have_text(WHOLE)
        text = await page.locator("[data-type=message] .body").text_content()
        called = next(n for n, event in enumerate(log) if event["type"].endswith("item.done"))
        await page.get_by_label("Replay to").fill(str(called))
        await expect(page.locator("[data-type=message]")).to_have_count(0)
        await expect(page.locator("[data-type=mcp_call] .result")).to_have_text("echo: hi")
        await expect(page.locator("#at-words")).to_have_text(f"after event {called}")
        await expect(page.locator(".question")).to_have_count(1)
        await page.get_by_label("Replay to").fill("0")
        await expect(page.locator("#output .card:not(.question)")).to_have_count(0)
        await page.get_by_role("button", name="Back to now").click()
        await expect(page.locator("#verdict")).to_have_text(WHOLE)
        assert await page.locator("[data-type=message] .body").text_content() == text

    async def test_a_takeover_is_drawn_in(
        self, page: Page, server: Replica, start_on: StartOn
    ) -> None:
        with start_on(free_port()) as first:
            made = start_run(first, deltas=100, pause=0.02)
            await page.goto(f"{server.url}/#{made}")
            await expect(page.locator("[data-type=message] .body")).to_contain_text("word10 ")
            first.signal(signal.SIGKILL)
            first.wait()
        await expect(page.locator("#verdict")).to_have_text(WHOLE, timeout=60 * SECONDS)
        attempts = page.locator("#waterfall .attempt")
        await expect(attempts).to_have_text(
            [re.compile(r"attempt 1 · \w{6}"), re.compile("attempt 2")]
        )
        await expect(page.locator("#waterfall .takeover").first).to_be_visible()
        lost = page.locator('#waterfall .bar[data-how="lost"]')
        await expect(lost).to_have_count(1)
        await expect(page.locator("#facts")).to_contain_text("Attempts2")

    async def test_run_again_and_edit_and_run(self, page: Page, server: Replica) -> None:
        made = start_run(server, deltas=2, delta="again")
        await page.goto(f"{server.url}/#{made}")
        await expect(page.locator("#verdict")).to_have_text(WHOLE)
        await page.get_by_role("button", name="Run again").click()
        await expect(page.locator("#run-id")).not_to_have_text(made)
        await expect(page.locator("#verdict")).to_have_text(WHOLE)
        again = await page.locator("#run-id").inner_text()
        assert response(server, again)["model"] == "scripted"
        await page.get_by_role("button", name="Edit and run").click()
        await expect(page.get_by_label("Input")).to_have_value('{"deltas": 2, "delta": "again"}')
        await expect(page.get_by_label("Agent")).to_have_value("scripted")
        await page.get_by_label("Input").fill("something else")
        await page.keyboard.press("Control+Enter")
        await expect(page.locator("[data-type=message] .body")).to_have_text("something else")
        await page.get_by_role("button", name="Delete").click()
        await page.get_by_role("dialog").get_by_role("button", name="Delete").click()
        await expect(page.locator("#runs-view")).to_be_visible()

    async def test_markdown_is_shown_and_is_still_the_text(
        self, page: Page, server: Replica
    ) -> None:
        text = (
            "# A title\n\nSome **bold**, *slanted* and `code` [here](https://example.com/a).\n\n"
            "- one\n  - two\n\n1. first\n\n| a | b |\n|---|---|\n| 1 | **2** |\n\n"
            "```python\nprint('<b>')\n\nx = 1\n```\n\n> said\n\n---\n\n"
            "[no](javascript:alert(1)) <img src=x onerror=alert(1)> ![p](https://example.com/p.png)"
        )
        requests: list[str] = []
        page.on("request", lambda request: requests.append(request.url))
        made = start_run(server, deltas=1, delta=text)
        await page.goto(f"{server.url}/#{made}")
        await expect(page.locator("#verdict")).to_have_text(WHOLE)
        body = page.locator("[data-type=message] .body")
        assert await body.text_content() == text
        await expect(body.get_by_role("heading", name="A title")).to_be_visible()
        await expect(body.locator("strong")).to_have_text(["bold", "2"])
        await expect(body.locator("em")).to_have_text(["slanted"])
        await expect(body.locator("a")).to_have_text(["here", "p"])
        cells = body.locator(".cell")
        await expect(cells).to_have_text(["a", "b", "1", "2"], use_inner_text=True)
        shown = await body.inner_text()
        assert not [mark for mark in ("**", "```", "# A", "|") if mark in shown]
        assert "[no](javascript:alert(1)) <img src=x onerror=alert(1)>" in shown
        assert "print('<b>')" in shown
        assert all(url.startswith(server.url) for url in requests)


class TestModule:
    async def test_longrun_js_stands_by_itself(self, page: Page, server: Replica) -> None:
        """A page of somebody's own follows a run with it, through a cut."""
        made = start_run(server, deltas=100, pause=0.02)
        await page.goto(f"{server.url}/healthz")
        (path,) = [each.path for each in routes() if each.path.endswith("longrun.js")]
        numbers = await page.evaluate(
            """async ([path, id]) => {
                const { Follower } = await import(path);
                const numbers = [];
                await new Promise((done) => {
                    const follower = new Follower(id, {
                        onEvent: (event) => {
                            numbers.push(event.sequence_number);
                            if (numbers.length === 20) follower.cut();
                        },
                        onChange: () => follower.state === "done" && done(),
                    });
                });
                return numbers;
            }""",
            [path, made],
        )
        assert numbers == list(range(len(log_of(server, made))))

    async def test_it_begins_with_the_present_and_goes_on(
        self, page: Page, server: Replica
    ) -> None:
        made = start_run(server, deltas=150, pause=0.02)
        await page.goto(f"{server.url}/healthz")
        (path,) = [each.path for each in routes() if each.path.endswith("longrun.js")]
        events, missing = await page.evaluate(
            """async ([path, id]) => {
                const { Follower } = await import(path);
                const wait = (until) => new Promise((done) => {
                    const events = [];
                    const follower = new Follower(id, {
                        catchUp: until ? "" : "snapshot",
                        onEvent: (event) => {
                            events.push(event);
                            if (!until && events.length === 5) follower.cut();
                        },
                        onChange: () => {
                            if (until ? events.length < until : follower.state !== "done") return;
                            const found = [events, follower.missing];
                            follower.stop();
                            done(found);
                        },
                    });
                });
                await wait(10);
                return wait(0);
            }""",
            [path, made],
        )
        log = log_of(server, made)
        assert events[0]["type"] == "response.in_progress"
        first = events[0]["sequence_number"]
        assert first >= 9
        assert [event["sequence_number"] for event in events] == list(range(first, len(log)))
        assert missing == 0
