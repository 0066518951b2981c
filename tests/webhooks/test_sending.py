"""Names that lead elsewhere at the second look, certificates, redirects, and time."""

import asyncio
import ssl
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import httpx2
import pytest

from longrun.webhooks import sending
from longrun.webhooks.sending import Sender
from longrun.webhooks.targets import networks_of
from tests.tls import Authority
from tests.webhooks.sink import Sink

HERE = networks_of(["127.0.0.1"])


@pytest.fixture
def lead(monkeypatch: pytest.MonkeyPatch) -> Callable[..., list[str]]:
    """Has names lead to addresses, other ones at each look; returns what was asked for."""

    def leads(*looks: list[str]) -> list[str]:
        asked: list[str] = []

        async def getaddrinfo(self: Any, host: str, port: int, **_: Any) -> list[tuple[Any, ...]]:
            asked.append(host)
            found = looks[min(len(asked), len(looks)) - 1]
            return [(2, 1, 6, "", (address, port)) for address in found]

        monkeypatch.setattr(asyncio.BaseEventLoop, "getaddrinfo", getaddrinfo)
        return asked

    return leads


async def post(sender: Sender, url: str) -> sending.Sent:
    try:
        return await sender.post(httpx2.URL(url), b"{}", [("content-type", "application/json")])
    finally:
        await sender.close()


def sender(allowed: Any = HERE, timeout: float = 3.0) -> Sender:
    return Sender(allowed, timeout=timeout, connections=4)


async def test_the_address_that_was_looked_at_is_connected_to(
    sink: Sink, lead: Callable[..., list[str]]
) -> None:
    asked = lead(["127.0.0.1"], ["127.0.0.2"])
    sent = await post(sender(), f"http://rebinding.example:{sink.port}/rebound")
    assert sent.status_code == 200
    assert asked == ["rebinding.example"], "looked up once, and not again to connect"
    [received] = sink.at("/rebound")
    assert received.headers["host"] == f"rebinding.example:{sink.port}"


@pytest.mark.parametrize("address", ["127.0.0.2", "10.0.0.1", "::1", "::ffff:127.0.0.2"])
async def test_a_name_that_leads_to_what_is_not_public_is_refused(
    sink: Sink, lead: Callable[..., list[str]], address: str
) -> None:
    lead([address])
    sent = await post(sender(), f"http://rebinding.example:{sink.port}/private")
    assert sent == sending.Sent(None, "address not allowed")
    assert sink.at("/private") == []


async def test_of_several_addresses_those_that_may_be_are_used(
    sink: Sink, lead: Callable[..., list[str]]
) -> None:
    lead(["10.0.0.1", "127.0.0.2", "127.0.0.1"])
    sent = await post(sender(), f"http://several.example:{sink.port}/several")
    assert sent.status_code == 200


async def test_each_connection_looks_anew(sink: Sink, lead: Callable[..., list[str]]) -> None:
    sink.behaviour["/anew"] = "break"
    lead(["127.0.0.1"], ["10.0.0.1"])
    posting = sender()
    url = httpx2.URL(f"http://rebinding.example:{sink.port}/anew")
    first, second = [await posting.post(url, b"{}", []) for _ in range(2)]
    await posting.close()
    assert [first.problem, second.problem] == ["connection broken", "address not allowed"]


async def test_numbers_that_are_addresses_are_looked_at(sink: Sink) -> None:
    for host in ("2130706434", "0x7f000002", "127.2"):
        sent = await post(sender(), f"http://{host}:{sink.port}/odd")
        assert sent.status_code is None, host
    assert sink.at("/odd") == []


async def test_a_redirect_is_not_followed(sink: Sink) -> None:
    sink.behaviour["/moved"] = "redirect"
    assert await post(sender(), f"{sink.url}/moved") == sending.Sent(307, "redirect")


async def test_hanging_ends_at_its_time(sink: Sink) -> None:
    sink.behaviour["/slow"] = "hang"
    assert await post(sender(timeout=0.3), f"{sink.url}/slow") == sending.Sent(None, "timeout")


@pytest.mark.parametrize(
    ("said", "seconds"),
    [
        ("7", 7.0),
        ("Thu, 01 Jan 1970 00:16:45 GMT", 5.0),
        ("Thu, 01 Jan 1970 00:00:01 GMT", 0.0),
        ("9" * 400, 9999999999.0),
        ("-1", 0.0),
        ("1.5", 0.0),
        ("nan", 0.0),
        ("\u0661", 0.0),
        ("Thu, 99 Jan 99999 00:00:01 GMT", 0.0),
        ("", 0.0),
    ],
)
def test_a_pause_is_asked_for_in_seconds_or_by_a_date(said: str, seconds: float) -> None:
    headers = [(b"date", b"x"), (b"Retry-After", said.encode())]
    assert sending.asked_pause(headers, 1000.0) == seconds


async def test_a_pause_is_heeded_of_those_who_have_too_much_to_do(sink: Sink) -> None:
    for status, heeded in ((429, 7.0), (503, 7.0), (500, 0.0)):
        sink.behaviour["/busy"] = (status, "7")
        sent = await post(sender(), f"{sink.url}/busy")
        assert sent == sending.Sent(status, "refused", heeded)


async def test_proxies_of_the_environment_are_not_asked(
    sink: Sink, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("HTTP_PROXY", "http_proxy", "ALL_PROXY"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")
    assert (await post(sender(), f"{sink.url}/direct")).status_code == 200


@pytest.fixture
def certified(tmp_path: Path) -> Iterator[tuple[int, list[str | None], Path]]:
    """A server with TLS for `hook.example`: its port, the names that it was asked for, and the
    certificate of its authority."""
    authority, asked = Authority(tmp_path, "ca"), []
    authority.sign("hook", "hook.example")
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(tmp_path / "hook.crt", tmp_path / "hook.key")
    context.sni_callback = lambda _, name, __: asked.append(name)

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            self.rfile.read(int(self.headers["content-length"]))
            self.send_response(204)
            self.end_headers()

        def log_message(self, *_: Any) -> None:
            """Nothing."""

    class Quiet(ThreadingHTTPServer):
        daemon_threads = True

        def handle_error(self, request: Any, client_address: Any) -> None:
            """Clients that refuse the certificate."""

    server = Quiet(("127.0.0.1", 0), Handler)
    server.socket = context.wrap_socket(server.socket, server_side=True)
    thread = threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True)
    thread.start()
    yield server.server_address[1], asked, tmp_path / "ca.crt"
    server.shutdown()
    server.server_close()


async def test_tls_asks_for_the_name_and_checks_it(
    certified: tuple[int, list[str | None], Path],
    lead: Callable[..., list[str]],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    port, asked, authority = certified
    lead(["127.0.0.1"])
    assert (await post(sender(), f"https://hook.example:{port}/")).problem == "TLS failed"
    monkeypatch.setenv("SSL_CERT_FILE", str(authority))
    assert (await post(sender(), f"https://hook.example:{port}/")).status_code == 204
    assert asked == ["hook.example", "hook.example"]
    assert (await post(sender(), f"https://other.example:{port}/")).problem == "TLS failed"
