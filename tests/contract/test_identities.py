"""Callers that others vouch for: tokens of an OpenID Connect provider, a proxy's header, and the
application's own answer."""

import json
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import httpx2
import jwt
import pytest
from cryptography.hazmat.primitives.asymmetric import ec, rsa

from tests import servers
from tests.contract.test_access import call, created
from tests.postgres import Server
from tests.servers import Replica

AUDIENCE = "longrun"


@dataclass
class IdentityProvider:
    """An OpenID Connect provider on a socket: its discovery document, its keys, and its tokens."""

    url: str = ""
    private: dict[str, Any] = field(default_factory=dict)
    published: list[dict[str, Any]] = field(default_factory=list)
    fetched: int = 0
    away: bool = False

    def rotate(self, key_id: str, kind: str = "RS256") -> None:
        """Sign with a new key from now on, and publish it alone."""
        if kind == "RS256":
            made: Any = rsa.generate_private_key(public_exponent=65537, key_size=2048)
            public = json.loads(jwt.algorithms.RSAAlgorithm.to_jwk(made.public_key()))
        else:
            made = ec.generate_private_key(ec.SECP256R1())
            public = json.loads(jwt.algorithms.ECAlgorithm.to_jwk(made.public_key()))
        self.private[key_id] = (made, kind)
        self.published[:] = [{**public, "kid": key_id, "use": "sig", "alg": kind}]

    def token(self, key_id: str, **claims: Any) -> str:
        """A token for an hour, unless the claims say otherwise; None leaves one out."""
        private, algorithm = self.private[key_id]
        given = {"iss": self.url, "aud": AUDIENCE, "sub": "alice", "exp": time.time() + 3600}
        given = {name: value for name, value in (given | claims).items() if value is not None}
        return jwt.encode(given, private, algorithm=algorithm, headers={"kid": key_id})

    def answer(self, path: str) -> bytes | None:
        """What it answers to a GET; None: an error."""
        if self.away:
            return None
        if path == "/.well-known/openid-configuration":
            return json.dumps({"issuer": self.url, "jwks_uri": f"{self.url}/keys"}).encode()
        self.fetched += 1
        return json.dumps({"keys": self.published}).encode()


@pytest.fixture(scope="module")
def identities() -> Iterator[IdentityProvider]:
    provider = IdentityProvider()

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            body = provider.answer(self.path)
            self.send_response(200 if body else 503)
            self.send_header("content-length", str(len(body or b"")))
            self.end_headers()
            self.wfile.write(body or b"")

        def log_message(self, *_: Any) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        provider.url = f"http://127.0.0.1:{server.server_address[1]}"
        thread = threading.Thread(target=server.serve_forever, daemon=True)
        thread.start()
        yield provider
        server.shutdown()
        thread.join()


@pytest.fixture(scope="module")
def vouched(database: Server, identities: IdentityProvider) -> Iterator[Replica]:
    """A replica that takes the provider's tokens, and a proxy's word."""
    environment = {
        "LONGRUN_OIDC_ISSUER": identities.url,
        "LONGRUN_OIDC_AUDIENCE": AUDIENCE,
        "LONGRUN_TRUSTED_HEADER": "x-forwarded-user",
        "LONGRUN_TRUSTED_PROXIES": "127.0.0.0/8",
    }
    with servers.replicas(1, database.url, schema="identities", environment=environment) as started:
        yield started[0]


