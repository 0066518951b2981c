"""`longrun.client` on the openai clients, sync and async, over a server that is scripted."""

import asyncio
import json
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from typing import Any

import httpx2
import openai
import pytest

from longrun.client import GaveUp, Transcript, create_and_follow, follow

ID = "resp_1"


def response(status: str, *texts: str | None) -> dict[str, Any]:
    """A response with messages; None: one that is incomplete, and empty."""
    output = [
        {
            "id": f"msg_{place}",
            "type": "message",
            "role": "assistant",
            "status": "completed" if text else "incomplete",
            "content": [{"type": "output_text", "text": text, "annotations": []}] if text else [],
        }
        for place, text in enumerate(texts)
    ]
    return {"id": ID, "object": "response", "status": status, "output": output}


def delta(place: int, text: str) -> dict[str, Any]:
    return {
        "type": "response.output_text.delta",
        "output_index": place,
        "content_index": 0,
        "item_id": f"msg_{place}",
        "delta": text,
        "logprobs": [],
    }


LOG: list[dict[str, Any]] = [
    {**event, "sequence_number": number}
    for number, event in enumerate(
        [
            {"type": "response.created", "response": response("in_progress")},
            delta(0, "Hel"),
            delta(0, "lo wor"),
            {"type": "response.in_progress", "response": response("in_progress", None)},
            delta(1, "Hello "),
            delta(1, "world"),
            {"type": "response.completed", "response": response("completed", "Hello world")},
        ]
    )
]
"""A message that was begun, and taken back by a takeover, which said it anew."""

BODY = b"".join(
    b"event: %s\ndata: %s\n\n" % (event["type"].encode(), json.dumps(event).encode())
    for event in LOG
)


def frames(first: int, last: int = 6, *, done: bool = False) -> bytes:
    found = [frame + b"\n\n" for frame in BODY.split(b"\n\n")[first : last + 1] if frame]
    return b"".join(found) + (b"data: [DONE]\n\n" if done else b"")


class Body(httpx2.SyncByteStream, httpx2.AsyncByteStream):
    """A body that ends cleanly, or breaks."""

    def __init__(self, data: bytes, *, breaks: bool = False) -> None:
        self._data, self._breaks = data, breaks

    def __iter__(self) -> Iterator[bytes]:
        yield self._data
        if self._breaks:
            raise httpx2.RemoteProtocolError("peer closed connection")

    async def __aiter__(self) -> Any:
        for data in self:
            yield data


class Server:
    """Answers with what is scripted, and remembers what it was asked."""

    def __init__(self, *answers: Any) -> None:
        self.answers = list(answers)
        self.asked: list[str] = []

    def __call__(self, request: httpx2.Request) -> httpx2.Response:
        after = request.url.params.get("starting_after", "-")
        self.asked.append("create" if request.method == "POST" else after)
        answer = self.answers.pop(0)
        if isinstance(answer, Exception):
            raise answer
        if isinstance(answer, httpx2.Response):
            return answer
        body = answer if isinstance(answer, Body) else Body(answer)
        headers = {"content-type": "text/event-stream"}
        return httpx2.Response(200, headers=headers, stream=body)


Collect = Callable[..., tuple[list[int], str]]


@pytest.fixture(params=["sync", "async"])
def collect(request: pytest.FixtureRequest) -> Collect:
    """Follows with either client: the numbers and the text, as it was before the terminal event."""

    def sync(server: Server, make: Any, **arguments: Any) -> tuple[list[int], str]:
        http = httpx2.Client(transport=httpx2.MockTransport(server))
        numbers, transcript = [], Transcript()
        with openai.OpenAI(api_key="none", base_url="http://x/v1", http_client=http) as client:
            for event in make(client, **arguments):
                numbers.append(event.sequence_number)
                text, _ = transcript.text, transcript.take(event)
        return numbers, text

    async def not_sync(server: Server, make: Any, **arguments: Any) -> tuple[list[int], str]:
        http = httpx2.AsyncClient(transport=httpx2.MockTransport(server))
        numbers, transcript = [], Transcript()
        async with openai.AsyncOpenAI(
            api_key="none", base_url="http://x/v1", http_client=http
        ) as client:
            async for event in make(client, **arguments):
                numbers.append(event.sequence_number)
                text, _ = transcript.text, transcript.take(event)
        return numbers, text

    def run(*given: Any, **arguments: Any) -> tuple[list[int], str]:
        return asyncio.run(not_sync(*given, **arguments))

    return sync if request.param == "sync" else run


