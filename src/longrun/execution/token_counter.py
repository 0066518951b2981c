"""How many tokens the first turn of a run would give its model, without a run: as the model's
provider counts them, or as an estimate."""

import asyncio
import contextlib
import dataclasses
import logging
import threading
from collections.abc import Callable, Mapping
from typing import Any, Final, NamedTuple

from agents import Agent, FunctionTool, Model, OpenAIResponsesModel, RunContextWrapper
from openai import APIError, APIStatusError

from longrun.assembly.usage import UsageSum
from longrun.errors import LongrunError
from longrun.execution.application import Application
from longrun.execution.budget import Budget
from longrun.execution.contained import contained
from longrun.execution.current import Current, within
from longrun.execution.demands import Demands
from longrun.execution.estimates import tokens_of
from longrun.execution.handling.handler import Handler
from longrun.execution.last_word import reached, who_begins
from longrun.execution.mcp_servers import MCPServers
from longrun.execution.parameters import (
    context_of_run,
    input_items,
    model_settings,
    with_client_tools,
)
from longrun.execution.registry import Registry
from longrun.execution.replay import sdk
from longrun.execution.replay.border import Border
from longrun.execution.served import made
from longrun.history.continuation import telling, told
from longrun.pieces import with_turns
from longrun.protocol import RunRequest
from longrun.settings import Settings
from longrun.store.responses import Responses

log = logging.getLogger("longrun.execution.token_counter")

COUNT_WAIT: Final = 30.0
"""Seconds that a provider, or an agent that is made, may take."""

_NOT_THERE: Final = frozenset({404, 405, 501})
"""Statuses with which a server says that it does not count."""


class Count(NamedTuple):
    """Tokens of a model's input, and whether that is an estimate."""

    tokens: int
    estimated: bool


class TokenCounter:
    """One per replica.

    Args:
        state: gives what the application's lifespan has given.
        check_open: raises where nothing may begin here.
    """

    def __init__(
        self,
        registry: Registry,
        application: Application,
        settings: Settings,
        responses: Responses,
        servers: MCPServers,
        *,
        state: Callable[[], Any],
        check_open: Callable[[], None],
    ) -> None:
        self._registry = registry
        self._application = application
        self._settings = settings
        self._responses = responses
        self._servers = servers
        self._of_lifespan = state
        self._check_open = check_open
        self._do_not_count: set[str] = set()

    async def count(self, request: RunRequest) -> Count:
        """What the first turn of a request's run would give its model.

        Raises:
            BadRequest: the agent cannot give what the request asks for.
            Unavailable: this replica is stopping.
            LongrunError: the agent could not be made, or its tools not be listed.
        """
        self._check_open()
        served = self._registry.get(request.agent)
        if isinstance(served, Handler):
            items = told(context_of_run(request))
            return Count(tokens_of(request.parameters.get("instructions"), items), True)
        try:
            async with asyncio.timeout(COUNT_WAIT):
                with contained(f"agent {request.agent!r}"), self._servers.used():
                    return await self._counted(served, request)
        except LongrunError:
            raise
        except Exception as error:
            log.error("the input of agent %r was not counted", request.agent, exc_info=error)
            raise LongrunError("The input of this agent could not be counted.") from error

    async def _counted(self, served: Any, request: RunRequest) -> Count:
        current = Current.of(request, 1, threading.Event())
        current = dataclasses.replace(current, state=self._of_lifespan())
        last = self._settings.continue_with == "last"
        begins = await who_begins(request, (), self._responses.histories, last=last)
        with within(current):
            agent: Agent[Any] = reached(await made(served, current), begins)
            agent = with_client_tools(agent, request.parameters)
            async with self._application.of_run(current) as given:
                context = RunContextWrapper(given.context)
                config = sdk.with_settings(given.run_config, model_settings(request.parameters))
                model, settings = sdk.model_of(agent, config)
                asked = await sdk.first_turn(agent, context, settings)
        told_items = await with_turns(telling(context_of_run(request)))
        border = Border(context_of_run(request), told_items)
        await asyncio.sleep(0)
        asked["input"] = border.going_out(input_items(request, told_items), sdk.origin_of(model))
        demands = Demands(request.parameters, Budget(request.parameters, UsageSum()))
        asked |= demands.of_turn(model, asked, "0", own=True)
        await asyncio.sleep(0)
        counted = await self._by_provider(model, asked)
        return Count(_estimate(asked), True) if counted is None else Count(counted, False)

    async def _by_provider(self, model: Model, asked: Mapping[str, Any]) -> int | None:
        """As the provider counts; None where it does not, or cannot be reached."""
        origin = str(sdk.origin_of(model))
        if not isinstance(model, OpenAIResponsesModel) or origin in self._do_not_count:
            return None
        try:
            return await sdk.counted_by_provider(model, asked)
        except APIStatusError as error:
            if error.status_code in _NOT_THERE:
                self._do_not_count.add(origin)
            log.info("%s did not count: status %d", origin, error.status_code)
        except APIError as error:
            log.info("%s did not count: %s", origin, type(error).__name__)
        return None


def _estimate(asked: Mapping[str, Any]) -> int:
    tools = [_described(tool) for tool in asked["tools"]]
    tools += [
        {
            "name": each.tool_name,
            "description": each.tool_description,
            "parameters": each.input_json_schema,
        }
        for each in asked["handoffs"]
    ]
    schema = asked["output_schema"]
    if schema is not None:
        with contextlib.suppress(Exception):
            tools.append({"schema": schema.json_schema()})
    return tokens_of(asked["system_instructions"], asked["input"], tools)


def _described(tool: Any) -> dict[str, Any]:
    if isinstance(tool, FunctionTool):
        return {
            "name": tool.name,
            "description": tool.description,
            "parameters": tool.params_json_schema,
        }
    return {"name": tool.name}
