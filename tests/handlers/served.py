"""All of the examples: `longrun serve tests.handlers.served:agents`."""

from tests.handlers.calling import by_api, caller
from tests.handlers.openai_loop import loop
from tests.handlers.steered import deaf, listener
from tests.handlers.template import stream_handler
from tests.handlers.waiting import payer
from tests.handlers.with_langgraph import answer as graph
from tests.handlers.with_pydantic_ai import answer as pydantic

agents = [loop, pydantic, graph, stream_handler, caller, payer, listener, deaf, *by_api.values()]
