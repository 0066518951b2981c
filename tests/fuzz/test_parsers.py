"""Each reader of what clients send: it reads it, or refuses it in the contract's words.

In memory: what one request may bring, without a server around it.
"""

import asyncio
import base64
import json
import time
from collections.abc import Awaitable, Callable
from typing import Any
from urllib.parse import quote

import jwt
import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from hypothesis import example, given, settings
from hypothesis import strategies as st
from starlette.requests import HTTPConnection, Request

from longrun import ids
from longrun.access.authentication import Proxy
from longrun.access.keys import new_key, prefix_of
from longrun.access.loopback import check_page, is_loopback
from longrun.access.oidc import OIDCTokens
from longrun.access.stream_tokens import StreamTokens
from longrun.errors import LongrunError
from longrun.http.bodies import Bodies
from longrun.http.conversations import (
    AddItems,
    CreateConversation,
    UpdateConversation,
    checked_new_items,
)
from longrun.http.limits import DEFAULT_LIMITS
from longrun.http.lists import ListQuery, ListResponses
from longrun.http.query import LARGEST_CURSOR, GetResponse
from longrun.http.requests import CreateResponse
from longrun.http.tokens import CreateChatToken
from longrun.loglines import one_line

QUICK = settings(max_examples=80, deadline=None)

odd = st.sampled_from(
    [
        *("", " ", "\x00", "\r\n", "-1", "+1", "1_0", "１", "1e3", "0x1", "9" * 19, "9" * 5000),
        *("http://[", "http://[::1", "//", "[", "http://a:b", "http://\u2028", "a@b", "::1", "%00"),
        *("Bearer", "Bearer  ", "bearer lr_", "true", "null", "[]", "{}", "resp_", "a" * 9000),
    ]
)
text = odd | st.text(max_size=20) | st.from_regex(r"[0-9]{1,20}", fullmatch=True)
value = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | text,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(text, inner, max_size=3),
    max_leaves=8,
)


def request(
    query: dict[str, str] | None = None, headers: dict[str, str] | None = None, body: bytes = b""
) -> Request:
    """As a server gives it: header values are bytes without line ends, of any other kind."""

    async def receive() -> dict[str, Any]:
        return {"type": "http.request", "body": body, "more_body": False}

    quoted = "&".join(f"{quote(k, safe='[]')}={quote(v)}" for k, v in (query or {}).items())
    raw = [(k.encode(), v.encode("utf-8", "replace")) for k, v in (headers or {}).items()]
    scope = {"type": "http", "method": "GET", "path": "/", "query_string": quoted.encode()}
    return Request({**scope, "headers": raw, "client": ("127.0.0.1", 1)}, receive)


def refused_at_most(read: Callable[[], Any]) -> Any:
    """What is read; None: it was refused, in words that can be sent."""
    try:
        return read()
    except LongrunError as error:
        check_words(error)
        return None


async def refused_at_most_async(read: Awaitable[Any]) -> Any:
    try:
        return await read
    except LongrunError as error:
        check_words(error)
        return None


def check_words(error: LongrunError) -> None:
    assert 400 <= error.status < 500
    assert error.message
    assert len(error.message) < 2000
    assert error.param is None or len(error.param) < 600


query = st.dictionaries(
    st.sampled_from(["stream", "starting_after", "after", "limit", "order", "status", "model"])
    | st.just("metadata[a]")
    | text.filter(bool),
    text.map(lambda each: each.encode("utf-8", "replace").decode()),
    max_size=4,
)


class TestQueries:
    @given(query, st.none() | text)
    @QUICK
    def test_cursors(self, given_query: dict[str, str], last_event_id: str | None) -> None:
        headers = {} if last_event_id is None else {"last-event-id": last_event_id}
        found = refused_at_most(lambda: GetResponse.parse(request(given_query, headers)))
        if found is not None and found.starting_after is not None:
            assert 0 <= found.starting_after <= LARGEST_CURSOR

    @given(query, st.sampled_from([ListQuery, ListResponses]))
    @QUICK
    def test_lists(self, given_query: dict[str, str], model: type[ListQuery]) -> None:
        found = refused_at_most(lambda: model.parse(request(given_query)))
        if found is not None:
            assert 1 <= found.limit <= 100
            assert "\0" not in (found.after or "")


class TestBodies:
    @given(
        st.binary(max_size=60)
        | value.map(lambda each: json.dumps(each).encode("utf-8", "surrogatepass"))
        | st.sampled_from([b"[" * 100_000, b'{"a":' * 50_000, b"9" * 100_000, b'"\\ud800"'])
    )
    @QUICK
    async def test_any_bytes(self, body: bytes) -> None:
        headers = {"content-type": "application/json"}
        bodies = Bodies(DEFAULT_LIMITS)
        await refused_at_most_async(bodies.read(request(None, headers, body), lambda each: each))
        assert bodies._budget.used == 0

    @given(text, text)
    @QUICK
    async def test_any_headers(self, media_type: str, length: str) -> None:
        headers = {"content-type": media_type, "content-length": length}
        bodies = Bodies(DEFAULT_LIMITS)
        await refused_at_most_async(bodies.read(request(None, headers, b"{}"), lambda each: each))

    @given(
        value
        | st.fixed_dictionaries(
            {}, optional=dict.fromkeys(["items", "metadata", "model", "user", "max_runs"], value)
        )
    )
    @QUICK
    def test_models(self, body: Any) -> None:
        for model in (CreateConversation, UpdateConversation, CreateChatToken, CreateResponse):
            refused_at_most(lambda model=model: model.parse(body))  # type: ignore[misc]
        added = refused_at_most(lambda: AddItems.parse(body))
        if added is not None:
            refused_at_most(lambda: checked_new_items(added.items, depth=64))


