"""The demonstration behind `longrun demo`: a run that outlives its connections, and the proof."""

import asyncio
import contextlib
import os
import signal
import sys
from dataclasses import dataclass

import httpx2
from openai import APIConnectionError, OpenAIError

from longrun import jsontext
from longrun.demo.proof import compare, final_text, streamed_text
from longrun.demo.reading import MODEL, GaveUp, Reader, Replica, replay
from longrun.demo.report import Report
from longrun.demo.screen import Screen
from longrun.demo.servers import NotStarted, two_replicas

CUT_AFTER = 5.0
FULL_CUT_AFTER = 120.0
SHORT_QUESTION = "A short answer, please: what is a cursor?"
LONG_QUESTION = "A long answer, please: what is the event log?"
FULL_QUESTION = "Please talk for 150 seconds: what is the event log?"
FAILURES = (NotStarted, GaveUp, OpenAIError, httpx2.HTTPError)
LETTERS = "ABCDEFGHIJKLMNOPQRSTUVWXYZ"


@dataclass(frozen=True, slots=True)
class Options:
    """What the command line asks for.

    Args:
        urls: running servers; with none, two are started.
        cut_after: seconds until a connection of the second act is cut.
        full: a run of over 120 s, and connections of 120 s unless `cut_after` says otherwise.
        json_output: one JSON object on standard output, and the rest on standard error.
    """

    urls: tuple[str, ...] = ()
    cut_after: float = CUT_AFTER
    full: bool = False
    json_output: bool = False

    @property
    def seconds(self) -> float:
        return FULL_CUT_AFTER if self.full and self.cut_after == CUT_AFTER else self.cut_after

    @property
    def question(self) -> str:
        return FULL_QUESTION if self.full else LONG_QUESTION


def demonstrate(urls: list[str], cut_after: float, full: bool, json_output: bool) -> int:
    """Run the demonstration; the arguments are those of `Options`.

    Returns:
        The exit code: 0 proved, 1 not, 128 + the signal that stopped it.
    """
    return asyncio.run(run(Options(tuple(urls), cut_after, full, json_output)))


async def run(options: Options) -> int:
    """Run the demonstration in this event loop. A signal stops it in order, leaving nothing."""
    this = asyncio.current_task()
    assert this is not None
    caught: list[signal.Signals] = []

    def stop(number: signal.Signals) -> None:
        # Only the first one: stopping the replicas is bounded, and a second cancellation
        # would leave them behind.
        if not caught:
            caught.append(number)
            this.cancel()

    if sys.platform != "win32":
        loop = asyncio.get_running_loop()
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            loop.add_signal_handler(number, stop, number)
    screen = Screen(sys.stderr if options.json_output else sys.stdout)
    try:
        return await _judged(options, screen)
    except asyncio.CancelledError:
        if not caught:
            raise
        this.uncancel()
        screen.line("stopped")
        return 128 + caught[0]


async def _judged(options: Options, screen: Screen) -> int:
    try:
        report = await _acts(options, screen)
    except FAILURES as error:
        screen.line(f"✗ {_reason(error)}", "bold red")
        if options.json_output:
            print(jsontext.dumps({"ok": False, "error": _reason(error)}).decode())
        return 1
    differences = report.differences()
    screen.facts(report.rows())
    if differences:
        screen.lines(*differences, style="red")
        screen.line("✗ What was received differs from what is stored.", "bold red")
    else:
        screen.line(
            f"✓ Nothing missing, nothing repeated over {len(report.connections)} connections: "
            "what was received equals the log.",
            "bold green",
        )
    if options.json_output:
        print(jsontext.dumps(report.as_json()).decode())
    return 1 if differences else 0


def _reason(error: Exception) -> str:
    notes: list[str] = getattr(error, "__notes__", [])
    where = f" ({error.request.url})" if isinstance(error, APIConnectionError) else ""
    return "\n".join([(str(error) or type(error).__name__) + where, *notes])


async def _acts(options: Options, screen: Screen) -> Report:
    async with contextlib.AsyncExitStack() as stack:
        urls = list(options.urls)
        if not urls:
            with screen.waiting("Starting two replicas on one fresh database …"):
                urls = await stack.enter_async_context(two_replicas())
        key = os.environ.get("LONGRUN_API_KEY") or "none"
        replicas = [
            Replica.at(letter, url, api_key=key, own=not options.urls)
            for letter, url in zip(LETTERS, urls, strict=False)
        ]
        for replica in replicas:
            stack.push_async_callback(replica.client.close)
            screen.line(f"replica {replica.name}  {replica.url}")
        await _short(replicas[0], screen)
        reader = await _long(replicas, options, screen)
        return await _proof(replicas, reader, screen)


async def _short(replica: Replica, screen: Screen) -> None:
    screen.act(1, "A short answer, over one connection")
    screen.lines(f"? {SHORT_QUESTION}", style="bold")
    screen.opening(replica, None)
    async with replica.client.responses.stream(model=MODEL, input=SHORT_QUESTION) as stream:
        async for event in stream:
            # Parsed types do not fit the declared ones; pydantic would warn on the terminal.
            screen.event(event.type, event.to_dict(warnings=False))
    final = await stream.get_final_response()
    usage = f", {final.usage.total_tokens} tokens" if final.usage else ""
    screen.lines(f"■ {final.status}{usage}", style="bold")


async def _long(replicas: list[Replica], options: Options, screen: Screen) -> Reader:
    others = "on the other replica" if len(replicas) > 1 else "from one number"
    screen.act(2, f"A long one: cut every {options.seconds:g} s, and resumed {others}")
    screen.lines(f"? {options.question}", style="bold")
    reader = Reader(replicas, options.question, options.seconds, screen)
    await reader.read()
    return reader


async def _proof(replicas: list[Replica], reader: Reader, screen: Screen) -> Report:
    screen.act(3, "The proof: what was received, against the stored log")
    response_id = reader.response_id
    assert response_id is not None
    texts = {
        "in the deltas": streamed_text(reader.events),
        "in the last event": final_text(reader.events),
    }
    comparisons = {}
    status = ""
    for replica in replicas:
        log = await replay(replica, response_id)
        comparisons[replica.name] = compare(reader.events, log)
        size = sum(len(event.text) for event in log)
        screen.lines(f"full replay from {replica.name}: {len(log)} events, {size} bytes of JSON")
        polled = await replica.client.responses.retrieve(response_id)
        texts[f"polled from {replica.name}"] = polled.output_text
        status = polled.status or ""
    return Report(response_id, status, reader.connections, reader.events, comparisons, texts)
