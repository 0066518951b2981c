"""Where longrun takes hold of the Agents SDK: all of its names that we replace, in one place.

`run_loop` looks up a turn's model by the global name `get_model`, and its handoffs by
`get_handoffs`. These are the places that hold for every agent of a run, handoffs and cycles
included, without an object of the user being changed: `RunConfig.model` would override every
agent and change implicit settings, `model_provider` is not asked for agents that carry a `Model`.
`tool_execution._invoke_function_tool_with_metadata` is the same for function tools, MCP's too;
wrapping a tool's `on_invoke_tool` instead would bypass a callable `needs_approval`. The other
local tools (shell, computer, …) each have an action class, and guardrails a method.

Some of these names are private, so the SDK is pinned to a tested range and all of them are
checked at start.
"""

import copy
import dataclasses
import functools
import inspect
import types
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any, Final, Protocol

import agents
from agents import Agent, Handoff, RunConfig
from agents.items import ModelResponse
from agents.models.interface import Model
from agents.run_internal import run_loop, tool_actions, tool_execution

from longrun.errors import ConfigurationError
from longrun.execution.replay.journal import Scope


@dataclasses.dataclass(frozen=True, slots=True)
class ModelCall:
    """One model turn that is about to be asked: whose, the how-manieth, and with what."""

    scope: Scope
    turn: str
    agent: str
    instructions: str | None
    input: Any


class Tap(Protocol):
    """What a run does about its steps. `do` does the step itself.

    `group_id` is that of its RunConfig; it tells the run's own turns from those of other runs
    that user code starts within it.
    """

    group_id: str

    def stream(
        self, call: ModelCall, do: Callable[[], AsyncIterator[Any]]
    ) -> AsyncIterator[Any]: ...

    async def respond(
        self, call: ModelCall, do: Callable[[], Awaitable[ModelResponse]]
    ) -> ModelResponse: ...

    def refused(self) -> None: ...

    async def tool(
        self, scope: Scope, tool: Any, context: Any, do: Callable[[], Awaitable[Any]]
    ) -> Any: ...

    async def agent_tool(
        self, scope: Scope, tool: Any, context: Any, do: Callable[[], Awaitable[Any]]
    ) -> Any: ...

    async def action(
        self,
        scope: Scope,
        given: dict[str, Any],
        do: Callable[[dict[str, Any]], Awaitable[Any]],
    ) -> Any: ...

    async def handoff(
        self, scope: Scope, handoff: Any, arguments: str, do: Callable[[], Awaitable[Any]]
    ) -> Any: ...


@dataclasses.dataclass(frozen=True, slots=True)
class _Place:
    """Where in a run this code is. None in the variable: in user code, whose steps are its own."""

    tap: Tap
    scope: Scope

    def is_of(self, run_config: RunConfig | None) -> bool:
        """Whether a run with this configuration is the one here, and not one that user code (a
        hook, say) starts of its own. Within a nested scope all of them count."""
        own = run_config is not None and run_config.group_id == self.tap.group_id
        return own or self.scope.path != ""


_place: ContextVar[_Place | None] = ContextVar("longrun_place", default=None)

_ACTIONS: Final = (
    "ComputerAction",
    "LocalShellAction",
    "ShellAction",
    "CustomToolAction",
    "ApplyPatchAction",
)

_TAKEN_HOLD_OF: Final = (
    (run_loop, "get_model", {"agent", "run_config"}),
    (run_loop, "get_handoffs", {"agent", "context_wrapper"}),
    (
        tool_execution,
        "_invoke_function_tool_with_metadata",
        {"function_tool", "context", "arguments"},
    ),
    (agents.InputGuardrail, "run", {"agent", "input", "context"}),
    (agents.OutputGuardrail, "run", {"context", "agent", "agent_output"}),
    (agents.ToolInputGuardrail, "run", {"data"}),
    (agents.ToolOutputGuardrail, "run", {"data"}),
    *(
        (getattr(tool_actions, name, None), "execute", {"agent", "config", "tool_output_committer"})
        for name in _ACTIONS
    ),
)

_MODEL_PARAMETERS: Final = tuple(inspect.signature(Model.stream_response).parameters)[1:]

_installed = False


