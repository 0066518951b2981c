"""The event stream, on a clock that jumps: when it says that it is alive, and how it ends."""

import asyncio
import re
from collections.abc import Callable
from typing import Any

from longrun.errors import Unreadable
from longrun.http import sse
from longrun.http.streams import AT_ONCE, FIRST_SILENCE, LEFT, SILENCE_IS_TIMED, EventStream
from tests.unit import clock
from tests.unit.logs import ID, SILENCE, MemoryLog, Replica, chunks_of, replica


class Client:
    """Takes what is sent, and stays until the end."""

    def __init__(self) -> None:
        self.bodies: list[tuple[float, bytes]] = []

    async def receive(self) -> dict[str, Any]:
        await asyncio.Event().wait()
        raise AssertionError("unreachable")

    async def send(self, message: Any) -> None:
        if message["type"] == "http.response.body":
            self.bodies.append((asyncio.get_running_loop().time(), message["body"]))

    @property
    def body(self) -> bytes:
        return b"".join(body for _, body in self.bodies)

    def beats(self) -> list[float]:
        return [at for at, body in self.bodies if body == sse.KEEPALIVE]


async def stream(
    one: Replica,
    client: Client,
    cursor: int = -1,
    *,
    finished: bool = False,
    at_once: Callable[[bytes], bool] | None = None,
    framed: sse.Framed | None = None,
    when_left: Callable[[Callable[[], object]], None] | None = None,
    disconnected: Callable[[], object] = lambda: None,
) -> None:
    tail = one.tail(cursor, finished=finished)
    served = EventStream(
        tail,
        keepalive_interval=SILENCE,
        framed=framed or sse.Framed(with_ids=True),
        send_timeout=30,
        disconnected=disconnected,
    )
    extensions: dict[str, Any] = {}
    if at_once is not None:
        extensions |= {AT_ONCE: at_once, SILENCE_IS_TIMED: {}}
    if when_left is not None:
        extensions[LEFT] = when_left
    scope = {"type": "http", "method": "GET", "extensions": extensions}
    await served(scope, client.receive, client.send)


def test_a_stream_is_opened_at_once_and_kept_alive() -> None:
    async def scene() -> Client:
        log, chunks, client = MemoryLog(), chunks_of([1, 1]), Client()
        log.commit(ID, chunks[0])
        async with replica(log) as one:
            streaming = asyncio.create_task(stream(one, client, cursor=0))
            await asyncio.sleep(100)
            log.commit(ID, chunks[1])
            one.hub.committed(ID, [chunks[1]])
            await streaming
        return client

    client = clock.run(scene())
    # One at once, then one every fifteen seconds.
    assert client.beats() == [FIRST_SILENCE + n * SILENCE for n in range(1 + 6)]
    assert client.body.endswith(sse.DONE)


def test_a_reader_that_has_something_first_gets_that_first() -> None:
    async def scene() -> Client:
        log, chunks, client = MemoryLog(), chunks_of([1, 1]), Client()
        for chunk in chunks:
            log.commit(ID, chunk)
        async with replica(log) as one:
            await stream(one, client)
        return client

    assert clock.run(scene()).beats() == []


def test_a_heartbeat_while_history_takes_its_time() -> None:
    """Postgres answers, but only after a minute."""

    class Slow(MemoryLog):
        async def page_unscoped(self, response_id: str, cursor: int, limit: int) -> Any:
            await asyncio.sleep(60)
            return await super().page_unscoped(response_id, cursor, limit)

    async def scene() -> Client:
        log, client = Slow(), Client()
        for chunk in chunks_of([1, 1]):
            log.commit(ID, chunk)
        async with replica(log) as one:
            await stream(one, client, finished=True)
        return client

    client = clock.run(scene())
    assert client.beats() == [FIRST_SILENCE + n * SILENCE for n in range(4)]
    assert client.body.endswith(sse.DONE)


def test_a_response_that_is_deleted_in_mid_replay_is_not_done() -> None:
    """Its reader must not take half of it for the whole."""

    class DeletedAfterAPage(MemoryLog):
        async def page_unscoped(self, response_id: str, cursor: int, limit: int) -> Any:
            found = await super().page_unscoped(response_id, cursor, limit)
            self.delete(response_id)
            return found

    async def scene() -> Client:
        log, client = DeletedAfterAPage(rows=1), Client()
        for chunk in chunks_of([2, 2, 2]):
            log.commit(ID, chunk)
        async with replica(log) as one:
            await stream(one, client, finished=True)
        return client

    body = clock.run(scene()).body
    assert body.count(b"\nid: ") == 2
    assert b"[DONE]" not in body


def test_a_finished_stream_past_its_end_is_done_alone() -> None:
    async def scene() -> bytes:
        log, client = MemoryLog(), Client()
        for chunk in chunks_of([1, 1]):
            log.commit(ID, chunk)
        async with replica(log) as one:
            await stream(one, client, cursor=1, finished=True)
        return client.body

    assert clock.run(scene()) == sse.DONE


def test_a_log_that_cannot_be_read_any_further_is_not_done() -> None:
    """A chunk of it is encrypted with a key that is not here: the stream ends, and others go on."""

    class Unopened(MemoryLog):
        async def page_unscoped(self, response_id: str, cursor: int, limit: int) -> Any:
            if cursor > 0:
                raise Unreadable()
            return await super().page_unscoped(response_id, cursor, limit)

    async def scene() -> Client:
        log, client = Unopened(rows=1), Client()
        for chunk in chunks_of([2, 2]):
            log.commit(ID, chunk)
        async with replica(log) as one:
            await stream(one, client, finished=True)
        return client

    body = clock.run(scene()).body
    assert body.count(b"\nid: ") == 2
    assert b"[DONE]" not in body


