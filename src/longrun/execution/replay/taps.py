"""The taps: where the SDK's turns, tools, handoffs and guardrails pass through longrun.

Each wraps one name of the SDK's (`sdk/`), looks where in a run it was called (`place.py`), and
lets that run's `Steps` decide whether the thing is done or has been done before.
"""

import dataclasses
import functools
from collections.abc import AsyncIterator, Awaitable
from typing import Any

import agents
from agents import Agent, Handoff, RunConfig
from agents.items import ModelResponse
from agents.models.interface import Model
from openai.types.responses import Response

from longrun.execution import mcp_servers
from longrun.execution.contained import contained
from longrun.execution.replay import sdk
from longrun.execution.replay.cut_off import CutOff
from longrun.execution.replay.once import Due
from longrun.execution.replay.place import Place, at, here, here_of, in_user_code
from longrun.execution.replay.scope import ModelCall
from longrun.execution.replay.tool_calls import tell_of_tool

_installed = False


def install(*, tracing: bool) -> None:
    """Tap the SDK, once per process; and switch its traces off unless they are wanted.

    Raises:
        ConfigurationError: this version of the SDK does not have what is taken hold of.
    """
    global _installed
    if not tracing:
        agents.set_tracing_disabled(True)
    if _installed:
        return
    sdk.check()
    sdk.wrap(sdk.GET_MODEL, _tapped_models)
    for request in sdk.TIMED_REQUESTS:
        sdk.wrap(request, _untimed)
    sdk.wrap(sdk.GET_HANDOFFS, _tapped_handoffs)
    sdk.wrap(sdk.EXECUTE_HANDOFFS, _told_handoffs)
    sdk.wrap(sdk.BETWEEN_TURNS, _tapped_boundary)
    sdk.wrap(sdk.INVOKE_TOOL, _tapped_tools)
    for failure in sdk.TOOL_FAILURES:
        sdk.wrap(failure, _told_failures)
    for action in sdk.ACTIONS:
        sdk.wrap(action, _tapped_action)
    for guardrail in sdk.GUARDRAILS:
        sdk.wrap(guardrail, _tapped_guardrail)
    sdk.wrap(sdk.LIST_MCP_TOOLS, _tapped_listing)
    sdk.wrap(sdk.INVOKE_MCP_TOOL, _tapped_mcp_calls)
    sdk.wrap(sdk.CHAT_STREAM, _told_of_cuts)
    sdk.wrap(sdk.AGENT_RANK, sdk.ranked_when_asked)
    for name, wrapped in sdk.quicker():
        sdk.wrap(name, wrapped)
    _installed = True


# -- models -----------------------------------------------------------------------------------


def _tapped_models(original: Any) -> Any:
    def get_model(agent: Agent[Any], run_config: RunConfig) -> Model:
        model: Model = original(agent, run_config)
        place = here_of(run_config)
        if place is None:
            return model
        return TappedModel(model, place, place.scope.next_turn(), agent.name)

    return get_model


def _told_of_cuts(original: Any) -> Any:
    async def handle_stream(
        response: Response, stream: AsyncIterator[Any], *args: Any, **kwargs: Any
    ) -> AsyncIterator[Any]:
        place = here()
        if place is None or place.scope.path:
            # Of runs inside the run, the tool makes of it what it makes of any text.
            async for event in original(response, stream, *args, **kwargs):
                yield event
            return
        cut_off = CutOff(response, stream)
        async for event in cut_off.events(original(response, cut_off.chunks(), *args, **kwargs)):
            yield event

    return handle_stream


