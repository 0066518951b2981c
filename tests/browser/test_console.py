"""The console in a real browser: what a newcomer does, and what goes wrong."""

import json
import re
import signal
from typing import Any

import pytest
from agents import Agent
from playwright.async_api import Page, Route, expect

from tests.browser.api import log_of, response, start_run, text_of
from tests.browser.conftest import SECONDS, NewPage, StartOn
from tests.servers import Replica, free_port
from tests.unit import runs, streams

pytestmark = pytest.mark.asyncio(loop_scope="package")

SLOW = {"turns": [[["echo", {"text": "hi"}]]], "deltas": 300, "pause": 0.01}
BRISK = {**SLOW, "deltas": 100}

WHOLE = re.compile(r"All [\d,]+ events arrived, each once, over \d+ connections?;")


async def run(page: Page, model: str, asked: str | dict[str, Any]) -> None:
    """Fill in the form and press Run."""
    await page.get_by_label("Agent").select_option(model)
    await page.get_by_label("Input").fill(asked if isinstance(asked, str) else json.dumps(asked))
    await page.get_by_role("button", name="Run", exact=True).click()


def message(page: Page) -> Any:
    return page.locator("[data-type=message] .body")


async def below(page: Page) -> float:
    """How many pixels of the output are below what can be seen."""
    script = "(box) => box.scrollHeight - box.scrollTop - box.clientHeight"
    return float(await page.locator("#output").evaluate(script))


def shown_run(page: Page) -> str:
    return page.url.partition("#")[2]


async def said_again(text: str) -> tuple[str, list[str]]:
    """The log of a response whose first attempt died after a message, before its turn's end."""
    asked, told = streams.request(), streams.turn(streams.message(text))
    first = await runs.run(Agent(name="agent", model=runs.Played(told)), asked)
    ended = next(n for n, line in enumerate(first.lines) if b"output_item.done" in line)
    found = first.died_after(next(n for n in range(99) if len(first.died_after(n).lines) > ended))
    await runs.take_over(Agent(name="agent", model=runs.Played(told)), asked, found)
    runs.check(found)
    return asked.response_id, [line.decode() for line in found.lines]


