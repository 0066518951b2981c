"""Every client's first turn, and its second and third, in all the ways in which it can go on.

The models of the agents are the provider's (`tests/provider`), which refuses what real ones refuse.
The turns of a conversation go to two replicas in turn.
"""

import json
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import pytest

from tests import servers
from tests.contract.clients.installed import CLIENTS, Client
from tests.postgres import Server
from tests.provider import agents as served
from tests.provider.server import Provider
from tests.servers import Replica

LOOK = {"call": "look", "arguments": {"word": "cat"}}
CLIENT_LOOK = {"call": "client_look", "arguments": {"word": "dog"}}

BY_NAME = {client.name: client for client in CLIENTS}


@dataclass(frozen=True)
class Case:
    """A conversation, and what of it must be so.

    Attributes:
        scripts: what the model does at each turn of the user's (`tests/provider/script.py`).
        texts: what the client must have as the text of each; None is not looked at.
        executed: the words that the client's own tool must have looked up.
        fields: for `driver.Case`.
    """

    name: str
    model: str
    scripts: tuple[dict[str, Any], ...]
    texts: tuple[str | None, ...]
    executed: tuple[str, ...] = ()
    fields: tuple[tuple[str, Any], ...] = ()

    def of(self, client: Client) -> dict[str, Any]:
        """As the client's script is told of it."""
        marked = [json.dumps({**script, "case": self.mark(client)}) for script in self.scripts]
        return {"name": self.name, "model": self.model, "turns": marked, **dict(self.fields)}

    @property
    def asked(self) -> int:
        """How often the model is asked for it, when nothing is done twice."""
        turns = [script.get("turns", ()) for script in self.scripts]
        ended = [bool(each) and not any("call" in e for e in each[-1]) for each in turns]
        return sum(len(each) + (0 if end else 1) for each, end in zip(turns, ended, strict=True))

    def mark(self, client: Client) -> str:
        """Is in all that the user says, so that the provider's requests can be told apart."""
        return f"{client.name}: {self.name}"


def first_turns(family: str, stream: bool) -> Iterator[Case]:
    """One turn: nothing but text, a tool of the server's, one of the client's, both."""
    how = "stream" if stream else "plain"
    fields = (("stream", stream),)
    with_tools = (*fields, ("tools", True))

    def case(what: str, kind: str, turns: list[Any], *rest: Any) -> Case:
        told = {"turns": turns, "then": "the end"}
        return Case(f"{family} {what} {how}", f"{family}-{kind}", (told,), ("the end",), *rest)

    yield case("text", "plain", [], (), fields)
    yield case("server tool", "tools", [[LOOK, LOOK]], (), fields)
    yield case("client tool", "plain", [[CLIENT_LOOK]], ("dog",), with_tools)
    yield case("both tools", "tools", [[LOOK], [CLIENT_LOOK]], ("dog",), with_tools)


def structured(family: str, stream: bool) -> Case:
    """An answer by a JSON schema; the provider's model gives the smallest one."""
    name = f"{family} structured {'stream' if stream else 'plain'}"
    fields = (("stream", stream), ("structured", True))
    text = '{"city": "text", "degrees": 1}'
    return Case(name, f"{family}-plain", ({"turns": []},), (text,), (), fields)


TURNS: dict[str, list[Any]] = {
    "plain": [],
    "tools": [[LOOK]],
    "reasoning": [[{"reasoning": "hm"}, {"text": "so"}]],
    "hosted": [[{"web_search": "cats"}, {"text": "so"}]],
}
"""What happens in each of three turns, by the kind of agent."""


def conversations(family: str, kind: str, history: str, stream: bool) -> Iterator[Case]:
    """Three turns, the last of which shows what the model was given."""
    turns = TURNS[kind]
    said = [{"turns": turns, "then": "first"}, {"turns": turns, "then": "second"}, {"show": True}]
    text = "so" if kind in ("reasoning", "hosted") else None
    name = f"{family} {kind} by {history}" + (" stream" if stream else "")
    fields = (("stream", stream), ("history", history), ("hosted", kind == "hosted"))
    yield Case(
        name,
        f"{family}-{kind}",
        tuple(said),
        (text or "first", text or "second", None),
        (),
        fields,
    )


def cases(client: Client) -> list[Case]:
    made: list[Case] = []
    for family in ("responses", "chat"):
        for stream in (False, True):
            made += first_turns(family, stream)
            made.append(structured(family, stream))
        for history in client.histories:
            for kind in TURNS:
                if kind != "hosted" or family == "responses":
                    made += conversations(family, kind, history, False)
            made += conversations(family, "tools", history, True)
    return made


