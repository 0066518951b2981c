"""Delivering: the background part that posts what is due, again and again until it is taken.

What is to be delivered is a row, written with the end of its response. Any replica claims it, for
as long as an attempt may take and a little more, posts it, and notes what became of that. A replica
that dies in between leaves a claim that runs out: what it had posted comes twice, nothing is lost.
"""

import asyncio
import contextlib
import logging
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from typing import Final

import httpx2
from pydantic import SecretStr

from longrun import metrics
from longrun.backoff import jittered, sleep_unless
from longrun.errors import LongrunError, Unreadable
from longrun.ids import uuid7_hex
from longrun.settings import Settings
from longrun.store.deliveries import Deliveries, Delivery
from longrun.store.retention import in_batches
from longrun.store.webhooks import OF_SETTINGS, Endpoint, signing
from longrun.supervision import also_on
from longrun.webhooks.posts import body_of, headers_of
from longrun.webhooks.sending import GONE, Sender, Sent
from longrun.webhooks.targets import UnusableURL, networks_of, read_url

log = logging.getLogger("longrun.webhooks")

POLL: Final = 2.0
"""Seconds between looks, about. The replica on which a response ends looks at once; the others are
for what it cannot manage, and for what is tried again."""

SPARE: Final = 5.0
"""Seconds by which a claim is longer than an attempt."""

SAMPLE_INTERVAL: Final = 10.0
RETENTION_INTERVAL: Final = 60.0
RENEWAL_INTERVAL: Final = 300.0
"""Seconds; what the settings say is renewed a few times in the hour for which it holds."""

TESTS: Final = "tests"
DELIVERIES: Final = "deliveries"
"""Kinds of posts, each with connections of its own: tests may not take those of deliveries."""

SAMPLE: Final = "resp_" + "0" * 32
"""The response that sample events name."""

MOST_FAILING: Final = 1000
"""Endpoints of which is remembered here that the last attempt failed, and until when they are left
alone."""