class TestRun:
    async def test_what_a_newcomer_does(self, page: Page, server: Replica) -> None:
        """One click on the page as it is: tools, text, and the proof that nothing is missing."""
        hosts = set()
        page.on("request", lambda request: hosts.add(request.url.split("/")[2]))
        await page.goto(server.url)
        await expect(page).to_have_title("longrun")
        await expect(page.get_by_label("Agent")).to_have_value("demo")
        await page.get_by_label("Agent").select_option("demo-fast")
        await page.get_by_role("button", name="Run", exact=True).click()
        await expect(page.locator("#verdict")).to_have_text(WHOLE)
        await expect(page.locator("#status")).to_have_text("completed")
        calls = page.locator("[data-type=mcp_call] > .card-head .name")
        await expect(calls).to_have_text(["look_up", "count_words", "check_sources"])
        await expect(page.locator("[data-type=mcp_call] .result")).to_have_count(3)
        log = log_of(server, shown_run(page))
        assert await message(page).text_content() == text_of(response(server, shown_run(page)))
        await expect(page.locator("#events")).to_have_text(str(len(log)))
        await expect(page.locator("#cursor")).to_have_text(str(len(log) - 1))
        assert await below(page) < 40
        assert hosts == {server.url.removeprefix("http://")}

    async def test_by_keyboard(self, page: Page, server: Replica) -> None:
        await page.goto(server.url)
        await page.get_by_label("Agent").select_option("demo-fast")
        await page.get_by_label("Agent").focus()
        await page.keyboard.press("Tab")
        await page.keyboard.press("Control+a")
        await page.keyboard.type("a short one")
        await page.keyboard.press("Control+Enter")
        await expect(page.locator(".question")).to_have_text("a short one")
        await expect(page.locator("#verdict")).to_have_text(WHOLE)

    async def test_the_output_stays_where_the_reader_is(self, page: Page, server: Replica) -> None:
        """At its end while nobody scrolls, however fast it grows; and where one has scrolled to."""
        await page.goto(server.url)
        tools = [[["echo", {"text": f"{number}"}]] for number in range(10)]
        await run(
            page, "scripted", {"turns": tools, "deltas": 150, "delta": "\n{n}", "pause": 0.01}
        )
        await expect(message(page)).to_contain_text("\n40")
        assert await below(page) < 40
        await page.locator("#output").evaluate("(box) => box.scrollTo(0, 100)")
        await expect(page.locator("#verdict")).to_have_text(WHOLE)
        assert await page.locator("#output").evaluate("(box) => box.scrollTop") == 100

    async def test_a_failed_run(self, page: Page, server: Replica) -> None:
        await page.goto(server.url)
        await run(page, "scripted", {"deltas": 5, "fail": 2, "pause": 0.05})
        await expect(page.locator("#status")).to_have_text("failed")
        await expect(page.locator(".card.error")).to_contain_text("The run failed")
        await expect(page.locator("[data-type=message] .state")).to_have_text("not finished")
        await expect(page.locator("#verdict")).to_have_text(WHOLE)

    async def test_why_a_run_failed_is_shown_to_those_who_may_see_it(
        self, page: Page, server: Replica, start_on: StartOn
    ) -> None:
        failed = start_run(server, deltas=5, fail=2)
        await page.goto(f"{server.url}/#{failed}")
        await expect(page.locator(".card.error")).to_contain_text("The agent failed.")
        await expect(page.locator("#verdict")).to_have_text(WHOLE)
        await expect(page.locator(".traceback")).to_have_count(0)
        with start_on(free_port(), LONGRUN_SHOW_ERRORS="true") as operators:
            await page.goto(f"{operators.url}/#{failed}")
            reason = page.locator(".card.error .reason")
            await expect(reason).to_contain_text("RuntimeError: secret internal text")
            where = page.locator(".card.error .where")
            await expect(where).to_have_text("in the model of agent 'scripted', attempt 1")
            lines = page.get_by_role("region", name="Traceback")
            await expect(lines).not_to_be_visible()
            await page.get_by_text("Traceback", exact=True).click()
            await expect(lines).to_contain_text("Traceback (most recent call last)")
            await lines.focus()

            evil = "<img src=x onerror=\"document.title='taken over'\">"
            told = dict.fromkeys(("exception", "message", "step", "traceback"), evil)
            await page.route(
                "**/failure", lambda route: route.fulfill(json={"reason": {**told, "attempt": 1}})
            )
            await page.reload()
            await expect(reason).to_have_text(f"{evil}: {evil}")
            await expect(page.locator(".traceback pre")).to_have_text(evil)
            await expect(page.locator("#output img")).to_have_count(0)
            await expect(page).to_have_title("longrun")

    async def test_a_cancelled_run(self, page: Page, server: Replica) -> None:
        await page.goto(server.url)
        await run(page, "scripted", {"deltas": 2000, "pause": 0.05})
        await expect(message(page)).to_contain_text("word1 ")
        await page.get_by_role("button", name="Cancel the run").click()
        await expect(page.locator("#status")).to_have_text("cancelled")
        await expect(page.locator("#verdict")).to_have_text(WHOLE)
        await expect(page.get_by_role("button", name="Cancel the run")).to_be_disabled()

    async def test_text_is_never_html(self, page: Page, server: Replica) -> None:
        evil = "<img src=x onerror=\"document.title='taken over'\"><script>1</script>&amp;"
        await page.goto(server.url)
        await run(
            page, "scripted", {"turns": [[["echo", {"text": evil}]]], "delta": evil, "deltas": 1}
        )
        await expect(page.locator("#verdict")).to_have_text(WHOLE)
        assert await message(page).text_content() == evil
        output = page.locator("[data-type=mcp_call] .result")
        assert await output.text_content() == f"echo: {evil}"
        await expect(page.locator("#output img, #output script, #rows img")).to_have_count(0)
        await expect(page).to_have_title("longrun")

    async def test_the_page_stays_fluent(self, page: Page, server: Replica) -> None:
        """20,000 events as fast as they come, in one paragraph, and the button still works."""
        await page.add_init_script(
            "window.long = [0];"
            "new PerformanceObserver((list) => {"
            "  for (const task of list.getEntries()) long.push(task.duration);"
            "}).observe({type: 'longtask'});"
        )
        await page.goto(f"{server.url}/#{start_run(server, deltas=20_000)}")
        await expect(page.locator("#verdict")).to_have_text(WHOLE, timeout=60 * SECONDS)
        assert await page.evaluate("Math.max(...long)") < 1000
        assert str(await message(page).text_content()).endswith("word19999 ")


