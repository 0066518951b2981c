"""Callers, keys and what is remembered of them, without a server."""

import asyncio
from collections import Counter
from dataclasses import dataclass, field, replace
from typing import Any

import pytest
from starlette.datastructures import Headers
from starlette.requests import HTTPConnection
from starlette.types import Receive, Scope, Send

from longrun.access import known_keys
from longrun.access.authentication import Authentication, Proxy
from longrun.access.callers import ANYONE, Caller, scopes_of
from longrun.access.keys import NewKey, hash_of, matches, new_key, prefix_of
from longrun.access.known_keys import KnownKeys
from longrun.access.loopback import check_page, is_loopback
from longrun.access.stream_tokens import StreamTokens
from longrun.errors import ConfigurationError, Forbidden, Unauthorized, Unavailable
from longrun.http.access import Access
from longrun.settings import Settings
from longrun.store.keys import StoredKey


@dataclass
class Stored:
    """Keys as Postgres would have them; counts the questions."""

    keys: dict[str, StoredKey] = field(default_factory=dict)
    asked: Counter[str] = field(default_factory=Counter)
    away: bool = False

    def add(self, key: NewKey, **more: Any) -> None:
        given = {
            "scopes": frozenset({"read"}),
            "agent": None,
            "max_runs": None,
            "expires_in": None,
            **more,
        }
        self.keys[key.prefix] = StoredKey(key.prefix, key.hash, "alice", **given)

    async def find(self, prefix: str) -> StoredKey | None:
        self._ask(prefix)
        return self.keys.get(prefix)

    async def exist(self) -> bool:
        self._ask("exist")
        return bool(self.keys)

    def _ask(self, what: str) -> None:
        if self.away:
            raise Unavailable("Postgres is away.")
        self.asked[what] += 1


def connection(
    headers: dict[str, str] | None = None, client: str | None = "127.0.0.1"
) -> HTTPConnection:
    return HTTPConnection(
        {
            "type": "http",
            "headers": Headers(headers or {}).raw,
            "client": (client, 1) if client else None,
        }
    )


class TestKeys:
    def test_one_is_found_by_its_prefix_and_told_by_its_hash(self) -> None:
        key, other = new_key(), new_key()
        assert prefix_of(key.text) == key.prefix != other.prefix
        assert matches(key.text, key.hash)
        assert not matches(key.text, other.hash)
        assert not matches(key.text[:-1] + "?", key.hash)
        assert key.text not in repr(key)

    @pytest.mark.parametrize("text", ["", "none", "sk-proj-1", "lr_abc_def", "lr_" + "a" * 60])
    def test_what_is_none_has_no_prefix(self, text: str) -> None:
        assert prefix_of(text) is None


