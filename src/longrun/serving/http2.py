"""HTTP/2: Hypercorn's H2Protocol without buffers of its own, and within bounds."""

import asyncio
import contextlib
import logging
from collections.abc import Iterator
from functools import partial
from typing import Any, Final

from h2.config import H2Configuration
from h2.connection import H2Connection
from h2.errors import ErrorCodes
from h2.events import (
    ConnectionTerminated,
    DataReceived,
    RemoteSettingsChanged,
    RequestReceived,
    StreamEnded,
    StreamReset,
    WindowUpdated,
)
from h2.events import Event as FrameEvent
from h2.exceptions import ProtocolError
from h2.settings import SettingCodes, Settings
from hypercorn.events import Closed, Event, RawData, Updated
from hypercorn.protocol.events import Body, EndBody, Request, Response, StreamClosed
from hypercorn.protocol.events import Event as StreamEvent
from hypercorn.protocol.h2 import H2Protocol
from hypercorn.protocol.http_stream import ASGIHTTPState
from hypercorn.utils import filter_pseudo_headers

from longrun import metrics
from longrun.serving.bounds import DISCARD_BYTES, SLICE, SMALL, Bounds, Pace
from longrun.serving.exchange import Direct, Exchange, Inbox

log = logging.getLogger("longrun.serving")

_DATA: Final = 0
"""The type of DATA frames."""

_TURN: Final = 4096
"""Bytes that are taken apart before others have their turn."""


_PATIENCE: Final = 3.0
"""Seconds, in all, that a client is made to wait before it is sent away."""


class _Frames(H2Connection):
    """h2's connection. Counts the frames that carry little, and remembers fewer closed streams."""

    MAX_CLOSED_STREAMS = 1024

    small = 0

    def _receive_frame(self, frame: Any) -> list[FrameEvent]:
        if frame.type != _DATA or len(frame.data) < SMALL:
            self.small += 1
        return super()._receive_frame(frame)


