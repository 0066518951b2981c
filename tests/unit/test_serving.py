"""What stands in for parts of Hypercorn: the inbox of a request, pace, and what is known of it."""

import asyncio
from types import MappingProxyType
from typing import Any

import pytest
from hypercorn.protocol.h11 import H11Protocol

from longrun.errors import ConfigurationError, RequestTimeout
from longrun.http.intake import ARRIVED, Intake
from longrun.serving import pinned
from longrun.serving.bounds import INBOX, Pace
from longrun.serving.exchange import Inbox, refusal


class TestInbox:
    def setup_method(self) -> None:
        self.wanted = self.taken = 0
        self.inbox = Inbox(self._want, self._take)

    async def _want(self) -> None:
        self.wanted += 1

    def _take(self) -> None:
        self.taken += 1

    async def test_parts_that_came_together_are_taken_together(self) -> None:
        for part in (b"a", b"b", b"c"):
            self.inbox.put(part)
        assert await self.inbox.receive() == {
            "type": "http.request",
            "body": b"abc",
            "more_body": True,
        }
        self.inbox.put(b"d")
        self.inbox.end()
        assert await self.inbox.receive() == {
            "type": "http.request",
            "body": b"d",
            "more_body": False,
        }
        assert (self.wanted, self.taken) == (0, 1)

    async def test_an_end_by_itself_is_told(self) -> None:
        self.inbox.end()
        assert (await self.inbox.receive())["more_body"] is False

    async def test_a_body_that_is_waited_for_is_asked_for(self) -> None:
        waiting = asyncio.create_task(self.inbox.receive())
        await asyncio.sleep(0)
        assert self.wanted == 1
        self.inbox.put(b"x")
        assert (await waiting)["body"] == b"x"

    async def test_what_has_come_is_there_at_once_and_once(self) -> None:
        assert self.inbox.arrived() is None
        self.inbox.put(b"x")
        self.inbox.end()
        whole = {"type": "http.request", "body": b"x", "more_body": False}
        assert [self.inbox.arrived(), self.inbox.arrived()] == [whole, None]
        self.inbox.leave()
        assert self.inbox.arrived() is None

    async def test_each_hears_once_that_the_client_left_also_afterwards(self) -> None:
        heard: list[str] = []
        self.inbox.when_left(lambda: heard.append("before"))
        assert heard == []
        self.inbox.leave()
        self.inbox.leave()
        self.inbox.when_left(lambda: heard.append("after"))
        assert heard == ["before", "after"]

    async def test_a_client_that_left_in_the_middle_is_told_instead_of_a_part(self) -> None:
        self.inbox.put(b"x")
        self.inbox.leave()
        assert await self.inbox.receive() == {"type": "http.disconnect"}
        assert await self.inbox.receive() == {"type": "http.disconnect"}

    async def test_one_that_left_after_the_end_after_its_body(self) -> None:
        self.inbox.put(b"x")
        self.inbox.end()
        self.inbox.leave()
        assert (await self.inbox.receive())["body"] == b"x"
        assert await self.inbox.receive() == {"type": "http.disconnect"}

    async def test_leaving_wakes_whoever_waits(self) -> None:
        self.inbox.end()
        await self.inbox.receive()
        waiting = asyncio.create_task(self.inbox.receive())
        await asyncio.sleep(0)
        self.inbox.leave()
        assert await waiting == {"type": "http.disconnect"}

    async def test_it_is_full_until_it_is_taken(self) -> None:
        assert not self.inbox.full
        self.inbox.put(bytes(INBOX))
        assert self.inbox.full
        await self.inbox.receive()
        assert not self.inbox.full


class TestPace:
    async def test_a_burst_is_free_and_more_has_to_wait(self) -> None:
        pace = Pace(rate=100, burst=50)
        assert pace.spend(50) == 0
        assert 0.05 < pace.spend(10) <= 0.1

    async def test_what_was_not_used_comes_back(self) -> None:
        pace = Pace(rate=1e9, burst=50)
        pace.spend(50)
        await asyncio.sleep(0.001)
        assert pace.spend(50) == 0


class TestIntake:
    async def _received(self, parts: list[bytes], every: float) -> int:
        """How many parts an application gets that come so slowly."""
        coming = iter(parts)
        received = 0

        async def receive() -> dict[str, object]:
            await asyncio.sleep(every)
            return {"type": "http.request", "body": next(coming), "more_body": True}

        async def app(scope: object, receive: object, send: object) -> None:
            nonlocal received
            while True:
                await receive()  # type: ignore[operator]
                received += 1

        intake = Intake(app, timeout=0.1)
        with pytest.raises(RequestTimeout):
            await intake({"type": "http", "method": "POST"}, receive, app)  # type: ignore[arg-type]
        return received

    async def test_silence_ends_a_request(self) -> None:
        assert await self._received([b"x"], every=60) == 0

    async def test_so_does_a_body_that_trickles(self) -> None:
        assert 1 <= await self._received([b"x"] * 1000, every=0.02) <= 5

    async def test_what_is_there_is_taken_and_what_is_not_is_waited_for(self) -> None:
        there = {"type": "http.request", "body": b"x", "more_body": True}
        coming = {"type": "http.request", "body": b"y", "more_body": False}
        gone = {"type": "http.disconnect"}
        arrived, later, got = iter([there]), iter([coming, gone]), []

        async def receive() -> Any:
            await asyncio.sleep(0)
            return next(later)

        async def app(scope: Any, receive: Any, send: Any) -> None:
            got.extend([await receive(), await receive(), await receive()])

        scope = {
            "type": "http",
            "method": "POST",
            "extensions": {ARRIVED: lambda: next(arrived, None)},
        }
        await Intake(app, timeout=60)(scope, receive, _send)
        assert got == [there, coming, gone]

    async def test_what_trickles_in_time_to_be_there_has_no_more_time_either(self) -> None:
        """One part is there, the next never comes."""
        part = {"type": "http.request", "body": b"x", "more_body": True}
        arrived = iter([part])

        async def receive() -> Any:
            await asyncio.Event().wait()

        async def app(scope: Any, receive: Any, send: Any) -> None:
            assert await receive() == part
            await receive()

        scope = {
            "type": "http",
            "method": "POST",
            "extensions": {ARRIVED: lambda: next(arrived, None)},
        }
        with pytest.raises(RequestTimeout):
            await Intake(app, timeout=0.05)(scope, receive, _send)


async def _send(message: Any) -> None:
    raise AssertionError(message)


class TestPinned:
    def test_the_hypercorn_here_is_known(self) -> None:
        pinned.check()

    def test_another_one_is_refused_by_name(self, monkeypatch: pytest.MonkeyPatch) -> None:
        other = MappingProxyType({H11Protocol: "0" * 16})
        monkeypatch.setattr(pinned, "KNOWN", other)
        with pytest.raises(ConfigurationError, match=r"H11Protocol.*hypercorn==0\.18\.0"):
            pinned.check()

    def test_without_sources_the_version_has_to_do(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(pinned, "fingerprint", lambda thing: None)
        pinned.check()
        monkeypatch.setattr(pinned, "version", lambda name: "0.18.1")
        with pytest.raises(ConfigurationError, match=r"0\.18\.1 differs from 0\.18\.0"):
            pinned.check()


@pytest.mark.parametrize("status", [400, 404, 408, 431, 500, 501, 505])
def test_refusals_say_their_status(status: int) -> None:
    answer = refusal(status)
    assert answer.status_code == status
    assert answer.headers["content-length"] == str(len(answer.body))
