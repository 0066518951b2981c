"""Two tenants on two replicas, each step at random, beside a model of who has what."""

import json
from dataclasses import dataclass
from typing import Any

from hypothesis import seed
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, precondition, rule

from longrun.protocol import is_terminal
from tests.fuzz.api import usual, walk
from tests.fuzz.ground import Found, Ground, Tenant
from tests.reading import script

scripts = st.builds(
    script,
    deltas=st.integers(0, 5),
    pause=st.sampled_from([0.0, 0.01]),
    hold=st.sampled_from([0.0, 0.0, 0.3]),
    turns=st.lists(st.lists(st.just(["echo", {"text": "a"}]), min_size=1, max_size=2), max_size=2),
)
who = st.runner().flatmap(lambda machine: st.integers(0, len(machine.ground.tenants) - 1))
pick = st.integers(0, 50)


@dataclass
class Thing:
    """A response or a conversation that was made."""

    id: str
    owner: int
    background: bool = True
    deleted: bool = False
    following: int = 0


class Journeys(RuleBasedStateMachine):
    """Everything that a client does with responses and conversations."""

    ground: Ground

    def __init__(self) -> None:
        super().__init__()
        self.ground.said.clear()
        self.responses: list[Thing] = []
        self.conversations: list[Thing] = []

    def ask(self, tenant: int, method: str, path: str, **more: Any) -> Any:
        replica = len(self.responses) + len(self.conversations)
        return self.ground.ask(self.ground.tenants[tenant], method, path, replica, **more)

    def expect(self, thing: Thing, tenant: int, answer: Any, *statuses: int) -> bool:
        """Whether the thing was there for a tenant; one of `statuses` if it was, else a 404."""
        there = thing.owner == tenant and not thing.deleted
        expected = statuses if there else (404,)
        if answer.status not in expected:
            raise Found(f"{answer.status} where {expected} is right: {answer.text[:300]}")
        return there

    @rule(
        tenant=who, text=scripts, mode=st.sampled_from(["background", "stream", "plain"]), of=pick
    )
    def create(self, tenant: int, text: str, mode: str, of: int) -> None:
        canary = self.ground.tenants[tenant].canary
        body: dict[str, Any] = {"model": "scripted", "input": text, "metadata": {"c": canary}}
        body.update({} if mode == "plain" else {mode: True})
        previous = self.responses[of % len(self.responses)] if self.responses and of % 3 else None
        on = self.conversations[of % len(self.conversations)] if self.conversations else None
        if previous is not None:
            body["previous_response_id"] = previous.id
        elif on is not None:
            body["conversation"] = on.id
        answer = self.ask(tenant, "POST", "/responses", json=body)
        used = previous or on
        theirs = used is None or (used.owner == tenant and not used.deleted)
        if not theirs and answer.status not in (400, 404):
            raise Found(f"a response goes on from what is not theirs: {answer.text[:300]}")
        if answer.status != 200:
            if used is None:
                raise Found(f"not created: {answer.text[:300]}")
            return
        if mode == "stream":
            first = next(line for line in answer.text.splitlines() if line.startswith("data: "))
            id_ = json.loads(first[6:])["response"]["id"]
            check_whole(answer.text)
        else:
            id_ = answer.json()["id"]
        self.responses.append(Thing(id_, tenant, mode == "background"))

    @rule(tenant=who)
    def converse(self, tenant: int) -> None:
        canary = self.ground.tenants[tenant].canary
        body = {"items": [{"role": "user", "content": canary}]}
        made = self.ask(tenant, "POST", "/conversations", json=body).json()
        self.conversations.append(Thing(made["id"], tenant))

    @precondition(lambda self: self.responses)
    @rule(tenant=who, of=pick, rest=st.sampled_from(["", "/input_items", "/input_items?limit=1"]))
    def get(self, tenant: int, of: int, rest: str) -> None:
        thing = self.responses[of % len(self.responses)]
        self.expect(thing, tenant, self.ask(tenant, "GET", f"/responses/{thing.id}{rest}"), 200)

    @precondition(lambda self: self.responses)
    @rule(tenant=who, of=pick, after=st.none() | st.integers(0, 30), by_header=st.booleans())
    def follow(self, tenant: int, of: int, after: int | None, by_header: bool) -> None:
        thing = self.responses[of % len(self.responses)]
        path, headers = f"/responses/{thing.id}?stream=true", {}
        if after is not None and by_header:
            headers["last-event-id"] = str(after)
        elif after is not None:
            path += f"&starting_after={after}"
        answer = self.ask(tenant, "GET", path, headers=headers)
        if self.expect(thing, tenant, answer, 200, 204) and answer.status == 200:
            check_whole(answer.text, after)

    @precondition(lambda self: self.responses)
    @rule(tenant=who, of=pick)
    def cancel(self, tenant: int, of: int) -> None:
        thing = self.responses[of % len(self.responses)]
        answer = self.ask(tenant, "POST", f"/responses/{thing.id}/cancel")
        there = self.expect(thing, tenant, answer, 200 if thing.background else 400)
        if there and thing.background and not is_terminal(answer.json()["status"]):
            raise Found(f"cancelled and not ended: {answer.text[:300]}")

    @precondition(lambda self: self.responses)
    @rule(tenant=who, of=pick)
    def delete(self, tenant: int, of: int) -> None:
        thing = self.responses[of % len(self.responses)]
        answer = self.ask(tenant, "DELETE", f"/responses/{thing.id}")
        thing.deleted |= self.expect(thing, tenant, answer, 200)

    @precondition(lambda self: self.responses and not self.ground.keyless)
    @rule(tenant=who, of=pick, bad=st.booleans())
    def read_with_token(self, tenant: int, of: int, bad: bool) -> None:
        thing = self.responses[of % len(self.responses)]
        answer = self.ask(tenant, "POST", f"/responses/{thing.id}/stream_token")
        if not self.expect(thing, tenant, answer, 200):
            return
        token = answer.json()["token"]
        others = self.responses[(of + 1) % len(self.responses)]
        target = others if bad else thing
        path = f"/responses/{target.id}?stream=true&token={token}"
        owner: Tenant | None = self.ground.tenants[thing.owner]
        read = self.ground.ask(owner, "GET", path, headers={"authorization": ""})
        if (read.status == 200) is not (target.id == thing.id):
            raise Found(f"a token for {thing.id} read {target.id}: {read.status}")

    @precondition(lambda self: not self.ground.keyless)
    @rule(tenant=who, user=st.sampled_from(["u", "v"]))
    def chat(self, tenant: int, user: str) -> None:
        """A page's token: what it makes is of its user, whom only its maker may act for."""
        name = self.ground.tenants[tenant].name
        asked = {"model": "scripted", "user": user, "max_runs": 1}
        token = self.ask(tenant, "POST", "/chat_tokens", json=asked).json()["token"]
        bearer = {"authorization": f"Bearer {token}"}
        body = {"input": "hello", "background": True}
        made = self.ask(tenant, "POST", "/responses", json=body, headers=bearer).json()
        path, acting = f"/responses/{made['id']}", {"longrun-principal": f"{name}/{user}"}
        for who_asks, method, headers, status in (
            (tenant, "GET", bearer, 200),
            (tenant, "GET", {}, 404),
            (1 - tenant, "GET", {}, 404),
            (1 - tenant, "GET", acting, 403),
            (tenant, "GET", {**bearer, "longrun-principal": name}, 403),
            (tenant, "DELETE", acting, 200),
        ):
            answer = self.ask(who_asks, method, path, headers=headers)
            if answer.status != status:
                raise Found(f"{answer.status} where {status} is right: {answer.text[:300]}")
        again = self.ask(tenant, "POST", "/responses", json=body, headers=bearer)
        if again.status != 403 or again.json()["error"]["code"] != "no_runs_left":
            raise Found(f"a token made more than one run: {again.text[:300]}")

    @rule(tenant=who, limit=st.integers(1, 5), order=st.sampled_from(["asc", "desc"]))
    def list_all(self, tenant: int, limit: int, order: str) -> None:
        seen: list[str] = []
        path = f"/responses?limit={limit}&order={order}"
        page = self.ask(tenant, "GET", path).json()
        while page["data"]:
            seen += [each["id"] for each in page["data"]]
            page = self.ask(tenant, "GET", f"{path}&after={page['last_id']}").json()
        mine = {each.id for each in self.responses if each.owner == tenant and not each.deleted}
        theirs = {each.id for each in self.responses} - mine
        if not mine <= set(seen) or theirs & set(seen) or len(seen) != len(set(seen)):
            raise Found(f"the list of responses is {seen}, and should have {sorted(mine)}")

    @precondition(lambda self: self.conversations)
    @rule(tenant=who, of=pick, what=st.sampled_from(["get", "items", "add", "update", "delete"]))
    def on_conversation(self, tenant: int, of: int, what: str) -> None:
        thing = self.conversations[of % len(self.conversations)]
        path = f"/conversations/{thing.id}"
        if what == "delete":
            answer = self.ask(tenant, "DELETE", path)
        elif what == "update":
            answer = self.ask(tenant, "POST", path, json={"metadata": {"a": "b"}})
        elif what == "add":
            body = {"items": [{"role": "user", "content": "more"}]}
            answer = self.ask(tenant, "POST", f"{path}/items", json=body)
        else:
            answer = self.ask(tenant, "GET", path + ("/items" if what == "items" else ""))
        if self.expect(thing, tenant, answer, 200) and what == "delete":
            thing.deleted = True


def check_whole(text: str, after: int | None = None) -> None:
    """Whether a stream that ended has each number once, in order, from its cursor on."""
    if "data: [DONE]" not in text:
        raise Found(f"a stream without an end: {text[-200:]!r}")
    lines = [line[6:] for line in text.splitlines() if line.startswith("data: {")]
    numbers = [json.loads(line)["sequence_number"] for line in lines]
    first = 0 if after is None else after + 1
    if numbers != list(range(first, first + len(numbers))):
        raise Found(f"a stream after {after} has the numbers {numbers}")


def journeys(ground: Ground, number: int, examples: int) -> None:
    """Clients at random, beside a model of what should be."""
    machine = ground.once("journeys", lambda: type("Here", (Journeys,), {"ground": ground}))
    walk(seed(number)(machine), usual(examples, stateful_step_count=15))
