"""Whatever JSON comes: a run that can begin, or an error of the client's with the contract's words.

What is sampled are the words of the API with values that nobody would give them.
"""

import json
from typing import Any

from agents import Agent
from hypothesis import given, settings
from hypothesis import strategies as st

from longrun import ids
from longrun.assembly.assembler import Assembler
from longrun.errors import BadRequest
from longrun.execution import parameters
from longrun.execution.replay.border import Border
from longrun.history.continuation import Stored, context_of
from longrun.history.faces import Origin
from longrun.http.requests import CreateResponse
from longrun.jsontext import NotJSON, dumps, loads
from longrun.pending import lines
from longrun.protocol import Context

TARGETS = (Origin("responses", "a"), Origin("chat", "b"), Origin("other", "c"))
RESPONSE = ids.new_response_id()

WORDS = (
    *("type", "role", "content", "text", "id", "call_id", "name", "arguments", "output", "status"),
    *("parameters", "strict", "properties", "additionalProperties", "items", "anyOf", "$ref"),
    *("effort", "summary", "_fields_set", "cls", "self", "format", "schema", "verbosity", "mode"),
)
KINDS = (
    *("message", "function", "function_call", "function_call_output", "custom_tool_call"),
    *("item_reference", "reasoning", "input_text", "json_schema", "object", "user", "assistant"),
    *("required", "auto", "none", "of_the_future"),
)
leaf = (
    st.none()
    | st.booleans()
    | st.integers()
    | st.sampled_from([0, 1, -1, 2**63, 10**30, 10**99, 0.5, 1e300, -0.0])
    | st.sampled_from(["", "\x00", "\ud800", "a\udfffb", "\u2028", "😀", *KINDS])
    | st.text(max_size=5)
)
names = st.sampled_from(WORDS) | st.text(max_size=2) | st.sampled_from(["\x00", "\ud800", ""])
value = st.recursive(
    leaf,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(names, inner, max_size=4),
    max_leaves=10,
)
item = st.dictionaries(names, value, max_size=5) | st.fixed_dictionaries(
    {"type": st.sampled_from(KINDS)},
    optional=dict.fromkeys(("role", "content", "call_id", "name", "arguments", "id"), value),
)
body = st.fixed_dictionaries(
    {},
    optional={
        **dict.fromkeys(CreateResponse.model_fields, value),
        "model": st.just("agent"),
        "input": st.text() | st.lists(item, max_size=4) | value,
        "tools": st.lists(item, max_size=3) | value,
        "unheard_of": value,
        "output": value,
        "_items": value,
        "model_config": value,
    },
)


def made_of(text: str) -> None:
    """All that is done with a request before its run begins."""
    parsed = CreateResponse.parse(loads(text))
    given = parsed.items()
    before = [
        (
            given,
            [Stored({**item, "id": ids.item_id(RESPONSE, n, "x")}) for n, item in enumerate(given)],
        )
    ]
    made = parsed.run_request("", "agent", context_of(before, given, {}))
    dumps(made.input), dumps(made.parameters)
    parameters.model_settings(made.parameters)
    items = parameters.input_items(made)
    for target in TARGETS:
        dumps(Border(made.context or Context(), items).going_out(items, target))
    parameters.with_client_tools(Agent(name="agent"), made.parameters)
    assembler = Assembler(made.response_id, made.document)
    assembler.lifecycle("in_progress")
    for line in lines(assembler.collect().events):
        assert json.loads(line)["response"]["id"] == made.response_id


@given(body)
@settings(max_examples=400, deadline=None, print_blob=True, derandomize=True)
def test_any_json_begins_a_run_or_is_refused(body: dict[str, Any]) -> None:
    refusal = None
    try:
        made_of(json.dumps(body))
    except BadRequest as error:
        refusal = error
    assert refusal is None or (refusal.message and refusal.code and refusal.param != "")


@given(st.text() | st.binary())
@settings(max_examples=100, deadline=None, derandomize=True)
def test_any_text_is_json_or_refused(text: str | bytes) -> None:
    said = ""
    try:
        loads(text)
    except NotJSON as error:
        said = str(error)
    assert len(said) < 200