class HTTP2(H2Protocol):
    """Hypercorn's H2Protocol (hypercorn/protocol/h2.py), with other ways in and out:

    - `StreamBuffer.push` waits until `pop` has been called, also where `pop` had to give nothing
      because the window is shut: whoever sends to a stalled stream never waits, and all of it is
      in memory. Buffers outlive their connection, too. Here there are none: who sends waits for
      the window, at most `send_timeout` seconds for any opening of it. A release whose `pop` does
      not set `_paused` for an empty result has mended it.
    - `_handle_events` waits for a stream's application, and with it all other streams of the
      connection; a DATA frame of a stream that is answered is a `KeyError` that ends it. Here
      nothing waits: a stream's own window stays shut until its application has taken what came.
    - The tree of priorities (deprecated by RFC 9113) can be led into loops and deep recursion by
      its client. Here streams take turns.
    - Whoever is cancelled while it waits to write takes bytes of other streams along. Here bytes
      are taken from h2 when they can be written.
    - Streams that are opened and reset at once do not count as open, and their applications run.
      Here they count until their application has ended; and control frames have a pace.
    """

    config: Bounds
    streams: dict[int, Exchange]  # type: ignore[assignment]
    direct: Direct | None = None

    def __init__(self, *args: Any) -> None:
        super().__init__(*args)
        self.connection: _Frames = _connection(self.config)
        self._writing = asyncio.Lock()
        self._waiting: dict[int, asyncio.Future[None]] = {}
        self._for_own: dict[int, None] = {}
        self._for_common: dict[int, None] = {}
        self._common_opened = 0.0
        self._came = 0
        self._reset = 0
        self._waited = 0.0
        self._owed: dict[int, int] = {}
        self._discarding: dict[int, int] = {}
        self._running: list[Exchange] = []
        self._frames = Pace(rate=2_000, burst=10_000)
        self._resets = Pace(rate=50, burst=200)

    async def initiate(self, *_: Any) -> None:
        self.connection.initiate_connection()
        await self._flush()

    async def time_out(self) -> None:
        """The connection was idle for long enough."""
        await self.say_goodbye()

    async def say_goodbye(self) -> None:
        """Nothing more is answered. Said when nothing is under way: httpx takes GOAWAY for the end
        of all streams, those too that are to go on."""
        self._say_goodbye(ErrorCodes.NO_ERROR)
        await self._flush()

    is_asking = False

    # -- in -------------------------------------------------------------------------------

    async def handle(self, event: Event) -> None:
        if isinstance(event, RawData):
            for at in range(0, len(event.data), _TURN):
                if self.closed:
                    return
                await self._receive(event.data[at : at + _TURN])
        elif isinstance(event, Closed):
            self.closed = True
            for stream_id in list(self.streams):
                await self._leave(stream_id)
            for stream_id in list(self._waiting):
                self._wake(stream_id)

    async def _receive(self, data: bytes) -> None:
        try:
            events = self.connection.receive_data(data)
            for event in events:
                await self._handle_event(event)
            self._open_window(self._came)
            self._came = 0
        except Exception as error:
            if not isinstance(error, ProtocolError):
                log.warning("HTTP/2 frames that the server stumbles over", exc_info=error)
                self._say_goodbye(ErrorCodes.INTERNAL_ERROR)
            await self._close()
            return
        await self._flush()
        await self._slow_down()

    async def _slow_down(self) -> None:
        """Small frames cost more to take apart than to send. Whoever sends too many of them has to
        wait, and whoever goes on, or resets its streams without end, is sent away."""
        wait = self._frames.spend(self.connection.small)
        resets_wait = self._resets.spend(self._reset)
        self._waited += wait
        self._reset = self.connection.small = 0
        if resets_wait or self._waited > _PATIENCE:
            log.info("a client sends control frames without end: cut")
            self._say_goodbye(ErrorCodes.ENHANCE_YOUR_CALM)
            await self._close()
        else:
            await asyncio.sleep(wait)

    async def _handle_event(self, event: FrameEvent) -> None:
        if isinstance(event, RequestReceived):
            await self._request(event)
        elif isinstance(event, DataReceived):
            self._data(event)
        elif isinstance(event, StreamEnded):
            self._discarding.pop(event.stream_id, None)
            if event.stream_id in self.streams:
                self.streams[event.stream_id].inbox.end()
        elif isinstance(event, StreamReset):
            self._discarding.pop(event.stream_id, None)
            self._reset += event.stream_id in self.streams
            await self._leave(event.stream_id)
            await self._say_whether_idle()
        elif isinstance(event, WindowUpdated):
            self._window_opened(event.stream_id)
        elif isinstance(event, RemoteSettingsChanged):
            self._settings_changed()
        elif isinstance(event, ConnectionTerminated):
            await self.send(Closed())

    async def _request(self, event: RequestReceived) -> None:
        stream_id = event.stream_id
        self._running = [each for each in self._running if not each.finished]
        full = len(self._running) >= self.config.h2_max_concurrent_streams
        if full or self.context.terminated.is_set():
            self.connection.reset_stream(stream_id, ErrorCodes.REFUSED_STREAM)
            return
        pseudo = {name: value for name, value in event.headers if name.startswith(b":")}
        exchange = Exchange(
            self.app,
            self.config,
            self.context,
            self.task_group,
            self.ssl,
            self.client,
            self.server,
            self.stream_send,
            stream_id,
        )
        exchange.at_once = partial(self._at_once, stream_id)
        exchange.inbox = Inbox(_unasked, lambda: self._taken(stream_id))
        self.streams[stream_id] = exchange
        self._running.append(exchange)
        await self.send(Updated(idle=False))
        await exchange.handle(
            Request(
                stream_id=stream_id,
                headers=filter_pseudo_headers(event.headers),
                http_version="2",
                method=pseudo[b":method"].decode("latin-1").upper(),
                # CONNECT has none, and is not served.
                raw_path=pseudo.get(b":path", b"/"),
                state=self.connection_state,
            )
        )

    def _data(self, event: DataReceived) -> None:
        """The connection's window is opened again at once; the stream's when its part is taken."""
        stream_id, length = event.stream_id, event.flow_controlled_length
        self._came += length
        if stream_id in self.streams:
            self.streams[stream_id].inbox.put(event.data)
            self._owed[stream_id] = self._owed.get(stream_id, 0) + length
        elif stream_id in self._discarding:
            self._discarding[stream_id] -= length
            if self._discarding[stream_id] < 0:
                self._stop_discarding(stream_id)
            else:
                self._open_window(length, stream_id)

    def _taken(self, stream_id: int) -> None:
        self._open_window(self._owed.pop(stream_id, 0), stream_id)
        if not self.closed:
            self.task_group.spawn(self._flush)

    def _open_window(self, length: int, stream_id: int | None = None) -> None:
        # A stream or a connection that is closed needs no window.
        if length:
            with contextlib.suppress(ProtocolError, KeyError):
                self.connection.increment_flow_control_window(length, stream_id)

    # -- out ------------------------------------------------------------------------------

    async def stream_send(self, event: StreamEvent) -> None:
        # What fails here is a stream or a connection that is gone: the application hears of it.
        with contextlib.suppress(ProtocolError, KeyError):
            if isinstance(event, Response):
                status = [(b":status", b"%d" % event.status_code)]
                headers = [each for each in event.headers if each[0] != b"connection"]
                common = self.config.response_headers("h2")
                self.connection.send_headers(event.stream_id, [*status, *headers, *common])
                await self._flush()
            elif isinstance(event, Body):
                await self._send_body(event.stream_id, memoryview(event.data))
            elif isinstance(event, EndBody):
                self.connection.end_stream(event.stream_id)
                await self._flush()
            elif isinstance(event, StreamClosed):
                await self._answered(event.stream_id)

    def _at_once(self, stream_id: int, data: bytes) -> bool:
        """Write a part of a body as one frame, if nothing has to wait."""
        direct, connection = self.direct, self.connection
        if direct is None or self.closed or self._writing.locked():
            return False
        with contextlib.suppress(ProtocolError, KeyError):
            window = connection.local_flow_control_window(stream_id)
            fits = len(data) <= min(window, connection.max_outbound_frame_size)
            # What h2 has besides is written at the end of each step, or soon: it is small.
            if fits and direct.has_room(len(data) + SMALL):
                connection.send_data(stream_id, data)
                direct.put(connection.data_to_send())
                return True
        return False

    async def _send_body(self, stream_id: int, data: memoryview) -> None:
        try:
            while data and stream_id in self.streams:
                window = min(self.connection.local_flow_control_window(stream_id), SLICE)
                if window <= 0:
                    if not await self._window_opens(stream_id):
                        return
                    continue
                for part in _parts(data[:window], self.connection.max_outbound_frame_size):
                    self.connection.send_data(stream_id, bytes(part))
                data = data[window:]
                self._wake_next()
                await self._flush()
        finally:
            # It may have had its turn, and no use for it.
            self._wake_next()

    async def _window_opens(self, stream_id: int) -> bool:
        """Wait for a window that is shut: the stream's own, or the connection's, which its streams
        have in turn. False: it stayed shut for too long; the stream is cut."""
        loop, silence = asyncio.get_running_loop(), self.config.send_timeout
        waiting = self._waiting[stream_id] = loop.create_future()
        common = self.connection.outbound_flow_control_window <= 0
        (self._for_common if common else self._for_own)[stream_id] = None
        if not common:
            # It may have been its turn.
            self._wake_next()
        since = loop.time()
        try:
            while not waiting.done():
                if common:
                    since = max(since, self._common_opened)
                if loop.time() - since >= silence:
                    await self._cut(stream_id)
                    return False
                await asyncio.wait((waiting,), timeout=since + silence - loop.time())
            return True
        finally:
            self._forget(stream_id)

    async def _cut(self, stream_id: int) -> None:
        metrics.reader_timeouts.inc()
        log.info("a client took nothing for %.0f s: cut", self.config.send_timeout)
        self.connection.reset_stream(stream_id, ErrorCodes.CANCEL)
        await self._leave(stream_id)
        await self._flush()
        await self._say_whether_idle()

    def _window_opened(self, stream_id: int) -> None:
        if stream_id:
            self._wake(stream_id)
        else:
            self._common_opened = asyncio.get_running_loop().time()
            self._wake_next()

    def _settings_changed(self) -> None:
        """The windows of all streams may have changed, which costs as much as a frame for each."""
        self.connection.small += len(self.streams)
        for each in list(self._for_own):
            self._wake(each)

    def _wake_next(self) -> None:
        """If the connection's window is open, one of those that wait for it has its turn. Were all
        to look, a client with many streams could have a lot of work done for each byte that it
        takes."""
        if self._for_common and self.connection.outbound_flow_control_window > 0:
            self._wake(next(iter(self._for_common)))

    def _wake(self, stream_id: int) -> None:
        waiting = self._forget(stream_id)
        if waiting is not None and not waiting.done():
            waiting.set_result(None)

    def _forget(self, stream_id: int) -> asyncio.Future[None] | None:
        self._for_own.pop(stream_id, None)
        self._for_common.pop(stream_id, None)
        return self._waiting.pop(stream_id, None)

    async def _flush(self) -> None:
        async with self._writing:
            data = self.connection.data_to_send()
            if data:
                await self.send(RawData(data))

    def _say_goodbye(self, code: ErrorCodes) -> None:
        with contextlib.suppress(ProtocolError):
            self.connection.close_connection(code)

    async def _close(self) -> None:
        await self._flush()
        await self.send(Closed())
        self.closed = True

    # -- the end of a stream --------------------------------------------------------------

    async def _answered(self, stream_id: int) -> None:
        """The application has returned, or its answer is complete."""
        exchange = self.streams.get(stream_id)
        if exchange is None:
            return
        owed = await self._leave(stream_id)
        if exchange.state is not ASGIHTTPState.CLOSED:
            self.connection.reset_stream(stream_id, ErrorCodes.INTERNAL_ERROR)
        elif not exchange.inbox.ended:
            self._discard(stream_id, owed)
        await self._flush()
        await self._say_whether_idle()

    def _discard(self, stream_id: int, owed: int) -> None:
        """Let the client send the rest of its body, which is dropped."""
        self._discarding[stream_id] = DISCARD_BYTES
        self._open_window(owed, stream_id)
        loop = asyncio.get_running_loop()
        loop.call_later(self.config.receive_timeout, self._stop_discarding, stream_id)

    def _stop_discarding(self, stream_id: int) -> None:
        if self._discarding.pop(stream_id, None) is not None and not self.closed:
            with contextlib.suppress(ProtocolError):
                self.connection.reset_stream(stream_id, ErrorCodes.NO_ERROR)
            self.task_group.spawn(self._flush)

    async def _leave(self, stream_id: int) -> int:
        """The stream is over: its application hears of it, and nothing of it is kept. Returns how
        far its window was shut."""
        exchange = self.streams.pop(stream_id, None)
        if exchange is not None:
            await exchange.handle(StreamClosed(stream_id=stream_id))
        self._wake(stream_id)
        return self._owed.pop(stream_id, 0)

    async def _say_whether_idle(self) -> None:
        if not self.streams:
            await self.send(Updated(idle=True))


def _connection(config: Bounds) -> _Frames:
    connection = _Frames(H2Configuration(client_side=False, header_encoding=None))
    connection.local_settings = Settings(
        client=False,
        initial_values={
            SettingCodes.MAX_CONCURRENT_STREAMS: config.h2_max_concurrent_streams,
            SettingCodes.MAX_HEADER_LIST_SIZE: config.h2_max_header_list_size,
        },
    )
    return connection


def _parts(data: memoryview, size: int) -> Iterator[memoryview]:
    for at in range(0, len(data), size):
        yield data[at : at + size]


async def _unasked() -> None:
    """An application that waits for a body says so by the stream's window."""