def install(*, tracing: bool) -> None:
    """Take hold, once per process; and switch the SDK's export of traces off unless wanted.

    Raises:
        ConfigurationError: this version of the SDK does not have what is taken hold of.
    """
    global _installed
    if not tracing:
        agents.set_tracing_disabled(True)
    if _installed:
        return
    for owner, name, parameters in _TAKEN_HOLD_OF:
        found = getattr(owner, name, None)
        if found is None or not parameters <= set(inspect.signature(found).parameters):
            raise ConfigurationError(
                f"this version of openai-agents has no {owner}.{name}({', '.join(parameters)}): "
                "install one of the range that longrun names"
            )
    _tap_models()
    _tap_handoffs()
    _tap_tools()
    _tap_guardrails()
    _installed = True


def tap_into(tap: Tap) -> None:
    """Let the run that this task starts go through `tap`. Before `run_streamed` makes its task."""
    _place.set(_Place(tap, Scope("")))


@contextmanager
def _at(place: _Place | None) -> Iterator[None]:
    token = _place.set(place)
    try:
        yield
    finally:
        _place.reset(token)


def _tap_models() -> None:
    original = run_loop.get_model

    def get_model(agent: Agent[Any], run_config: RunConfig) -> Model:
        model = original(agent, run_config)
        place = _place.get()
        if place is None or not place.is_of(run_config):
            return model
        return TappedModel(model, place, place.scope.next_turn(), agent.name)

    run_loop.get_model = get_model


def _tap_handoffs() -> None:
    original = run_loop.get_handoffs

    async def get_handoffs(agent: Agent[Any], context_wrapper: Any) -> list[Handoff[Any, Any]]:
        found = await original(agent, context_wrapper)
        place = _place.get()
        return found if place is None else [_tapped_handoff(handoff, place) for handoff in found]

    run_loop.get_handoffs = get_handoffs


@dataclasses.dataclass(slots=True)
class _TappedHandoff:
    """A handoff's callback. `own`: a model of the run was given it; `get_handoffs` cannot know."""

    handoff: Handoff[Any, Any]
    place: _Place
    own: bool = False

    async def __call__(self, context: Any, arguments: str) -> Any:
        async def do() -> Any:
            # User code, as in a tool.
            with _at(None):
                return await self.handoff.on_invoke_handoff(context, arguments)

        if not self.own:
            return await do()
        return await self.place.tap.handoff(self.place.scope, self.handoff, arguments, do)


def _tapped_handoff(handoff: Handoff[Any, Any], place: _Place) -> Handoff[Any, Any]:
    tapped = dataclasses.replace(handoff, on_invoke_handoff=_TappedHandoff(handoff, place))
    tapped._agent_ref = handoff._agent_ref
    return tapped


def _tap_tools() -> None:
    module: Any = tool_execution
    original = module._invoke_function_tool_with_metadata

    async def invoke(*, function_tool: Any, context: Any, arguments: str) -> Any:
        place = _place.get()
        if place is not None and not place.is_of(context.run_config):
            place = None
        # An agent as a tool is a run inside the run, whose steps are recorded; in any other
        # tool is user code, which is one step, whatever it does.
        nested = bool(function_tool._is_agent_tool)
        inner = None
        if place is not None and nested:
            inner = _Place(place.tap, place.scope.inside(context.tool_call_id))

        async def do() -> Any:
            with _at(inner):
                return await original(
                    function_tool=function_tool, context=context, arguments=arguments
                )

        if place is None:
            return await do()
        step = place.tap.agent_tool if nested else place.tap.tool
        return await step(place.scope, function_tool, context, do)

    module._invoke_function_tool_with_metadata = invoke
    for name in _ACTIONS:
        _tap_action(getattr(tool_actions, name))


def _tap_action(action: Any) -> None:
    original = action.execute

    @functools.wraps(original)
    async def execute(**given: Any) -> Any:
        place = _place.get()

        async def do(given: dict[str, Any]) -> Any:
            with _at(None):
                return await original(**given)

        if place is None or not place.is_of(given["config"]):
            return await do(given)
        return await place.tap.action(place.scope, given, do)

    action.execute = execute


def tool_of(given: dict[str, Any]) -> Any:
    """The tool of an action, from what the action was given."""
    call = given["call"] if "call" in given else given["action"]
    return getattr(call, _tool_field(call))


