"""Forks: the steps of a stored run, numbered for people, and what of them a fork begins with.

A step is a model turn, or a call of it that is executed here; they are numbered in the order of the
turns, and within a turn in that of its calls. A fork from step N has all finished steps up to N in
its journal, under scopes of their own (`COPIED`): its run passes them as a takeover does, but shows
them, and records them as its own when it does (`replay/`). What is behind N is done anew.
"""

import contextlib
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Final, Literal

from agents.usage import Usage, serialize_usage

from longrun.errors import BadRequest
from longrun.execution.replay.call_ids import CALLS
from longrun.execution.replay.references import resolve
from longrun.execution.replay.results import recorded_output
from longrun.execution.replay.scope import key_of
from longrun.history.cleaning import kind_of
from longrun.history.mending import answered_by
from longrun.jsontext import dumps, loads
from longrun.store.forks import Copied, Numbered, Recorded, Source
from longrun.store.records import Step

JSONObject = dict[str, Any]

COPIED: Final = "fork:"
"""Before the scope of a step that a fork has not passed yet, so not recorded as its own."""

FIRST_CHARACTERS: Final = 200
"""Of what a turn has said, or of the arguments of a call, that are shown in a list."""

PARAM: Final = "longrun.fork.step"


def parted(steps: Iterable[Step]) -> tuple[list[Step], list[Step]]:
    """The steps that a response has recorded, and those that it was forked with."""
    own, copied = [], []
    for step in steps:
        if step.scope.startswith(COPIED):
            copied.append(step._replace(scope=step.scope.removeprefix(COPIED)))
        else:
            own.append(step)
    return own, copied


def course_of(source: Source) -> "Course":
    """The steps of a run. Takes as long as reading all of them as JSON does: beside the loop.

    Raises:
        BadRequest: they are not those of an agent's run.
    """
    request = source.request
    tools = request.parameters.get("tools") or ()
    return Course(source.steps, source.items, {tool["name"] for tool in tools})


@dataclass(slots=True)
class _Turn:
    """A model turn that is recorded: the number of its step, what it gave, the calls of it that are
    executed here, and where the items of these are."""

    number: int
    step: int
    agent: str
    said: str
    calls: list[JSONObject]
    indexes: dict[str, int]
    at: float