def test_what_comes_while_streams_wait_is_written_at_once_and_framed_once() -> None:
    """Where the server takes it; where it does not, because a client is slow, it is sent. The
    heartbeat is due fifteen seconds after the last event, however that went out."""

    async def scene() -> tuple[list[Client], list[bytes], float]:
        log, chunks, taken = MemoryLog(), chunks_of([1] * 5), []
        framed = sse.Framed(with_ids=True)
        clients = [Client() for _ in range(3)]
        loop = asyncio.get_running_loop()

        def at_once(client: Client) -> Callable[[bytes], bool]:
            def take(body: bytes) -> bool:
                taken.append(body)
                # The last one is slow: of two bodies, one has to wait.
                if client is clients[-1] and len(taken) % 2:
                    return False
                client.bodies.append((loop.time(), body))
                return True

            return take

        log.commit(ID, chunks[0])
        async with replica(log) as one:
            streaming = [
                asyncio.create_task(stream(one, client, at_once=at_once(client), framed=framed))
                for client in clients
            ]
            await asyncio.sleep(10)
            for chunk in chunks[1:]:
                log.commit(ID, chunk)
                one.hub.committed(ID, [chunk])
                last = loop.time()
                await asyncio.sleep(SILENCE - 1 if chunk is not chunks[3] else SILENCE + 1)
            await asyncio.gather(*streaming)
        return clients, taken, last

    clients, taken, last = clock.run(scene())
    for client in clients:
        assert re.findall(rb"\nid: (\d+)\n", client.body) == [b"%d" % n for n in range(5)]
        assert client.body.endswith(sse.DONE)
        assert client.beats() == [last - 1]
    # Of each event there is one body, whoever it was for.
    assert len(taken) == 3 * 4
    assert len({id(body) for body in taken}) == 4


def test_what_a_new_response_begins_with_is_sent_before_anything_is_waited_for() -> None:
    """Fifty that are created at once all take their steps in each pass of the event loop."""

    class Passing(Client):
        sent_at_once = -1

        async def receive(self) -> dict[str, Any]:
            self.sent_at_once = len(self.bodies)
            return await super().receive()

    async def scene() -> Passing:
        log, chunks, client = MemoryLog(), chunks_of([2, 1]), Passing()
        async with replica(log) as one:
            with one.tail(coming=True) as tail:
                log.commit(ID, chunks[0])
                one.hub.committed(ID, [chunks[0]])
                served = EventStream(
                    tail,
                    keepalive_interval=SILENCE,
                    framed=sse.Framed(with_ids=False),
                    send_timeout=30,
                )
                scope = {"type": "http", "method": "POST", "extensions": {}}
                streaming = asyncio.create_task(served(scope, client.receive, client.send))
                await asyncio.sleep(1)
                log.commit(ID, chunks[1])
                one.hub.committed(ID, [chunks[1]])
                await streaming
        return client

    client = clock.run(scene())
    assert client.sent_at_once == 1
    assert client.bodies[0][1].startswith(b"event: ")
    assert client.body.endswith(sse.DONE)


class Leaving(Client):
    """Leaves when it is told to, as a server says it (`LEFT`)."""

    def __init__(self) -> None:
        super().__init__()
        self.calls: list[Callable[[], object]] = []
        self.told: list[str] = []

    def leave(self) -> None:
        for call in self.calls:
            call()


async def serve(client: Leaving, one: Replica) -> None:
    await stream(
        one,
        client,
        finished=False,
        when_left=client.calls.append,
        disconnected=lambda: client.told.append("gone"),
    )


def test_a_stream_ends_when_its_server_says_that_its_client_is_gone() -> None:
    async def scene() -> tuple[Leaving, int]:
        log, client = MemoryLog(), Leaving()
        log.commit(ID, chunks_of([1, 1])[0])
        async with replica(log) as one:
            streaming = asyncio.create_task(serve(client, one))
            await asyncio.sleep(20)
            client.leave()
            await streaming
            return client, len(one.hub.reading())

    client, read = clock.run(scene())
    assert (client.told, read) == (["gone"], 0)
    assert sse.DONE not in client.body


def test_a_client_whose_answer_is_complete_is_not_gone() -> None:
    """Which its server says in the same way, while the last part is sent."""

    class Complete(Leaving):
        async def send(self, message: Any) -> None:
            await super().send(message)
            if message["type"] == "http.response.body" and not message["more_body"]:
                self.leave()

    async def scene() -> Leaving:
        log, client = MemoryLog(), Complete()
        for chunk in chunks_of([1, 1]):
            log.commit(ID, chunk)
        async with replica(log) as one:
            await serve(client, one)
        return client

    client = clock.run(scene())
    assert client.body.endswith(sse.DONE)
    assert client.told == []


def test_whoever_cancels_a_stream_hears_that_it_was() -> None:
    async def scene() -> list[str]:
        log, client = MemoryLog(), Leaving()
        log.commit(ID, chunks_of([1, 1])[0])
        async with replica(log) as one:
            streaming = asyncio.create_task(serve(client, one))
            await asyncio.sleep(1)
            streaming.cancel()
            client.leave()
            await asyncio.wait([streaming])
            assert streaming.cancelled()
        return client.told

    assert clock.run(scene()) == []
