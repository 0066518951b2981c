"""What a client that follows a response does next: pure decisions, which neither wait nor ask."""

import email.utils
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final

from openai import APIConnectionError, APIError, APIStatusError
from openai.types.responses import ResponseStreamEvent

from longrun.backoff import Backoff
from longrun.protocol import TERMINAL_EVENTS

FIRST_PAUSE: Final = 0.25
LONGEST_PAUSE: Final = 8.0

LONGEST_ASKED: Final = 86_400.0
"""Seconds. No server asks for more in earnest."""

LASTING: Final = 5.0
"""Seconds after which a connection that brought nothing was a working one all the same: proxies
cut streams on which nothing happens."""

PASSING: Final = frozenset({408, 409, 425, 429})
"""Statuses below 500 that say nothing against another try."""

_UNSENT: Final = frozenset({"ConnectError", "ConnectTimeout", "PoolTimeout"})
"""Exceptions of httpx that are raised before anything of a request was sent."""


class GaveUp(ConnectionError):
    """The events could not be had for as long as the caller wanted to try.

    Attributes:
        response_id: the response; None: it is not known whether it was created.
        cursor: the last event that came, to go on after; -1: none.

    Its cause is the error of the last connection, if that had any.
    """

    def __init__(self, message: str, response_id: str | None, cursor: int) -> None:
        super().__init__(message)
        self.response_id = response_id
        self.cursor = cursor


@dataclass(slots=True)
class Course:
    """The way through the events of one response, over any number of connections.

    Of each connection it is told in this order: `opened` when its answer begins, unless there was
    none; `takes` for each event; then `pause`, unless the course has `ended`.

    Args:
        response_id: None: it is to be created.
        cursor: the last event that is not wanted any more; -1: all are.
        give_up_after: seconds without a working connection; None: never.
        catch_up: how the first connection is to begin that brings something.
        repeatable: creating it may be tried again whatever became of the last try, since the
            request has an Idempotency-Key.
    """

    response_id: str | None
    cursor: int = -1
    give_up_after: float | None = None
    catch_up: str | None = None
    repeatable: bool = False
    ended: bool = False
    """The terminal event was there, or everything up to it had been taken before."""
    _backoff: Backoff = field(default_factory=lambda: Backoff(FIRST_PAUSE, LONGEST_PAUSE))
    _probe: int | None = None
    """What to ask for in place of the cursor (see `_look_back`)."""
    _opened_at: float | None = None
    _came: int = 0
    """How many events the connection brought, those that were known included."""
    _troubled_since: float | None = None

    def starting_after(self) -> int | None:
        """The cursor to ask for; None: from the start."""
        after = self.cursor if self._probe is None else self._probe
        return after if after >= 0 else None

    def opened(self, now: float) -> None:
        """A connection is there, and its answer is a stream."""
        self._opened_at = now

    def takes(self, event: ResponseStreamEvent) -> bool:
        """Whether an event is new. After a terminal one the course has ended."""
        self._came += 1
        self.ended = event.type in TERMINAL_EVENTS
        number = event.sequence_number
        if self.response_id is None and event.type == "response.created":
            self.response_id = event.response.id
        if number <= self.cursor:
            self._probe = number if number < self.cursor else None
            return False
        self.cursor, self._probe = number, None
        self._backoff.reset()
        return True

    def pause(self, failure: APIError | None, now: float) -> float:
        """What to do about a connection that ended before the terminal event.

        Args:
            failure: how it ended; None: cleanly.
            now: by a monotonic clock, in seconds.

        Returns:
            Seconds until the next one.

        Raises:
            APIError: that failure, which another try would not change.
            GaveUp: it is of no use any more.
        """
        if failure is not None and not self._may_pass(failure):
            raise failure
        if self.response_id is None and failure is None and not self.repeatable:
            raise self._gave_up("The stream that was to create a response ended without an event")
        self._look_back(failure)
        self._note_trouble(now)
        seconds = self._backoff.next()
        if isinstance(failure, APIStatusError):
            # Never sooner than was asked for, and not all clients at once.
            seconds += asked_pause(failure.response.headers)
        assert self._troubled_since is not None
        lasted = now - self._troubled_since
        if self.give_up_after is not None and lasted + seconds > self.give_up_after:
            what = self.response_id or "a response that was to be created"
            raise self._gave_up(f"No events of {what} for {lasted:.1f} s") from failure
        self._opened_at, self._came = None, 0
        return seconds

    def _may_pass(self, failure: APIError) -> bool:
        """Whether another try may do better, and does no harm."""
        if isinstance(failure, APIStatusError):
            status = failure.status_code
            passing = status in PASSING or status >= 500
            if self.response_id is None and not self.repeatable:
                # Only these say that nothing was created.
                passing = status in (429, 503)
            return passing and failure.response.headers.get("x-should-retry") != "false"
        if not isinstance(failure, APIConnectionError):
            return False
        if self.response_id is not None or self.repeatable:
            return True
        # To create it again without knowing whether it is there would make two.
        return type(failure.__cause__).__name__ in _UNSENT

    def _look_back(self, failure: APIError | None) -> None:
        """Ask for what is known, too, after a clean end without an event.

        A finished response has nothing to send after its terminal event but `[DONE]`, which the
        SDK does not show; a connection that was cut before its first event looks alike. Asked for
        one event more, the first sends the terminal event again. A cursor that was given too high
        needs all of them.
        """
        if failure is None and not self._came:
            self._probe = self.cursor - 1 if self._probe is None else -1

    def _note_trouble(self, now: float) -> None:
        lasted = self._opened_at is not None and now - self._opened_at >= LASTING
        if lasted:
            self._backoff.reset()
        if lasted or self._came or self._troubled_since is None:
            self._troubled_since = now

    def _gave_up(self, message: str) -> GaveUp:
        return GaveUp(message, self.response_id, self.cursor)


def asked_pause(headers: Mapping[str, str]) -> float:
    """Seconds that `Retry-After` asks for, or `retry-after-ms`, as OpenAI's SDKs read them; 0.0
    where neither does."""
    for name, scale in (("retry-after-ms", 0.001), ("retry-after", 1.0)):
        try:
            seconds = float(headers.get(name, "")) * scale
        except ValueError:
            continue
        if math.isfinite(seconds) and seconds >= 0:
            return min(seconds, LONGEST_ASKED)
    return _until(headers.get("retry-after", ""), headers.get("date", ""))


def _until(then: str, now: str) -> float:
    """Seconds between two dates of HTTP, both by the server's clock; 0.0 if either is none."""
    try:
        between = email.utils.parsedate_to_datetime(then) - email.utils.parsedate_to_datetime(now)
    except (TypeError, ValueError):
        return 0.0
    return min(max(0.0, between.total_seconds()), LONGEST_ASKED)