class Delivering:
    """One per replica.

    Attributes:
        disabled: how many endpoints are disabled, of all replicas' callers, as of the last look.
    """

    def __init__(self, deliveries: Deliveries, settings: Settings) -> None:
        self._deliveries = deliveries
        self._settings = settings
        self._woken = asyncio.Event()
        self._busy: Counter[str] = Counter()
        self._failing: dict[str, float] = {}
        self._limited = False
        self._url = _given(settings.webhook_url)
        self._secrets = tuple((_given(settings.webhook_secret) or "").split())
        self._networks = networks_of(settings.webhook_networks)
        self._senders: dict[str, Sender] = {}
        self.disabled = 0

    def wake(self) -> None:
        """Something may be due: a response has ended here."""
        self._woken.set()

    async def begin(self) -> None:
        """Before the first response ends: what the settings ask for is kept from now on.

        Raises:
            Unavailable: Postgres is away.
        """
        if self._url is not None:
            await self._deliveries.renew_settings(self._settings.webhook_events, started=True)

    async def run(self, stop: asyncio.Event) -> None:
        """Deliver until `stop` is set, and what was begun by then to its end."""
        self._busy.clear()
        try:
            with also_on(stop, self.wake):
                async with asyncio.TaskGroup() as group:
                    group.create_task(self._look_after(stop))
                    await self._deliver_all(stop, group)
        finally:
            while self._senders:
                await self._senders.popitem()[1].close()

    async def test(self, endpoint: Endpoint, type_: str) -> Sent:
        """Post a sample event to an endpoint, once; it names a response that never was."""
        body = body_of(f"evt_{uuid7_hex()}", type_, SAMPLE, int(time.time()))
        return await self._post(
            endpoint.document.url, TESTS, f"wh_{uuid7_hex()}", body, endpoint.secrets
        )

    # -- what is due ----------------------------------------------------------------------------

    async def _deliver_all(self, stop: asyncio.Event, group: asyncio.TaskGroup) -> None:
        while not stop.is_set():
            self._woken.clear()
            whole = True
            with _while_postgres_is_away():
                whole = await self._claim(group)
            if whole or self._free == 0:
                with contextlib.suppress(TimeoutError):
                    await asyncio.wait_for(self._woken.wait(), jittered(POLL))

    @property
    def _free(self) -> int:
        return self._settings.webhook_concurrency - self._busy.total()

    async def _claim(self, group: asyncio.TaskGroup) -> bool:
        """Begin with what is due, as far as there is room; returns whether that was all."""
        if self._free <= 0:
            self._limited = True
            return True
        each = self._settings.webhook_endpoint_concurrency
        now = time.monotonic()
        busy = dict(self._busy)
        for name, rests_until in self._failing.items():
            # To one that fails, one at a time; to one that asked for a pause, none meanwhile.
            busy[name] = each - (now >= rests_until) + self._busy[name]
        claimed = await self._deliveries.claim(
            self._free,
            each,
            self._settings.webhook_timeout + SPARE,
            busy,
            of_settings=self._url is not None,
        )
        for delivery in claimed.deliveries:
            self._busy[delivery.endpoint_id] += 1
            group.create_task(self._deliver(delivery))
        self._limited = not claimed.whole or any(
            count >= (1 if name in self._failing else each) for name, count in self._busy.items()
        )
        return claimed.whole

    async def _deliver(self, delivery: Delivery) -> None:
        """One attempt. Nothing that goes wrong with it is any other's concern."""
        try:
            with _while_postgres_is_away():
                await self._attempt(delivery)
        except Exception:
            log.exception("webhook delivery %s broke off", delivery.id)
        finally:
            self._busy[delivery.endpoint_id] -= 1
            if not self._busy[delivery.endpoint_id]:
                del self._busy[delivery.endpoint_id]
            if self._limited:
                self.wake()

    async def _attempt(self, delivery: Delivery) -> None:
        if delivery.closed:
            metrics.webhook_deliveries.labels("dropped").inc()
            await self._deliveries.drop(delivery)
            return
        sent = await self._sent(delivery)
        if sent.problem is None and sent.status_code is not None:
            self._failing.pop(delivery.endpoint_id, None)
            metrics.webhook_deliveries.labels("delivered").inc()
            await self._deliveries.delivered(
                delivery, sent.status_code, self._settings.webhook_retry_for
            )
        else:
            await self._failed(delivery, sent)

    async def _sent(self, delivery: Delivery) -> Sent:
        body = body_of(delivery.event_id, delivery.type, delivery.response_id, delivery.created_at)
        if delivery.endpoint_id == OF_SETTINGS:
            assert self._url is not None
            return await self._post(self._url, OF_SETTINGS, delivery.id, body, self._secrets)
        try:
            document = self._deliveries.document(delivery)
        except Unreadable:
            return Sent(None, "cannot be decrypted")
        secrets = signing(document, overlaps=delivery.overlaps)
        return await self._post(document.url, DELIVERIES, delivery.id, body, secrets)

    async def _post(
        self, url: str, kind: str, delivery_id: str, body: bytes, secrets: Sequence[str]
    ) -> Sent:
        allowed = None if kind == OF_SETTINGS else self._networks
        try:
            target = httpx2.URL(url) if allowed is None else read_url(url, allowed)
        except (UnusableURL, httpx2.InvalidURL):
            return Sent(None, "address not allowed")
        if kind not in self._senders:
            # When it is first needed: reading certificates takes some 30 ms.
            self._senders[kind] = Sender(
                allowed,
                timeout=self._settings.webhook_timeout,
                connections=self._settings.webhook_concurrency,
            )
        return await self._senders[kind].post(target, body, headers_of(delivery_id, body, secrets))

    async def _failed(self, delivery: Delivery, sent: Sent) -> None:
        settings = self._settings
        gone = sent.status_code == GONE
        asked = min(sent.retry_after, settings.webhook_retry_longest)
        self._note_failing(delivery.endpoint_id, asked)
        pause = settings.webhook_retry_first * 2.0 ** min(delivery.failures, 60)
        pause = jittered(min(pause, settings.webhook_retry_longest), 0.25)
        if asked:
            # Not before that, and not all that wait at the very moment.
            pause = max(pause, asked + jittered(settings.webhook_retry_first / 2, 1.0))
        given_up, disabled = await self._deliveries.not_delivered(
            delivery,
            sent.status_code,
            sent.problem or "",
            pause,
            settings.webhook_retry_for,
            gone=gone,
        )
        if pause < POLL and not given_up:
            asyncio.get_running_loop().call_later(pause, self.wake)
        outcome = "gone" if gone else "given_up" if given_up else "failed"
        metrics.webhook_deliveries.labels(outcome).inc()
        self._say(delivery, sent, given_up=given_up, disabled=disabled)

    def _note_failing(self, endpoint_id: str, asked: float) -> None:
        """Remember that an attempt failed, and for how long the endpoint asks to be left alone."""
        rests_until = max(time.monotonic() + asked, self._failing.pop(endpoint_id, 0.0))
        self._failing[endpoint_id] = rests_until
        if len(self._failing) > MOST_FAILING:
            del self._failing[next(iter(self._failing))]

    def _say(self, delivery: Delivery, sent: Sent, *, given_up: bool, disabled: bool) -> None:
        why = f"{sent.problem} ({sent.status_code})" if sent.status_code else sent.problem
        if given_up:
            log.warning(
                "webhook delivery %s to %s was given up after %d attempts: %s",
                delivery.id,
                delivery.endpoint_id,
                delivery.attempt,
                why,
            )
        if disabled:
            self.disabled += 1
            log.warning(
                "webhook endpoint %s is disabled: %s",
                delivery.endpoint_id,
                "it answered 410, that it is gone"
                if sent.status_code == GONE
                else "nothing could be delivered to it for "
                f"{self._settings.webhook_retry_for:.0f} s",
            )

    # -- what is looked after -------------------------------------------------------------------

    async def _look_after(self, stop: asyncio.Event) -> None:
        async with asyncio.TaskGroup() as group:
            group.create_task(self._sample(stop))
            group.create_task(self._forget(stop))
            if self._url is not None:
                group.create_task(self._renew(stop))

    async def _sample(self, stop: asyncio.Event) -> None:
        while not stop.is_set():
            with _while_postgres_is_away():
                row = await self._deliveries.sample()
                self.disabled = row["disabled"]
                metrics.webhook_pending.set(row["count"])
                metrics.webhook_oldest_seconds.set(row["oldest"])
                metrics.webhook_disabled.set(row["disabled"])
            await sleep_unless(stop, SAMPLE_INTERVAL)

    async def _forget(self, stop: asyncio.Event) -> None:
        seconds = self._settings.webhook_retention
        while not await sleep_unless(stop, jittered(min(RETENTION_INTERVAL, seconds))):
            with _while_postgres_is_away():
                await in_batches(
                    lambda: self._deliveries.forget(seconds, self._settings.webhook_retry_for), stop
                )

    async def _renew(self, stop: asyncio.Event) -> None:
        while not await sleep_unless(stop, RENEWAL_INTERVAL):
            with _while_postgres_is_away():
                await self._deliveries.renew_settings(self._settings.webhook_events, started=False)


@contextlib.contextmanager
def _while_postgres_is_away() -> Iterator[None]:
    """What is not done now is done at the next look; a claim that is not noted runs out."""
    try:
        yield
    except LongrunError as error:
        log.warning("webhooks wait: %s", error)


def _given(value: SecretStr | None) -> str | None:
    return None if value is None else value.get_secret_value()