class TestIds:
    @given(text | st.from_regex(r"(resp|conv|msg)_[0-9a-f]{30,40}", fullmatch=True))
    @QUICK
    def test_they_are_ours_or_not(self, given_id: str) -> None:
        if ids.is_response_id(given_id) or ids.is_conversation_id(given_id):
            assert given_id.isascii()
            assert "\0" not in given_id
        place = ids.place_of_item(given_id)
        if place is not None:
            assert ids.is_response_id(place[0])
            assert place[1] < 2**31


class TestCallers:
    @given(text, text)
    @example("localhost", "http://[")
    @example("[", "http://a")
    @QUICK
    def test_pages(self, host: str, origin: str) -> None:
        """`Origin: http://[` was a 500 on a server without keys."""
        given_headers = {"host": host, "origin": origin}
        refused_at_most(lambda: check_page(request(None, given_headers).headers, ()))
        is_loopback(host)

    @given(text)
    @QUICK
    def test_keys(self, key: str) -> None:
        assert prefix_of(key) is None

    def test_a_key(self) -> None:
        key = new_key()
        assert prefix_of(key.text) == key.prefix
        assert prefix_of(key.text + "\n") is None

    @given(text, text)
    @QUICK
    def test_proxies(self, header: str, address: str) -> None:
        proxy = Proxy("x-user", ["10.0.0.0/8"])
        given_request = request(None, {"x-user": header})
        for client in ((address, 1), ("10.0.0.1", 1), None):
            connection = HTTPConnection({**given_request.scope, "client": client})
            refused_at_most(lambda connection=connection: proxy.caller(connection))  # type: ignore[misc]


class FixedSecrets:
    async def secrets(self, fresh: str) -> list[str]:
        return ["secret"]


class TestStreamTokens:
    @given(text, st.integers(0, 400), st.integers(0, 255))
    @QUICK
    async def test_others_than_ours(self, given_token: str, at: int, byte: int) -> None:
        tokens = StreamTokens(FixedSecrets(), 60)
        assert await refused_at_most_async(tokens.caller(given_token, "resp_1")) is None
        issued = await tokens.issue("resp_1", "alice")
        caller = await tokens.caller(issued.text, "resp_1")
        assert caller.principal == "alice"
        assert await refused_at_most_async(tokens.caller(issued.text, "resp_2")) is None
        changed = bytearray(issued.text.encode())
        changed[at % len(changed)] = byte
        spoilt = changed.decode("latin-1")
        found = await refused_at_most_async(tokens.caller(spoilt, "resp_1"))
        # The last character of base64 has bits that mean nothing.
        assert found is None or found.principal == "alice"


KEY = ec.generate_private_key(ec.SECP256R1())


@pytest.fixture(scope="module")
def provider() -> OIDCTokens:
    """One whose key is known already: nothing is fetched."""
    tokens = OIDCTokens("https://issuer.example", "us", algorithms=["ES256"])
    tokens._keys = {"k": jwt.PyJWK({**jwk(), "kid": "k", "alg": "ES256"})}
    tokens._fetched = tokens._tried = time.monotonic() + 1e6
    return tokens


def jwk() -> dict[str, Any]:
    return json.loads(jwt.algorithms.ECAlgorithm.to_jwk(KEY.public_key()))  # type: ignore[no-any-return]


def encoded(part: bytes) -> str:
    return base64.urlsafe_b64encode(part).rstrip(b"=").decode()


claims = st.fixed_dictionaries(
    {}, optional=dict.fromkeys(["sub", "scope", "exp", "nbf", "iat", "iss", "aud", "jti"], value)
)


class TestTokensOfProviders:
    @given(claims)
    @example({"scope": 1})
    @example({"scope": True})
    @example({"scope": 1.5})
    @settings(max_examples=60, deadline=None)
    def test_signed_with_odd_claims(self, provider: OIDCTokens, odd_claims: dict[str, Any]) -> None:
        """A scope that was a number was a 500."""
        right = {
            "sub": "alice",
            "exp": int(time.time()) + 60,
            "iss": "https://issuer.example",
            "aud": "us",
        }
        try:
            token = jwt.encode({**right, **odd_claims}, KEY, "ES256", {"kid": "k"})
        except (TypeError, ValueError, jwt.PyJWTError):
            return
        asyncio.run(refused_at_most_async(provider.caller(token)))

    @given(
        st.lists(
            st.binary(max_size=30)
            | value.map(lambda each: json.dumps(each).encode("utf-8", "surrogatepass"))
            | st.sampled_from([b'{"alg":"ES256","kid":"k"}', b'{"alg":"none"}', b'{"kid":[]}'])
            | st.sampled_from([b"[" * 9000, b'{"a":' * 1800, b"9" * 9000, b'{"alg":1,"kid":{}}']),
            max_size=4,
        )
    )
    @example([b"[" * 9000, b"{}", b"x"])
    @settings(max_examples=60, deadline=None)
    def test_others(self, provider: OIDCTokens, parts: list[bytes]) -> None:
        token = ".".join(map(encoded, parts))
        assert asyncio.run(refused_at_most_async(provider.caller(token))) is None

    @given(text)
    @QUICK
    def test_no_tokens_at_all(self, provider: OIDCTokens, token: str) -> None:
        assert asyncio.run(refused_at_most_async(provider.caller(token))) is None


class TestLogLines:
    @given(st.text(st.characters(), max_size=50))
    @QUICK
    def test_one_text_is_one_line(self, given_text: str) -> None:
        shown = one_line(given_text)
        assert len(shown.splitlines()) <= 1
        assert shown.isprintable() or not any(ord(c) < 32 or 127 <= ord(c) < 160 for c in shown)
        shown.encode("utf-8")
