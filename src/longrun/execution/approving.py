"""The approvals of one run: what it asks for when it ends, and the answers that it goes on with."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from agents import Agent, RunResultStreaming
from agents.run_state import RunState
from openai.types.responses import Response

from longrun import ids
from longrun.assembly.assembler import Assembler
from longrun.errors import LongrunError
from longrun.execution import run_states
from longrun.execution.display import Display
from longrun.execution.parked import FORMAT, WRITTEN_BY, unreadable
from longrun.execution.replay.journal import Journal, fingerprint
from longrun.execution.replay.results import encode_response
from longrun.execution.replay.steps import Steps
from longrun.execution.run_states import NO_LONGER_FITS, PausedCall, Waiting
from longrun.execution.steering import items_of
from longrun.history.approvals import REQUEST, Answer, answers_to
from longrun.history.continuation import told
from longrun.jsontext import dumps, loads
from longrun.pieces import at_once
from longrun.protocol import Context, RunRequest
from longrun.store.approvals import Approvals
from longrun.store.records import Parked, Step
from longrun.store.responses import Responses
from longrun.store.run_log import OUTPUT_ITEMS, check_size
from longrun.store.steers import Steers

JSONObject = dict[str, Any]

GONE: Final = "The response that asked for the approval was deleted, or has expired."

KEY: Final = ""
"""The key of the step that shows again the calls with which a run goes on. It is kept as a model
turn is, since they are of one; but that was none of this response's."""


@dataclass(frozen=True, slots=True)
class GoesOn:
    """What a run goes on from.

    Attributes:
        state: what was parked (`Approving.park`).
        context: that of the response with which the run began.
        answers: by the output indexes of the requests.
        response_id: the response that asked.
        client_tools: those of that response.
        said: messages that were put into that response when it was about to ask, or had asked.
    """

    state: JSONObject
    context: Context
    answers: Mapping[int, Answer]
    response_id: str
    client_tools: list[JSONObject]
    said: list[JSONObject] = field(default_factory=list)

    @property
    def begins_with(self) -> str:
        """The name of the agent with which the run began."""
        return str(self.state["begins_with"])

    def with_more(self, request: RunRequest) -> Context:
        """The context of the run, and what comes with the answers."""
        own = request.context or Context()
        more = own.items[len(own.items) - own.own :]
        models = {**self.context.models, **own.models}
        return Context([*self.context.items, *more], models, len(more))


async def read_parked(
    request: RunRequest,
    response_id: str,
    approvals: Approvals,
    responses: Responses,
    steers: Steers,
) -> GoesOn:
    """What the run of a request goes on from, as it stands now.

    Raises:
        LongrunError: it was deleted, or cannot be read by this version.
        Unavailable: Postgres is away.
    """
    parked = await approvals.parked_unscoped(response_id)
    asked = await approvals.asked(response_id, request.principal)
    if parked is None or asked is None:
        raise LongrunError(GONE)
    problem = unreadable(parked.format, parked.written_by)
    if problem is not None:
        raise LongrunError(problem)
    state = loads(parked.state)
    if "run_state" not in state:
        raise LongrunError(NO_LONGER_FITS)
    began = asked
    if state["began"] != response_id:
        first = await approvals.asked(state["began"], request.principal)
        if first is None:
            raise LongrunError(GONE)
        began = first
    context = (await responses.histories.with_context(began)).context
    put_in = await steers.of_unscoped(response_id)
    return GoesOn(
        state,
        context or Context(),
        answers_to(request.input, response_id),
        response_id,
        asked.parameters.get("tools") or [],
        items_of(each for each in put_in if each.output_index is None),
    )