class TestTokens:
    async def test_each_subject_is_a_principal(
        self, vouched: Replica, identities: IdentityProvider
    ) -> None:
        identities.rotate("first")
        alice, bob = identities.token("first"), identities.token("first", sub="bob")
        theirs = await created(vouched, alice)
        assert (await call(vouched, "GET", f"/responses/{theirs}", alice)).is_success
        assert (await call(vouched, "GET", f"/responses/{theirs}", bob)).status_code == 404

    async def test_scopes_of_a_token(self, vouched: Replica, identities: IdentityProvider) -> None:
        reader = identities.token("first", scope="openid read profile")
        body = {"model": "scripted", "input": "hello"}
        assert (await call(vouched, "GET", "/responses", reader)).is_success
        assert (await call(vouched, "POST", "/responses", reader, body)).status_code == 403

    @pytest.mark.parametrize(
        "claims",
        [
            {"exp": time.time() - 120},
            {"exp": None},
            {"aud": "somebody-else"},
            {"aud": None},
            {"iss": "https://elsewhere.example"},
            {"sub": None},
            {"sub": ""},
            {"nbf": time.time() + 600},
        ],
        ids=[
            "over",
            "no end",
            "another audience",
            "no audience",
            "another issuer",
            "nobody",
            "empty",
            "not yet",
        ],
    )
    async def test_what_is_refused(
        self, vouched: Replica, identities: IdentityProvider, claims: dict[str, Any]
    ) -> None:
        answer = await call(vouched, "GET", "/responses", identities.token("first", **claims))
        assert answer.status_code == 401
        error = answer.json()["error"]
        assert set(error) == {"message", "type", "param", "code"}

    async def test_clocks_may_differ_a_little(
        self, vouched: Replica, identities: IdentityProvider
    ) -> None:
        token = identities.token("first", exp=time.time() - 5)
        assert (await call(vouched, "GET", "/responses", token)).is_success

    async def test_algorithms_are_pinned(
        self, vouched: Replica, identities: IdentityProvider
    ) -> None:
        claims = {"iss": identities.url, "aud": AUDIENCE, "sub": "a", "exp": time.time() + 60}
        public = identities.published[0]["n"]
        forged = [
            jwt.encode(claims, None, algorithm="none", headers={"kid": "first"}),
            jwt.encode(claims, public, algorithm="HS256", headers={"kid": "first"}),
            "not.a.token",
            "e30.e30.",
            "x" * 20_000,
        ]
        for token in forged:
            assert (await call(vouched, "GET", "/responses", token)).status_code == 401

    async def test_keys_rotate_and_the_provider_may_be_away(
        self, vouched: Replica, identities: IdentityProvider
    ) -> None:
        old = identities.token("first")
        assert (await call(vouched, "GET", "/responses", old)).is_success
        identities.away = True
        assert (await call(vouched, "GET", "/responses", old)).is_success
        identities.away = False
        identities.rotate("second", "ES256")
        new = identities.token("second")
        deadline = time.monotonic() + 30
        while not (await call(vouched, "GET", "/responses", new)).is_success:
            # Keys are fetched again after some seconds at the soonest.
            assert time.monotonic() < deadline
        assert (await call(vouched, "GET", "/responses", old)).status_code == 401
        fetched = identities.fetched
        for _ in range(20):
            await call(vouched, "GET", "/responses", old)
        assert identities.fetched - fetched <= 1


class TestOwn:
    async def test_the_applications_own_answer(self, database: Server, schema: str) -> None:
        agents = "tests.contract.vouching:agents"
        with servers.replicas(1, database.url, schema=schema, agents=agents) as (replica,):
            alice, bob = {"x-badge": "alice"}, {"x-badge": "bob"}
            body = {"model": "scripted", "input": "hello"}
            made = await call(replica, "POST", "/responses", "", body, alice)
            path = f"/responses/{made.json()['id']}"
            for headers, status in ((alice, 200), (bob, 404), ({}, 401), ({"x-badge": "!"}, 500)):
                answer = await call(replica, "GET", path, "", None, headers)
                assert answer.status_code == status
            assert "badges" not in answer.text
            assert "badges have letters" in replica.output()


class TestProxy:
    async def test_its_word_is_taken(self, vouched: Replica) -> None:
        async with httpx2.AsyncClient(base_url=vouched.base_url) as client:
            alice, bob = ({"x-forwarded-user": name} for name in ("alice", "bob"))
            body = {"model": "scripted", "input": "hello"}
            theirs = (await client.post("/responses", json=body, headers=alice)).json()["id"]
            assert (await client.get(f"/responses/{theirs}", headers=alice)).is_success
            assert (await client.get(f"/responses/{theirs}", headers=bob)).status_code == 404
            twice = [("x-forwarded-user", "alice"), ("x-forwarded-user", "bob")]
            assert (await client.get("/responses", headers=twice)).status_code == 401
            assert (await client.get("/responses")).status_code == 401

    async def test_that_of_others_is_not(self, database: Server, schema: str) -> None:
        environment = {
            "LONGRUN_TRUSTED_HEADER": "x-forwarded-user",
            "LONGRUN_TRUSTED_PROXIES": "10.0.0.0/8 fd00::/8",
        }
        with servers.replicas(1, database.url, schema=schema, environment=environment) as (
            replica,
        ):
            headers = {"x-forwarded-user": "alice"}
            answer = await call(replica, "GET", "/responses", "", None, headers)
            assert answer.status_code == 401