class TestKnownKeys:
    async def test_a_key_is_asked_about_once(self) -> None:
        stored, key = Stored(), new_key()
        stored.add(key)
        known = KnownKeys(stored, 60)
        for _ in range(3):
            assert await known.caller(key.text) == Caller("alice", frozenset({"read"}), key.prefix)
        assert stored.asked == {key.prefix: 1}
        # A guess with its prefix neither asks again nor does any harm.
        assert await known.caller(f"{key.prefix}_{'A' * 43}") is None
        assert stored.asked == {key.prefix: 1}
        stored.keys.clear()
        assert await known.caller(key.text) is not None
        known.forget()
        assert await known.caller(key.text) is None

    async def test_what_was_forgotten_meanwhile_is_not_remembered(self) -> None:
        stored, key = Stored(), new_key()
        stored.add(key)
        known = KnownKeys(stored, 60)
        found = stored.find

        async def revoked_meanwhile(prefix: str) -> StoredKey | None:
            answer = await found(prefix)
            stored.keys.clear()
            known.forget()
            return answer

        stored.find = revoked_meanwhile  # type: ignore[method-assign]
        assert await known.caller(key.text) is not None
        stored.find = found  # type: ignore[method-assign]
        assert await known.caller(key.text) is None

    async def test_a_key_ends_when_it_expires(self) -> None:
        stored, key = Stored(), new_key()
        stored.add(key, expires_in=0.05)
        known = KnownKeys(stored, 60)
        assert await known.caller(key.text) is not None
        stored.keys.clear()
        async with asyncio.timeout(10):
            while await known.caller(key.text) is not None:
                await asyncio.sleep(0.01)

    async def test_guesses_take_bounded_memory(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(known_keys, "MOST_REMEMBERED", 10)
        known = KnownKeys(Stored(), 60)
        for _ in range(30):
            assert await known.caller(new_key().text) is None
        assert len(known._known) == 10

    async def test_with_postgres_away(self) -> None:
        stored, key = Stored(away=True), new_key()
        known = KnownKeys(stored, 60)
        with pytest.raises(Unavailable):
            await known.exist()
        stored.away = False
        assert not await known.exist()
        stored.add(key)
        known.forget()
        stored.away = True
        assert not await known.exist()
        with pytest.raises(Unavailable):
            await known.caller(key.text)


class TestCallers:
    @pytest.mark.parametrize("principal", ["a" * 201, "a\nb", "a\0"])
    def test_principals_that_cannot_be(self, principal: str) -> None:
        with pytest.raises(ValueError, match="at most 200 characters"):
            Caller(principal)

    def test_scopes(self) -> None:
        reader, admin = Caller("a", frozenset({"read"})), Caller("a", frozenset({"admin"}))
        reader.require("read")
        admin.require("read")
        for caller in (reader, admin):
            with pytest.raises(Forbidden, match="'write'"):
                caller.require("write")
        assert scopes_of(["read", " write"]) == {"read", "write"}
        for names in ([], [""], ["read", "all"]):
            with pytest.raises(ConfigurationError, match="read, write and admin"):
                scopes_of(names)

    @pytest.mark.parametrize(
        ("caller", "principal", "may"),
        [
            (Caller("site"), "site/alice", True),
            (Caller("site"), "sites", False),
            (Caller("site"), "other", False),
            (Caller(""), "/alice", False),
            (Caller("site", agent="a"), "site/alice", False),
            (Caller("root", frozenset({"admin"})), "anybody", True),
        ],
    )
    def test_acting_for_others(self, caller: Caller, principal: str, may: bool) -> None:
        assert caller.may_act_for(principal) is may


class TestLoopback:
    @pytest.mark.parametrize(
        "host", ["127.0.0.1", "127.9.9.9", "::1", "[::1]", "localhost", "a.localhost", "LOCALHOST."]
    )
    def test_this_machine(self, host: str) -> None:
        assert is_loopback(host)

    @pytest.mark.parametrize(
        "host",
        ["0.0.0.0", "::", "10.0.0.1", "", "localhost.example", "127.0.0.1.example", "2130706433"],
    )
    def test_others(self, host: str) -> None:
        assert not is_loopback(host)

    @pytest.mark.parametrize(
        ("headers", "pages", "may"),
        [
            ({"host": "127.0.0.1:8000"}, (), True),
            ({"host": "[::1]:8000", "origin": "http://[::1]:8000"}, (), True),
            ({"host": "127.0.0.1:8000", "origin": "http://127.0.0.1:9000"}, (), False),
            ({"host": "127.0.0.1:8000", "origin": "http://a.example"}, ("http://a.example",), True),
            ({"host": "127.0.0.1:8000", "origin": "http://a.example"}, ("*",), True),
            ({"host": "a.example", "origin": "http://a.example"}, (), False),
            ({"host": "[", "origin": "null"}, (), False),
            ({"origin": ""}, (), False),
        ],
    )
    def test_pages(self, headers: dict[str, str], pages: tuple[str, ...], may: bool) -> None:
        if may:
            check_page(Headers(headers), pages)
        else:
            with pytest.raises(Forbidden):
                check_page(Headers(headers), pages)


class TestAuthentication:
    async def test_without_anything_only_this_machine(self) -> None:
        asked = Authentication(KnownKeys(Stored(), 60))
        assert await asked.caller(connection({"host": "localhost"})) == ANYONE
        with pytest.raises(Unauthorized, match="longrun keys create"):
            await asked.caller(connection({"host": "localhost"}, client="10.0.0.9"))
        assert "--no-auth" in (await asked.refusal_of("0.0.0.0") or "")
        assert await asked.refusal_of("127.0.0.1") is None

    async def test_the_applications_own_comes_first(self) -> None:
        async def who(asked: HTTPConnection) -> Caller | None:
            name = asked.headers.get("x-name")
            return Caller(name) if name else None

        stored, key = Stored(), new_key()
        stored.add(key)
        asked = Authentication(KnownKeys(stored, 60), own=who)
        assert (await asked.caller(connection({"x-name": "bob"}))).principal == "bob"
        bearer = {"authorization": f"bearer  {key.text} "}
        assert (await asked.caller(connection(bearer))).principal == "alice"
        for headers in ({}, {"authorization": "Basic a"}, {"authorization": "Bearer"}):
            with pytest.raises(Unauthorized):
                await asked.caller(connection(headers))

    async def test_what_it_gives_is_checked(self) -> None:
        asked = Authentication(KnownKeys(Stored(), 60), own=lambda _: "bob")  # type: ignore[arg-type, return-value]
        with pytest.raises(TypeError, match="returned a str"):
            await asked.caller(connection())

    @pytest.mark.parametrize(
        ("client", "trusted"),
        [
            ("10.1.2.3", True),
            ("::ffff:10.1.2.3", True),
            ("11.0.0.1", False),
            ("unix", False),
            (None, False),
        ],
    )
    def test_proxies(self, client: str | None, trusted: bool) -> None:
        found = Proxy("x-user", ["10.0.0.0/8"]).caller(connection({"x-user": " bob "}, client))
        assert found == (Caller("proxy:bob") if trusted else None)

    @pytest.mark.parametrize("value", ["", "  ", "a" * 200])
    def test_a_proxy_that_names_nobody(self, value: str) -> None:
        with pytest.raises(Unauthorized):
            Proxy("x-user", ["10.0.0.0/8"]).caller(connection({"x-user": value}, "10.0.0.1"))


class TestSettings:
    @pytest.mark.parametrize(
        ("given", "says"),
        [
            ({"trusted_header": "x-user"}, "LONGRUN_TRUSTED_PROXIES need each other"),
            ({"trusted_proxies": "10.0.0.0/8"}, "LONGRUN_TRUSTED_PROXIES need each other"),
            ({"trusted_proxies": "10.0.0.1/8"}, "no address or network"),
            ({"oidc_issuer": "https://a.example"}, "LONGRUN_OIDC_AUDIENCE need each other"),
            ({"oidc_issuer": "a.example", "oidc_audience": "b"}, "LONGRUN_OIDC_ISSUER"),
        ],
    )
    def test_halves_are_refused(self, given: dict[str, str], says: str) -> None:
        with pytest.raises(ConfigurationError, match=says):
            Settings.load(**given)


def test_a_hash_is_of_the_whole_key() -> None:
    assert hash_of("lr_a") != hash_of("lr_b")
    assert len(hash_of("")) == 32


class TestWhoseLimitsHold:
    def test_ones_own_whomever_one_acts_for(self) -> None:
        website = Caller("website")
        assert website.limited_as == "website"
        assert website.acting_for("website/alice").limited_as == "website"
        assert website.acting_for("website/alice").acting_for("website/bob").limited_as == "website"
        assert Caller("", frozenset({"admin"})).acting_for("alice").limited_as == ""

    async def test_of_a_chat_token_its_creators(self) -> None:
        stored, key = Stored(), new_key()
        stored.add(key, agent="scripted")
        stored.keys[key.prefix] = replace(stored.keys[key.prefix], principal="a/b/user")
        caller = await KnownKeys(stored, 60).caller(key.text)
        assert caller is not None
        assert (caller.principal, caller.limited_as) == ("a/b/user", "a/b")


class TestPaths:
    @pytest.mark.parametrize("mounted", ["", "/agents"])
    async def test_public_ones_ask_nobody_wherever_it_is_mounted(self, mounted: str) -> None:
        """Mounted, everything needed a key: health checks, and the page that asks for one."""
        stored, reached = Stored(), []
        stored.add(new_key())

        async def app(scope: Scope, receive: Receive, send: Send) -> None:
            reached.append(scope["path"])

        access = Access(
            app,
            authentication=Authentication(KnownKeys(stored, 60)),
            stream_tokens=StreamTokens(NoSecrets(), 60),
        )

        async def ask(path: str) -> None:
            scope = {
                "type": "http",
                "method": "GET",
                "path": mounted + path,
                "root_path": mounted,
                "query_string": b"",
                "headers": [],
                "client": ("127.0.0.1", 1),
            }
            await access(scope, _nothing, _nothing)

        public = ["/", "/healthz", "/console/console.js"]
        for path in public:
            await ask(path)
        assert reached == [mounted + path for path in public]
        with pytest.raises(Unauthorized):
            await ask("/models")


class NoSecrets:
    async def secrets(self, fresh: str) -> list[str]:
        return [fresh]


async def _nothing(*_: Any) -> Any:
    raise AssertionError("nothing is read or sent")