class TappedModel(Model):
    """A user's model for one turn, which goes through a tap; in all else it is that model."""

    def __init__(self, model: Model, place: Place, turn: str, agent: str) -> None:
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
        call = self._call(args, kwargs)

        def ask() -> Awaitable[ModelResponse]:
            given, named = self._outgoing(call, args, kwargs)
            return self._model.get_response(*given, **named)

        return await self._place.steps.models.respond(call, ask)

    def stream_response(self, *args: Any, **kwargs: Any) -> AsyncIterator[Any]:
        call = self._call(args, kwargs)

        def ask() -> AsyncIterator[Any]:
            given, named = self._outgoing(call, args, kwargs)
            return self._model.stream_response(*given, **named)

        steps, management = self._place.steps, self._place.steps.management
        if management is None or call.scope.path or not management.of_model(self._model):
            return steps.models.stream(call, ask)
        asked = sdk.named(args, kwargs)
        recorded = steps.once.is_recorded(Due(call.scope.path, "model", call.turn, ""))
        return management.stream(
            call, self._model, asked, recorded, lambda: steps.models.stream(call, ask)
        )

    def _outgoing(
        self, call: ModelCall, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> tuple[tuple[Any, ...], dict[str, Any]]:
        """What the model is really asked: as its request wants it, as far as its budget goes, in
        the form in which it takes items, and with the call ids that it gave itself."""
        steps, asked = self._place.steps, sdk.named(args, kwargs)
        own = not call.scope.path
        changed = steps.demands.of_turn(self._model, asked, self._turn, own=own)
        if call.origin.api != "responses":
            settings = changed.get("model_settings", asked["model_settings"])
            if settings.include_usage is None:
                # Chat Completions tell it in streams only if they are asked.
                changed["model_settings"] = dataclasses.replace(settings, include_usage=True)
        items = asked["input"]
        if own and steps.management is not None:
            items = steps.management.view(items)
        items = steps.models.border.going_out(items, call.origin)
        items = steps.call_ids.outgoing(call.scope, str(call.origin), items)
        return sdk.replaced(args, kwargs, {**changed, "input": items})

    def _call(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> ModelCall:
        asked = sdk.named(args, kwargs)
        for handoff in asked.get("handoffs") or ():
            if isinstance(handoff.on_invoke_handoff, _TappedHandoff):
                handoff.on_invoke_handoff.own = True
        return ModelCall(
            scope=self._place.scope,
            turn=self._turn,
            agent=self._agent,
            instructions=asked.get("system_instructions"),
            input=asked.get("input") or [],
            timeout=getattr(asked.get("model_settings"), "timeout", None),
            origin=sdk.origin_of(self._model),
        )


def _tapped_boundary(original: Any) -> Any:
    """Between two turns: where a message that was put into the run goes in."""

    @functools.wraps(original)
    async def between(streamed_result: Any) -> bool:
        stops: bool = await original(streamed_result)
        place = here()
        if not stops and place is not None and not place.scope.path:
            await place.steps.between_turns(streamed_result, place.scope.turn + 1)
        return stops

    return between


def _untimed(original: Any) -> Any:
    """The SDK's time limit runs from the request to the last event, whatever happens between;
    a tapped model's own time is measured instead (`model_turns.py`)."""

    @functools.wraps(original)
    def ask(*, get_retry_advice: Any, timeout: float | None = None, **request: Any) -> Any:
        if isinstance(getattr(get_retry_advice, "__self__", None), TappedModel):
            timeout = None
        return original(get_retry_advice=get_retry_advice, timeout=timeout, **request)

    return ask


# -- handoffs ---------------------------------------------------------------------------------


def _tapped_handoffs(original: Any) -> Any:
    async def get_handoffs(agent: Agent[Any], context_wrapper: Any) -> list[Handoff[Any, Any]]:
        found: list[Handoff[Any, Any]] = await original(agent, context_wrapper)
        place = here()
        if place is None:
            return found
        return [sdk.with_callback(handoff, _TappedHandoff(handoff, place)) for handoff in found]

    return get_handoffs


@dataclasses.dataclass(slots=True)
class _TappedHandoff:
    """A handoff's callback. `own`: a model of the run was given it; `get_handoffs` cannot know."""

    handoff: Handoff[Any, Any]
    place: Place
    own: bool = False

    async def __call__(self, context: Any, arguments: str) -> Any:
        async def do() -> Any:
            with in_user_code(), contained(f"handoff {self.handoff.tool_name!r}"):
                return await self.handoff.on_invoke_handoff(context, arguments)

        if not self.own:
            return await do()
        return await self.place.steps.tools.handoff(self.place.scope, self.handoff, arguments, do)


def _told_handoffs(original: Any) -> Any:
    """What the calls of handoffs gave is shown whatever an input filter leaves of it: a filter
    says what the next agent is told, not what was done."""

    async def execute_handoffs(
        *, new_step_items: list[Any], run_config: RunConfig, **given: Any
    ) -> Any:
        before = len(new_step_items)
        result = await original(new_step_items=new_step_items, run_config=run_config, **given)
        place = here_of(run_config)
        if place is not None and not place.scope.path:
            # The list itself is added to; what is filtered is a copy of it.
            place.steps.tools.handed_over(new_step_items[before:])
        return result

    return execute_handoffs


# -- tools ------------------------------------------------------------------------------------


def _tapped_tools(original: Any) -> Any:
    async def invoke(*, function_tool: Any, context: Any, arguments: str) -> Any:
        place = here_of(context.run_config)
        # An agent as a tool is a run inside the run, whose steps are recorded; in any other
        # tool is user code, which is one step, whatever it does.
        nested = sdk.is_agent_tool(function_tool)
        inner = place.inside(context.tool_call_id) if place is not None and nested else None

        async def do() -> Any:
            with at(inner):
                return await original(
                    function_tool=function_tool, context=context, arguments=arguments
                )

        if place is None:
            return await do()
        tools = place.steps.tools
        step = tools.agent_tool if nested else tools.function_tool
        return await step(place.scope, function_tool, context, do)

    return invoke


def _told_failures(original: Any) -> Any:
    """What a tool raised: the SDK makes words for the model of it, and forgets it."""

    @functools.wraps(original)
    async def words_for(*, function_tool: Any, error: BaseException, **more: Any) -> Any:
        tell_of_tool(function_tool.name, error)
        return await original(function_tool=function_tool, error=error, **more)

    return words_for


def _tapped_action(original: Any) -> Any:
    @functools.wraps(original)
    async def execute(**arguments: Any) -> Any:
        async def do(arguments: dict[str, Any]) -> Any:
            with in_user_code(), contained(f"a {type(sdk.tool_of(arguments)).__name__}"):
                return await original(**arguments)

        place = here_of(arguments["config"])
        if place is None:
            return await do(arguments)
        return await place.steps.tools.action(place.scope, arguments, do)

    return execute


# -- guardrails -------------------------------------------------------------------------------


def _tapped_guardrail(original: Any) -> Any:
    """A guardrail may ask a model of its own: that is a run inside the run."""

    @functools.wraps(original)
    async def run(self: Any, *args: Any, **kwargs: Any) -> Any:
        place = here()
        if place is None:
            return await original(self, *args, **kwargs)
        name = f"guardrail {self.get_name()}{_of_call(args, kwargs)}"
        refuses = True
        try:
            with at(place.inside(place.scope.next_operation(name))), contained(name):
                result = await original(self, *args, **kwargs)
            # Of a tool's guardrail no model waits to be heard.
            refuses = getattr(getattr(result, "output", None), "tripwire_triggered", False)
            return result
        finally:
            if refuses and not place.scope.path:
                place.steps.models.refused()

    return run


def _of_call(args: tuple[Any, ...], kwargs: dict[str, Any]) -> str:
    """The call that a tool's guardrail is about: those of parallel calls have no order."""
    data = kwargs.get("data", args[0] if args else None)
    call_id = getattr(getattr(data, "context", None), "tool_call_id", None)
    return f" {call_id}" if call_id else ""


# -- MCP servers ------------------------------------------------------------------------------


def _tapped_listing(original: Any) -> Any:
    async def list_tools(server: Any, run_context: Any, agent: Any) -> Any:
        return await mcp_servers.listing(
            server, agent.name, lambda: original(server, run_context, agent)
        )

    return list_tools


def _tapped_mcp_calls(original: Any) -> Any:
    @functools.wraps(original)
    async def invoke(server: Any, *args: Any, **kwargs: Any) -> Any:
        return await mcp_servers.calling(server, lambda: original(server, *args, **kwargs))

    return invoke