ALL = {(client.name, case.name): case for client in CLIENTS for case in cases(client)}


@pytest.fixture(scope="package")
def replicas(database: Server, running_provider: Provider) -> Iterator[list[Replica]]:
    """Two replicas with the agents of `tests/provider`."""
    with servers.replicas(
        2,
        database.url,
        schema="clients",
        agents=served.AGENTS,
        environment=served.environment(running_provider),
    ) as started:
        yield started


@pytest.fixture(scope="package")
def showing_pairs(database: Server, running_provider: Provider) -> Iterator[list[Replica]]:
    """One that shows the server's calls as `function_call` and `function_call_output`."""
    environment = served.environment(running_provider)
    with servers.replicas(
        1,
        database.url,
        schema="clients_pairs",
        agents=served.AGENTS,
        environment={**environment, "LONGRUN_SERVER_TOOLS": "function_call"},
    ) as started:
        yield started


@pytest.fixture(scope="package")
def saw(replicas: list[Replica]) -> Callable[[Client], dict[str, dict[str, Any]]]:
    """What a client saw in all its cases, which are played at the first question."""
    played: dict[str, dict[str, dict[str, Any]]] = {}

    def play(client: Client) -> dict[str, dict[str, Any]]:
        if client.name not in played:
            told = [case.of(client) for (name, _), case in ALL.items() if name == client.name]
            played[client.name] = client.play([r.base_url for r in replicas], told)
        return played[client.name]

    return play


def require(client: Client) -> None:
    if not client.needs.exists():
        pytest.skip(f"{client.name} is not installed: make clients")


@pytest.mark.parametrize("client", CLIENTS, ids=lambda client: client.name)
def test_it_is_installed(client: Client) -> None:
    """Where CI runs, always: nothing is skipped there."""
    if os.environ.get("CI") == "true":
        assert client.needs.exists(), f"{client.name} is not installed: make clients"
    require(client)


@pytest.mark.parametrize(("name", "case"), list(ALL))
def test_client(
    saw: Callable[[Client], dict[str, dict[str, Any]]],
    running_provider: Provider,
    name: str,
    case: str,
) -> None:
    client, wanted = BY_NAME[name], ALL[name, case]
    require(client)
    found = saw(client)[case]
    mark = f'"case": "{wanted.mark(client)}"'
    asked = [each for each in running_provider.asked if mark in str(each.body)]
    refused = [each.refusal for each in asked if each.refusal]
    assert refused == []
    assert found["error"] is None
    assert len(found["texts"]) == len(wanted.texts)
    for text, expected in zip(found["texts"], wanted.texts, strict=True):
        assert expected is None or text == expected
    assert found["executed"] == list(wanted.executed)
    assert len(asked) == wanted.asked
    if len(wanted.texts) == 3:
        check_context(json.loads(found["texts"][-1]), wanted)


@pytest.mark.parametrize(
    "client",
    [client for client in CLIENTS if client.name.startswith("openai")],
    ids=lambda client: client.name,
)
def test_openai_s_clients_read_pairs_too(showing_pairs: list[Replica], client: Client) -> None:
    """By `responses.stream()`, which is strict, and by what it is given in the next turns."""
    require(client)
    names = ("responses server tool stream", "responses tools by whole stream")
    told = [ALL[client.name, name].of(client) for name in names]
    saw = client.play([showing_pairs[0].base_url], told)
    assert [saw[name]["error"] for name in names] == [None, None]
    assert saw[names[0]]["texts"] == ["the end"]
    given = json.loads(saw[names[1]]["texts"][-1])
    kinds = [item.get("type") for item in given]
    assert kinds.count("function_call") == kinds.count("function_call_output") == 2


def check_context(given: list[dict[str, Any]], case: Case) -> None:
    """What the model was given at the third turn: all that was said, once each and in order."""
    said = []
    for item in given:
        content = item.get("content")
        if item.get("role") in ("user", "assistant") and content:
            parts = [content] if isinstance(content, str) else [p.get("text") for p in content]
            said.append((item["role"], "".join(parts)))
    assert [role for role, _ in said] == ["user", "assistant", "user", "assistant", "user"]
    assert [text for role, text in said if role == "assistant"] == list(case.texts[:2])
    assert "provider_data" not in json.dumps(given)