class Approving:
    """The approvals of one attempt.

    Args:
        goes_on: None for a run that begins anew.
        max_turns: how many more model turns it may take.
    """

    def __init__(
        self,
        request: RunRequest,
        assembler: Assembler,
        display: Display,
        journal: Journal,
        steps: Steps,
        goes_on: GoesOn | None,
        *,
        max_turns: int,
        max_item_bytes: int,
    ) -> None:
        self._request = request
        self._assembler = assembler
        self._display = display
        self._journal = journal
        self._steps = steps
        self._goes_on = goes_on
        self._max_turns = max_turns
        self._max_bytes = max_item_bytes * OUTPUT_ITEMS
        own: list[JSONObject] = request.parameters.get("tools") or []
        names = {tool["name"] for tool in own}
        before = goes_on.client_tools if goes_on is not None else []
        self.client_tools = [*own, *(tool for tool in before if tool["name"] not in names)]
        """The client's own tools, those of the response that asked among them."""
        self.client_outputs = {
            item["call_id"]: run_states.as_tool_output(item.get("output"))
            for item in request.input
            if goes_on is not None and item.get("type") == "function_call_output"
        }
        """By call id, what the client's own tools gave, of calls that wait beside the others."""
        if goes_on is not None:
            self._remember(goes_on.state)

    def _remember(self, state: JSONObject) -> None:
        """Who gave what in the run so far."""
        for minted, given, origin in state["call_ids"]:
            self._steps.call_ids.bring({minted: given}, origin)
        for item_id, origin in state["given_by"].items():
            self._steps.models.border.came_in([{"id": item_id}], origin)

    # -- going on -------------------------------------------------------------------------

    async def resumed(
        self, agent: Agent[Any], items: list[Any], context: Any
    ) -> RunState[Any, Any]:
        """The run that waited, with what it was answered. Its calls that go on are shown again.

        Args:
            items: what it began with, as this request has it.
            context: the application's.

        Raises:
            LongrunError: what was parked does not fit the agent.
        """
        assert self._goes_on is not None
        parked = self._goes_on.state
        state: JSONObject = {"original_input": items, **parked["run_state"]}
        state["max_turns"] = state["current_turn"] + self._max_turns
        waiting = run_states.waiting_in(state)
        answers = {
            place: self._goes_on.answers[index]
            for place, index in enumerate(parked["requests"])
            if index in self._goes_on.answers
        }
        by_client = {
            place: Answer(True)
            for place, each in enumerate(waiting)
            if parked["requests"][place] is None and each.raw.get("call_id") in self.client_outputs
        }
        paused = run_states.paused_calls(state, waiting)
        restored = await run_states.restored(agent, state, context)
        run_states.answer(restored, answers | by_client)
        own = self._request.context
        more = told(Context(own.items[len(own.items) - own.own :], own.models)) if own else []
        if self._goes_on.said:
            run_states.add_said(restored, self._goes_on.said)
        if more:
            run_states.add_input(restored, more)
        self._assembler.answered_elsewhere(waiting[n].raw["call_id"] for n in by_client)
        going_on = [call for call in paused if any(place in answers for place in call.waits)]
        self._show(going_on, waiting, answers, str(state["current_agent"]["name"]))
        return restored

    def _show(
        self,
        calls: list[PausedCall],
        waiting: list[Waiting],
        answers: Mapping[int, Answer],
        agent: str,
    ) -> None:
        asked = self._goes_on.state["requests"] if self._goes_on else []
        of = self._goes_on.response_id if self._goes_on else ""
        print_ = fingerprint(agent=agent)
        if calls and self._journal.find("", "model", KEY, print_) is None:
            requests = {
                waiting[place].raw["call_id"]: ids.item_id(of, asked[place], REQUEST)
                for place in answers
                if not waiting[place].nested and "call_id" in waiting[place].raw
            }
            self._assembler.show_again(
                [(call.raw, call.behind) for call in calls],
                agent=agent,
                origin=self._goes_on.state["origin"] if self._goes_on else None,
                approvals=requests,
            )
            turn = Response.construct(output=[dict(call.raw) for call in calls])
            indexes, running = self._assembler.turn_indexes, self._assembler.turn_calls
            given = self._steps.call_ids.given
            result = at_once(encode_response(turn, indexes, given, running))
            self._display.write([Step("", "model", KEY, print_, result)])
        for place, answer in answers.items():
            if not answer.approve and not waiting[place].nested:
                self._display.tool_failed(waiting[place].raw.get("call_id", ""))

    # -- asking ---------------------------------------------------------------------------

    def park(self, result: RunResultStreaming, began_with: str, items: list[Any]) -> Parked | None:
        """Ask for what the run waits for. None: only the client's own tools are waited for.

        Args:
            began_with: the name of the agent that began the run.
            items: what it began with.

        Raises:
            LongrunError: it cannot be parked.
        """
        if not result.interruptions:
            return None
        state = run_states.state_of(result)
        waiting = run_states.waiting_in(state)
        asks = [not self._is_for_client(each) for each in waiting]
        if not any(asks):
            return None
        if not self._request.stored:
            _check_by_provider(waiting)
            return None
        paused = run_states.paused_calls(state, waiting)
        self._assembler.withdraw(
            {call.raw["call_id"] for call in paused if any(asks[n] for n in call.waits)}
        )
        requests = [
            self._ask(each) if asked else None for each, asked in zip(waiting, asks, strict=True)
        ]
        if dumps(state["original_input"]) == dumps(items):
            # Read again when it goes on: what was deleted by then is not in it.
            del state["original_input"]
        goes_on = self._goes_on
        parked = {
            "run_state": state,
            "requests": requests,
            "began": goes_on.state["began"] if goes_on else self._request.response_id,
            "begins_with": goes_on.begins_with if goes_on else began_with,
            "call_ids": self._steps.call_ids.as_parked(),
            "given_by": self._steps.models.border.as_parked(),
            "origin": self._steps.models.origin or (goes_on and goes_on.state["origin"]),
        }
        text = dumps(parked).decode()
        check_size("a run that waits for an approval", text, self._max_bytes)
        indexes = [index for index in requests if index is not None]
        return Parked(indexes, FORMAT, WRITTEN_BY, text)

    def leave_out(self, result: RunResultStreaming) -> None:
        """The calls that a run waits for do not stay: it goes on as if they had not been made."""
        raws = [each.raw_item for each in result.interruptions]
        calls = [raw if isinstance(raw, dict) else raw.model_dump() for raw in raws]
        names = {tool["name"] for tool in self.client_tools}
        self._assembler.withdraw(
            {call["call_id"] for call in calls if call.get("call_id") and call["name"] not in names}
        )

    def _is_for_client(self, each: Waiting) -> bool:
        return not each.nested and any(tool["name"] == each.name for tool in self.client_tools)

    def _ask(self, each: Waiting) -> int:
        if each.by_provider:
            found = self._assembler.provider_request(each.raw)
            if found is not None:
                return found
        label = str(each.raw.get("server_label") or each.agent)
        return self._assembler.ask_approval(label, each.name, each.arguments)


def _check_by_provider(waiting: list[Waiting]) -> None:
    """Of a response that is not stored: what a provider asks, its client answers with all items
    so far; nothing else can wait."""
    name = next((each.name for each in waiting if not each.by_provider), None)
    if name is not None:
        raise LongrunError(
            f"The tool {name!r} needs an approval, and only a stored response can wait for one: "
            "remove store from the request."
        )