def _tool_field(call: Any) -> str:
    return next(field.name for field in dataclasses.fields(call) if field.name.endswith("_tool"))


def guarded(
    given: dict[str, Any], may_start: Callable[[], Awaitable[bool]], otherwise: str
) -> dict[str, Any]:
    """What an action was given, with an executor that asks first whether it may start."""

    def guard(execute: Callable[..., Any]) -> Callable[..., Any]:
        async def guarded_execute(*args: Any) -> Any:
            if not await may_start():
                return otherwise
            result = execute(*args)
            return await result if inspect.isawaitable(result) else result

        return guarded_execute

    call = given["call"]
    tool = copy.copy(tool_of(given))
    if hasattr(tool, "editor"):
        names = ("create_file", "update_file", "delete_file")
        edits = {name: guard(getattr(tool.editor, name)) for name in names}
        tool.editor = types.SimpleNamespace(**edits)
    else:
        name = "executor" if hasattr(tool, "executor") else "on_invoke_tool"
        setattr(tool, name, guard(getattr(tool, name)))
    return {**given, "call": dataclasses.replace(call, **{_tool_field(call): tool})}


def _tap_guardrails() -> None:
    for kind in (
        agents.InputGuardrail,
        agents.OutputGuardrail,
        agents.ToolInputGuardrail,
        agents.ToolOutputGuardrail,
    ):
        _tap_guardrail(kind)


def _tap_guardrail(kind: Any) -> None:
    """A guardrail may ask a model of its own: that is a run inside the run."""
    original = kind.run

    @functools.wraps(original)
    async def run(self: Any, *args: Any, **kwargs: Any) -> Any:
        place = _place.get()
        inner = None
        if place is not None:
            name = f"guardrail {self.get_name()}{_of_call(args, kwargs)}"
            inner = _Place(place.tap, place.scope.inside(place.scope.next_operation(name)))
        refuses = True
        try:
            with _at(inner):
                result = await original(self, *args, **kwargs)
            # Of a tool's guardrail no model waits to be heard.
            refuses = getattr(getattr(result, "output", None), "tripwire_triggered", False)
            return result
        finally:
            if refuses and place is not None and not place.scope.path:
                place.tap.refused()

    kind.run = run


def _of_call(args: tuple[Any, ...], kwargs: dict[str, Any]) -> str:
    """The call that a tool's guardrail is about: those of parallel calls have no order."""
    data = kwargs.get("data", args[0] if args else None)
    call_id = getattr(getattr(data, "context", None), "tool_call_id", None)
    return f" {call_id}" if call_id else ""


class TappedModel(Model):
    """A user's model for one turn, which goes through a tap; in all else it is that model."""

    def __init__(self, model: Model, place: _Place, turn: str, agent: str) -> None:
        self._model = model
        self._place = place
        self._turn = turn
        self._agent = agent

    def __getattr__(self, name: str) -> Any:
        return getattr(self._model, name)

    async def _cleanup_on_run_end(self, owner: object) -> None:
        await self._model._cleanup_on_run_end(owner)

    async def close(self) -> None:
        await self._model.close()

    def get_retry_advice(self, request: Any) -> Any:
        return self._model.get_retry_advice(request)

    async def get_response(self, *args: Any, **kwargs: Any) -> ModelResponse:
        return await self._place.tap.respond(
            self._call(args, kwargs), lambda: self._model.get_response(*args, **kwargs)
        )

    def stream_response(self, *args: Any, **kwargs: Any) -> AsyncIterator[Any]:
        return self._place.tap.stream(
            self._call(args, kwargs), lambda: self._model.stream_response(*args, **kwargs)
        )

    def _call(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> ModelCall:
        """`get_response` is called with keywords, `stream_response` with positionals."""
        given = dict(zip(_MODEL_PARAMETERS, args, strict=False)) | kwargs
        for handoff in given.get("handoffs") or ():
            if isinstance(handoff.on_invoke_handoff, _TappedHandoff):
                handoff.on_invoke_handoff.own = True
        return ModelCall(
            scope=self._place.scope,
            turn=self._turn,
            agent=self._agent,
            instructions=given.get("system_instructions"),
            input=given.get("input") or [],
        )