class Course:
    """The steps of one run.

    Args:
        recorded: all that is recorded of it.
        items: its finished output items, by output index.
        client_tools: the names of the tools that the client executes.

    Attributes:
        steps: as people count them.
    """

    def __init__(
        self, recorded: Iterable[Recorded], items: dict[int, str], client_tools: set[str]
    ) -> None:
        self._known: dict[tuple[str, str, str], Recorded] = {}
        self._items = items
        self._client_tools = client_tools
        own: list[Recorded] = []
        copied: list[Recorded] = []
        for each in recorded:
            (copied if each.step.scope.startswith(COPIED) else own).append(each)
        for step, at in [*copied, *own]:
            # What a guardrail refused is not kept, and neither is a step that refers to it.
            with contextlib.suppress(KeyError):
                [whole] = resolve([step], items)
                scope = whole.scope.removeprefix(COPIED)
                whole = whole._replace(scope=scope)
                self._known[scope, step.kind, step.key] = Recorded(whole, at)
        self._check_numbered()
        self._turns = list(self._read_turns())
        self.steps = [step for turn in self._turns for step in self._steps_of(turn)]

    def _check_numbered(self) -> None:
        """A handler's steps say what kind of its own they are, and have no order of turns."""
        of_run = (each.step for place, each in self._known.items() if place[0] == "")
        if any("step" in loads(step.fingerprint) for step in of_run):
            raise BadRequest(
                "A handler's response can be forked only from step 0: only agents have numbered "
                "steps.",
                param=PARAM,
                code="fork_of_handler",
            )

    def _read_turns(self) -> Iterator[_Turn]:
        number, steps = 0, 1
        while (recorded := self._known.get(("", "model", str(number)))) is not None:
            step = recorded.step
            agent = loads(step.fingerprint)["agent"]
            calls = loads(step.result).get("calls", {})
            indexes = {call_id: call[0] for call_id, call in calls.items()}
            output = recorded_output(step.result)
            made = self._calls(output)
            yield _Turn(number, steps, agent, _said(output), made, indexes, recorded.at)
            number, steps = number + 1, steps + 1 + len(made)

    def _steps_of(self, turn: _Turn) -> Iterator[Numbered]:
        of, said = turn.number, turn.said
        yield Numbered(turn.step, "model", of, turn.agent, None, said, True, turn.at)
        for number, call in enumerate(turn.calls, turn.step + 1):
            kind, recorded = self._of_call(turn, call)
            at = recorded.at if recorded is not None else None
            finished = recorded is not None or self._has_ended(turn, call)
            yield Numbered(
                number,
                kind,
                turn.number,
                str(call.get("name") or call["type"]),
                call.get("call_id"),
                _asked(call),
                finished,
                at,
            )

    def _calls(self, output: list[JSONObject]) -> list[JSONObject]:
        """The calls of a turn that are executed here."""
        answered = {answered_by(item) for item in output}
        return [
            item
            for item in output
            if kind_of(item) in CALLS
            and (kind_of(item), str(item.get("call_id"))) not in answered
            and item.get("name") not in self._client_tools
        ]

    def _of_call(
        self, turn: _Turn, call: JSONObject
    ) -> tuple[Literal["tool", "handoff"], Recorded | None]:
        led = self._known.get(("", "handoff", str(turn.number)))
        if led is not None and loads(led.step.fingerprint).get("tool") == call.get("name"):
            return "handoff", led
        return "tool", self._known.get(("", "tool", _key(call)))

    def _has_ended(self, turn: _Turn, call: JSONObject) -> bool:
        """Of what is recorded by its inner steps: whether it gave something."""
        if turn.number + 1 < len(self._turns):
            return True
        return turn.indexes.get(str(call.get("call_id")), -1) in self._items

    # -- forks ----------------------------------------------------------------------------

    def fork(self, number: int) -> Copied:
        """What a fork from a step begins with. 0: with nothing, from the start.

        Raises:
            BadRequest: there is no such step, or it is not finished.
        """
        if number == 0:
            return Copied([], -1)
        if number > len(self.steps):
            has = f"has {len(self.steps)}" if self.steps else "has none"
            raise BadRequest(
                f"There is no step {number}: the response {has} so far that are kept.",
                param=PARAM,
                code="step_not_found",
            )
        last = self.steps[number - 1]
        if not last.finished:
            raise BadRequest(
                f"Step {number} ({last.name}) is not finished.",
                param=PARAM,
                code="step_not_finished",
            )
        if any(kind == "session" for _, kind, _ in self._known):
            raise BadRequest(
                "The response has used a session of the application, which cannot be rewound to a "
                "step: fork it from step 0.",
                param=PARAM,
                code="fork_with_session",
            )
        turns = [self._known["", "model", str(turn)].step for turn in range(last.turn + 1)]
        if any("steered" in loads(step.fingerprint) for step in turns):
            raise BadRequest(
                "Messages were put into the response before that step: fork it from an "
                "earlier one.",
                param=PARAM,
                code="fork_of_steered",
            )
        return Copied(self._copies(last), last.turn)

    def _copies(self, last: Numbered) -> list[Step]:
        calls = {
            _key(call): place
            for turn in self._turns
            for place, call in enumerate(turn.calls, turn.step + 1)
        }
        later = self._turns[last.turn + 1].at if last.turn + 1 < len(self._turns) else None
        handoffs = {s.turn for s in self.steps[: last.step] if s.kind == "handoff"}

        def is_before(step: Step, at: float) -> bool:
            """Whether a step is one of those up to the last."""
            if step.scope == "" and step.kind == "model":
                return step.key.isdigit() and int(step.key) <= last.turn
            if step.scope == "" and step.kind == "handoff":
                return int(step.key) in handoffs
            if step.kind in ("session", "input"):
                return False
            key = step.key if step.scope == "" else step.scope.split("/")[1]
            if key in calls or step.scope == "":
                return calls.get(key, last.step + 1) <= last.step
            # Of a guardrail, which is told from a call by nothing else: when it was.
            return later is None or at < later

        return [
            step._replace(scope=COPIED + step.scope, result=_unspent(step))
            for step, at in self._known.values()
            if is_before(step, at)
        ]


def _key(call: JSONObject) -> str:
    return key_of(str(call.get("call_id") or call.get("id")))


def _unspent(step: Step) -> str:
    """The result of a step, without what it has used: its response has counted that."""
    if step.kind != "model":
        return step.result
    recorded = loads(step.result)
    if "response" in recorded:
        recorded["response"]["usage"] = None
    elif "usage" in recorded:
        recorded["usage"] = serialize_usage(Usage())
    return dumps(recorded).decode()


def _said(output: Sequence[JSONObject]) -> str:
    texts = (
        str(part.get("text") or part.get("refusal") or "")
        for item in output
        if kind_of(item) == "message"
        for part in item.get("content") or ()
    )
    return "".join(texts)[:FIRST_CHARACTERS]


def _asked(call: JSONObject) -> str:
    asked = next((call[name] for name in ("arguments", "input") if call.get(name)), "")
    return str(asked)[:FIRST_CHARACTERS]