@pytest.fixture
def pauses(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """Pauses take no time, and are noted."""
    taken: list[float] = []
    real = asyncio.sleep

    async def sleep(seconds: float, result: Any = None) -> Any:
        if seconds:
            taken.append(seconds)
        return await real(0, result)

    monkeypatch.setattr(asyncio, "sleep", sleep)
    monkeypatch.setattr(time, "sleep", taken.append)
    return taken


def unavailable(**headers: str) -> httpx2.Response:
    return httpx2.Response(503, headers={k.replace("_", "-"): v for k, v in headers.items()})


def test_over_everything_that_can_happen_to_a_connection(
    collect: Collect, pauses: list[float]
) -> None:
    server = Server(
        unavailable(),
        Body(frames(0, 1), breaks=True),
        httpx2.ConnectError("refused"),
        unavailable(retry_after="7"),
        Body(frames(2, 2) + frames(3, 3)[:20], breaks=True),
        frames(3, 4) + frames(5, 5)[:-9],  # a clean end within a frame
        httpx2.ReadTimeout("silent"),
        frames(5, done=True),
    )
    numbers, text = collect(server, create_and_follow, model="m", input="i")
    assert numbers == list(range(7))
    assert text == "Hello world"
    assert server.asked == ["create", "create", "1", "1", "1", "2", "4", "4"]
    assert len(pauses) == 7
    assert sum(pause >= 7 for pause in pauses) == 1


@pytest.mark.parametrize("after", range(9))
def test_from_any_cursor_of_a_finished_one(
    collect: Collect, pauses: list[float], after: int
) -> None:
    class Finished(Server):
        def __call__(self, request: httpx2.Request) -> httpx2.Response:
            first = int(request.url.params.get("starting_after", -1)) + 1
            self.answers.append(frames(first, done=True))
            return super().__call__(request)

    server = Finished()
    if after < 6:
        assert collect(server, follow, response_id=ID, after=after)[0] == list(range(after + 1, 7))
        assert server.asked == [str(after)]
    else:
        # Nothing is left; that it ended is asked for.
        with pytest.raises(UnboundLocalError):
            collect(server, follow, response_id=ID, after=after)
        assert server.asked == {6: ["6", "5"], 7: ["7", "6", "-"], 8: ["8", "7", "-"]}[after]


@pytest.mark.parametrize(
    ("status", "raised"),
    [
        (400, openai.BadRequestError),
        (401, openai.AuthenticationError),
        (403, openai.PermissionDeniedError),
        (404, openai.NotFoundError),
    ],
)
def test_refusals_are_raised_at_once(
    collect: Collect, pauses: list[float], status: int, raised: type[Exception]
) -> None:
    for make, arguments in ((follow, {"response_id": ID}), (create_and_follow, {"model": "m"})):
        with pytest.raises(raised):
            collect(Server(httpx2.Response(status, json={})), make, **arguments)
    with pytest.raises(raised):
        collect(Server(frames(0, 2), httpx2.Response(status)), follow, response_id=ID)
    assert len(pauses) == 1


def test_giving_up_says_where_to_go_on(collect: Collect, pauses: list[float]) -> None:
    server = Server(frames(0, 2), unavailable(retry_after="60"))
    with pytest.raises(GaveUp) as raised:
        collect(server, follow, response_id=ID, give_up_after=59)
    assert (raised.value.response_id, raised.value.cursor) == (ID, 2)
    assert isinstance(raised.value.__cause__, openai.InternalServerError)


def test_a_response_is_never_created_twice(collect: Collect, pauses: list[float]) -> None:
    server = Server(httpx2.ReadError("reset"))
    with pytest.raises(openai.APIConnectionError):
        collect(
            server, create_and_follow, model="m", extra_headers={"idempotency-key": openai.omit}
        )
    assert server.asked == ["create"]


@pytest.mark.parametrize(
    "given", [{}, {"x-user": "ann"}, {"idempotency-key": "mine"}], ids=["none", "other", "own"]
)
def test_with_a_key_creating_is_tried_again(
    collect: Collect, pauses: list[float], given: dict[str, str]
) -> None:
    """The same key each time, another one for each response; and not with what asks for events."""
    keys: list[str | None] = []

    class Asking(Server):
        def __call__(self, request: httpx2.Request) -> httpx2.Response:
            assert request.headers.get("x-user") == given.get("x-user")
            keys.append(request.headers.get("idempotency-key"))
            return super().__call__(request)

    for _ in range(2):
        lost = (httpx2.ReadError("reset"), httpx2.Response(502), httpx2.Response(504), b"")
        server = Asking(*lost, frames(0, 2), frames(3, done=True))
        numbers, text = collect(server, create_and_follow, model="m", extra_headers=given)
        assert server.asked == ["create"] * 5 + ["2"]
        assert (numbers, text) == (list(range(7)), "Hello world")
    mine = given.get("idempotency-key")
    assert len(set(keys[:5])) == len(set(keys[6:11])) == 1
    assert keys[5] == keys[11] == mine
    assert (keys[0] == keys[6]) is (mine is not None)
    refused = httpx2.Response(503, headers={"x-should-retry": "false"})
    with pytest.raises(openai.InternalServerError):
        collect(Asking(refused), create_and_follow, model="m", extra_headers=given)


def test_headers_are_sent_with_each_request(collect: Collect, pauses: list[float]) -> None:
    class Asking(Server):
        def __call__(self, request: httpx2.Request) -> httpx2.Response:
            assert request.headers["x-user"] == "ann"
            return super().__call__(request)

    server = Asking(frames(0, 2), frames(3, done=True))
    collect(server, create_and_follow, model="m", extra_headers={"x-user": "ann"})
    assert server.asked == ["create", "2"]


def test_an_empty_id_asks_nothing() -> None:
    with pytest.raises(ValueError, match="response_id"):
        follow(openai.OpenAI(api_key="none"), "")


def test_nothing_of_the_server_comes_along() -> None:
    code = "import sys, longrun.client; print(*sorted({m.split('.')[0] for m in sys.modules}))"
    command = [sys.executable, "-c", code]
    found = subprocess.run(command, capture_output=True, text=True, check=True).stdout.split()
    assert "openai" in found
    heavy = {"agents", "asyncpg", "hypercorn", "starlette", "uvloop", "rich", "typer"}
    assert not heavy & set(found)