class TestResume:
    async def test_a_cut(self, page: Page, server: Replica) -> None:
        await page.goto(server.url)
        await run(page, "scripted", SLOW)
        await expect(message(page)).to_contain_text("word10 ")
        await page.get_by_role("button", name="Cut the connection").click()
        connection = page.locator("#connection")
        await expect(connection).to_have_text(re.compile(r"cut after \d+"))
        cursor = int(await page.locator("#cursor").inner_text())
        await expect(connection).to_have_text(f"resumed at {cursor + 1}")
        await expect(page.locator("#verdict")).to_contain_text("each once, over 2 connections")
        await expect(page.locator("#connections li")).to_contain_text(
            [f"0–{cursor} cut", f"{cursor + 1}–"]
        )
        assert await message(page).text_content() == text_of(response(server, shown_run(page)))

    async def test_a_reload(self, page: Page, server: Replica) -> None:
        await page.goto(server.url)
        await run(page, "scripted", BRISK)
        await expect(message(page)).to_contain_text("word10 ")
        await page.reload()
        await expect(page.locator(".question")).to_contain_text("deltas")
        await expect(page.locator("#verdict")).to_have_text(WHOLE)
        assert await message(page).text_content() == text_of(response(server, shown_run(page)))

    async def test_the_server_dies_and_comes_back(
        self, page: Page, server: Replica, start_on: StartOn
    ) -> None:
        """The replica that the page is of, and that executes the run, is killed."""
        port = free_port()
        with start_on(port) as first:
            await page.goto(first.url)
            await run(page, "scripted", BRISK)
            await expect(message(page)).to_contain_text("word10 ")
            first.signal(signal.SIGKILL)
            first.wait()
            await expect(page.locator("#connection")).to_have_text("reconnecting…")
        with start_on(port):
            await expect(page.locator("#verdict")).to_have_text(WHOLE, timeout=60 * SECONDS)
        await expect(page.locator(".note")).to_contain_text("Another replica took over")
        await expect(page.locator("[data-status=incomplete] .state")).to_have_text("not finished")
        assert await message(page).last.text_content() == text_of(response(server, shown_run(page)))

    async def test_a_message_that_is_said_again_after_a_takeover(
        self, page: Page, server: Replica
    ) -> None:
        """It was finished, but its turn was not: the text is there once."""
        response_id, log = await said_again("Let me look.")
        frames = [f"event: {json.loads(line)['type']}\ndata: {line}\n\n" for line in log]
        assert sum(frame.startswith("event: response.output_item.added") for frame in frames) == 2
        await page.route(
            f"**/v1/responses/{response_id}?stream=true*",
            lambda route: route.fulfill(
                content_type="text/event-stream", body="".join([*frames, "data: [DONE]\n\n"])
            ),
        )
        await page.goto(f"{server.url}/#{response_id}")
        await expect(page.locator("#verdict")).to_have_text(WHOLE)
        await expect(page.locator(".note")).to_contain_text("Another replica took over")
        await expect(message(page)).to_have_text(["", "Let me look."])
        states = page.locator("[data-type=message] .state")
        await expect(states).to_have_text(["not finished", ""])

    async def test_an_answer_that_is_no_stream(self, page: Page, server: Replica) -> None:
        """On any status but 200 a browser gives up for good; the page asks why, and comes back."""
        refusals = iter([503])

        async def refuse_once(route: Route) -> None:
            if status := next(refusals, None):
                await route.fulfill(status=status, body="no")
            else:
                await route.continue_()

        await page.route("**/v1/responses/*stream=true*", refuse_once)
        await page.goto(f"{server.url}/#{start_run(server)}")
        await expect(page.locator("#verdict")).to_have_text(WHOLE)


class TestErrors:
    async def test_a_model_that_is_gone(self, page: Page, server: Replica) -> None:
        await page.route(
            "**/v1/models", lambda route: route.fulfill(json={"data": [{"id": "gone"}]})
        )
        await page.goto(server.url)
        await run(page, "gone", "hello")
        await expect(page.get_by_role("alert")).to_contain_text("The model 'gone' does not exist.")
        await expect(page.get_by_role("button", name="Run", exact=True)).to_be_enabled()

    async def test_a_server_that_is_away(self, page: Page, server: Replica) -> None:
        await page.goto(server.url)
        await expect(page.get_by_label("Agent")).to_have_value("demo")
        await page.route("**/v1/responses", lambda route: route.abort())
        await page.get_by_role("button", name="Run", exact=True).click()
        await expect(page.get_by_role("alert")).to_have_text("The server is not responding.")

    async def test_an_unknown_run(self, page: Page, server: Replica) -> None:
        await page.goto(f"{server.url}/#resp_{'0' * 32}")
        await expect(page.locator("#connection")).to_have_text("lost")
        await expect(page.locator(".card.error")).to_contain_text("not found")

    async def test_a_fragment_that_is_no_run(self, page: Page, server: Replica) -> None:
        await page.goto(f"{server.url}/#nonsense")
        await expect(page.locator(".card.error")).to_contain_text("is not the id of a response")


class TestLooks:
    async def test_it_fits_a_phone(self, new_page: NewPage, server: Replica) -> None:
        page = await new_page(viewport={"width": 360, "height": 700}, has_touch=True)
        await page.goto(server.url)
        await run(page, "demo-fast", "x" * 300)
        await expect(page.locator("#verdict")).to_have_text(WHOLE)
        await page.get_by_text("The same with curl").click()
        await expect(page.locator("#curl")).to_contain_text("curl -N")
        assert await page.evaluate("document.scrollingElement.scrollWidth") == 360
