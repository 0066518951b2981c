"""What stands in place of the SDK's functions that look at a whole run gives what they give."""

import dataclasses
import json
from collections.abc import Callable
from importlib.metadata import version
from typing import Any

import pytest
from agents import (
    Agent,
    AgentHooks,
    ModelBehaviorError,
    ModelResponse,
    RunConfig,
    RunContextWrapper,
    SQLiteSession,
    Usage,
    function_tool,
)
from agents import handoff as handoff_to
from agents.handoffs import HandoffInputData
from agents.items import (
    HandoffCallItem,
    HandoffOutputItem,
    InputItem,
    MCPListToolsItem,
    MessageOutputItem,
    ReasoningItem,
    ToolApprovalItem,
    ToolCallItem,
    ToolCallOutputItem,
)
from agents.mcp import MCPServer
from agents.run_internal import run_steps
from hypothesis import given, settings
from hypothesis import strategies as st
from mcp.types import CallToolResult, TextContent
from mcp.types import Tool as MCPTool
from openai._models import construct_type_unchecked
from openai.types.responses import ResponseOutputItem

from longrun.execution.replay import sdk, taps
from tests.unit import runs
from tests.unit.runs import Commits, Played
from tests.unit.streams import JSONObject, call, message, reasoning, request, turn

taps.install(tracing=False)

QUICK = {name.name: name for name, _ in sdk.quicker()}


def both(name: str) -> tuple[Callable[..., Any], Callable[..., Any]]:
    """The SDK's function, and what stands in its place."""
    quick = getattr(sdk.owner_of(QUICK[name]), name)
    return quick.__wrapped__, quick


def test_the_installed_sdk_is_one_that_they_were_written_for() -> None:
    """Another one is first compared with `histories.py`: these functions, and what they call."""
    assert version("openai-agents") in sdk.WRITTEN_FOR
    for name in sdk.HISTORIES:
        assert sdk.is_there(name), name


def test_in_other_versions_the_sdk_s_own_stay(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(sdk.histories, "version", lambda _: "0.24.99")
    assert sdk.quicker() == []
    assert "long runs take more CPU with openai-agents 0.24.99" in caplog.text


# -- function by function ---------------------------------------------------------------------

AGENT = Agent[Any](name="agent")
IDS = st.sampled_from(["a", "b", "c", "d", "", None])


def model(item: JSONObject) -> Any:
    kind: Any = ResponseOutputItem
    return construct_type_unchecked(value=item, type_=kind)


@st.composite
def raw_calls(draw: Callable[..., Any]) -> Any:
    item: JSONObject = {
        "type": draw(st.sampled_from(["function_call"] * 3 + ["custom_tool_call", "program"])),
        "call_id": draw(IDS),
        "name": draw(st.sampled_from(["look", "go"])),
        "arguments": draw(st.sampled_from(["{}", "{ }", '{"a": 1}', "no JSON", {"a": 1}])),
    }
    item |= draw(
        st.fixed_dictionaries(
            {},
            optional={
                "id": IDS,
                "status": st.sampled_from(["completed", None]),
                "namespace": st.sampled_from(["space", None]),
                "input": st.just("x"),
                "created_by": st.just("somebody"),
                "caller": st.sampled_from([None, {"type": "program", "caller_id": "a"}]),
                "_agents_tool_title": st.just("Title"),
            },
        )
    )
    return draw(st.sampled_from([item, model(item), model(item), model(item)]))


@st.composite
def raw_outputs(draw: Callable[..., Any]) -> Any:
    kinds = ["function_call_output"] * 3 + ["custom_tool_call_output", "program_output"]
    return {
        "type": draw(st.sampled_from(kinds)),
        "call_id": draw(IDS),
        "output": draw(st.sampled_from(["x", [{"type": "input_text", "text": "x"}]])),
        **draw(
            st.fixed_dictionaries(
                {},
                optional={"status": st.sampled_from(["completed", None]), "created_by": st.none()},
            )
        ),
    }


OTHERS = [
    MessageOutputItem(AGENT, model(message("said", id="msg").item)),
    ReasoningItem(AGENT, model(reasoning("hm", id="rs").item)),
    MessageOutputItem(AGENT, message("said", id="msg_2").item),
    InputItem(AGENT, {"role": "user", "content": "more"}),
    MCPListToolsItem(
        AGENT,
        model({"type": "mcp_list_tools", "id": "l", "server_label": "s", "tools": [{"name": "t"}]}),
    ),
    ToolCallItem(AGENT, {"type": "tool_search_call", "id": "t", "call_id": None}),
    ToolApprovalItem(AGENT, call("look", "{}", call_id="a").item, "look"),
]
ITEMS = st.lists(
    st.one_of(
        raw_calls().map(lambda raw: ToolCallItem(AGENT, raw)),
        raw_calls().map(lambda raw: HandoffCallItem(AGENT, raw)),
        raw_outputs().map(lambda raw: ToolCallOutputItem(AGENT, raw, raw["output"])),
        raw_outputs().map(lambda raw: HandoffOutputItem(AGENT, raw, AGENT, AGENT)),
        st.sampled_from(OTHERS),
    ),
    max_size=8,
)


def outcome(function: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
    try:
        return function(*args, **kwargs)
    except Exception as error:
        return type(error), str(error)


def as_asked(item: Any) -> Any:
    """With the order of its keys: digests are of JSON text."""
    return list(item.items()) if isinstance(item, dict) else item


MANY = settings(max_examples=400, deadline=None, print_blob=True, derandomize=True)


@given(ITEMS, st.booleans())
@MANY
def test_what_a_model_is_asked(items: list[Any], answered: bool) -> None:
    if answered:
        items = [*items, *(_answer(item) for item in items if isinstance(item, ToolCallItem))]
    convert, quickly_convert = both("run_items_to_input_items")
    forms = [outcome(f, items, None) for f in (convert, quickly_convert)]
    assert [*map(as_asked, forms[0])] == [*map(as_asked, forms[1])]
    if isinstance(forms[0], tuple):
        return
    asked = [{"role": "user", "content": "hi", "created_by": "u"}]
    prepare, quickly_prepare = both("prepare_model_input_items")
    made = [outcome(f, asked, forms[0]) for f in (prepare, quickly_prepare)]
    assert [*map(as_asked, made[0])] == [*map(as_asked, made[1])]
    if not isinstance(made[0], tuple):
        once, quickly_once = both("deduplicate_input_items_preferring_latest")
        assert outcome(once, made[0]) == outcome(quickly_once, made[0])


@given(
    st.recursive(
        st.one_of(st.text(), st.integers(), st.none(), st.booleans(), st.just((1, [2]))),
        lambda inner: st.one_of(
            st.lists(inner, max_size=3),
            st.dictionaries(st.text(max_size=3), inner, max_size=3),
            st.tuples(inner),
        ),
    )
)
@settings(max_examples=100, deadline=None, derandomize=True)
def test_a_copy_of_an_input(value: Any) -> None:
    for name in ("_clone_original_input", "_to_dump_compatible"):
        original, quick = both(name)
        for each in (value, [value], [{"content": [value]}]):
            assert outcome(quick, each) == outcome(original, each)
            assert not isinstance(each, list) or outcome(quick, each) is not each
    inner = [value]
    cloned = both("_clone_original_input")[1]([inner])
    assert cloned[0] is not inner


def test_a_copy_of_what_is_no_json() -> None:
    class Other:
        pass

    other, endless = Other(), list[Any]()
    endless.append(endless)
    clone, quickly_clone = both("_clone_original_input")
    assert quickly_clone("text") == clone("text") == "text"
    [copied] = quickly_clone([other])
    assert type(copied) is Other
    assert copied is not other
    again = quickly_clone(endless)
    assert again is not endless
    assert again[0] is again
    convert = both("_to_dump_compatible")[1]
    assert convert([iter([1, (2,)]), other]) == [[1, [2]], other]


def _answer(item: Any) -> Any:
    raw = item.raw_item if isinstance(item.raw_item, dict) else vars(item.raw_item)
    given = {"type": f"{raw['type']}_output", "call_id": raw["call_id"], "output": "x"}
    return ToolCallOutputItem(AGENT, given, "x")


@function_tool
async def look(at: str) -> str:
    """Look."""
    return f"saw {at}"


def response_of(calls: list[Any]) -> Any:
    """What the SDK makes of a turn with these calls."""
    functions = [run_steps.ToolRunFunction(tool_call=raw, function_tool=look) for raw in calls[:2]]
    handoff = handoff_to(AGENT)
    more = [run_steps.ToolRunHandoff(handoff=handoff, tool_call=raw) for raw in calls[2:]]
    none: dict[str, Any] = {
        field.name: []
        for field in dataclasses.fields(run_steps.ProcessedResponse)
        if field.default is dataclasses.MISSING
    }
    none |= {"new_items": [ToolCallItem(AGENT, raw) for raw in calls]}
    return run_steps.ProcessedResponse(**{**none, "functions": functions, "handoffs": more})


OF_CALLS = (
    "_register_tool_call_items",
    "_dedupe_processed_response_invocations",
    "_dedupe_tool_call_items",
)
"""What the SDK does with the calls of a turn, in this order."""


@given(ITEMS, st.lists(raw_calls(), max_size=3), st.booleans())
@MANY
def test_whether_calls_were_made_before(items: list[Any], calls: list[Any], legacy: bool) -> None:
    register, check, new_ones = map(both, OF_CALLS)
    found = []
    for n in range(2):
        context: Any = RunContextWrapper(None)
        context._allow_legacy_approval_binding_reconstruction = legacy
        for item in items[::2]:
            outcome(context._tool_invocation_status, item.raw_item)
        turned = response_of(calls)
        registered = outcome(register[n], context, items, validate_invocations=False)
        skipped = outcome(check[n], turned, context_wrapper=context, existing_items=items)
        kept = outcome(
            new_ones[n],
            existing_items=items,
            new_items=turned.new_items,
            skipped_raw_item_ids=skipped if isinstance(skipped, set) else set(),
        )
        runs_ = [[run.tool_call for run in kind] for kind in (turned.functions, turned.handoffs)]
        raws = [item.raw_item for item in kept] if isinstance(kept, list) else kept
        made = {key: vars(record) for key, record in context._tool_invocations.items()}
        found.append((registered, skipped, raws, runs_, made))
    assert found[0] == found[1]


def test_two_kinds_of_calls_with_one_id_are_refused() -> None:
    """Both were answered, and neither is asked for now."""
    calls = [{"type": kind, "call_id": "a", "name": "look"} for kind in CALLED]
    made = [ToolCallItem(AGENT, model({**each, **CALLED[each["type"]]})) for each in calls]
    items = [*made, *map(_answer, made)]
    for check in both("_dedupe_processed_response_invocations"):
        context: Any = RunContextWrapper(None)
        with pytest.raises(ModelBehaviorError, match="reused a tool call ID"):
            check(response_of([]), context_wrapper=context, existing_items=items)


@given(ITEMS, ITEMS, st.lists(raw_calls(), max_size=2))
@MANY
def test_the_items_of_a_turn(items: list[Any], new: list[Any], calls: list[Any]) -> None:
    """Of a turn that says something and calls nothing, too, and of one that does both."""
    register, check, new_ones = map(both, OF_CALLS)
    found = []
    for n in range(2):
        context: Any = RunContextWrapper(None)
        turned = response_of(calls)
        turned.new_items = [*new, *turned.new_items]
        skipped = outcome(check[n], turned, context_wrapper=context, existing_items=items)
        registered = outcome(register[n], context, turned.new_items)
        kept = outcome(
            new_ones[n],
            existing_items=items,
            new_items=turned.new_items,
            skipped_raw_item_ids=skipped if isinstance(skipped, set) else set(),
        )
        raws = [item.raw_item for item in kept] if isinstance(kept, list) else kept
        left = [item.raw_item for item in turned.new_items]
        made = {key: vars(record) for key, record in context._tool_invocations.items()}
        found.append((skipped, left, registered, raws, made))
    assert found[0] == found[1]


@st.composite
def raw_said(draw: Callable[..., Any]) -> Any:
    more = draw(
        st.sampled_from(
            [{}, {}, {}, {"caller": {"type": "program", "caller_id": "a"}}, {"agent": "x"}]
        )
    )
    words = [{"type": "output_text", "text": "hi", "annotations": []}]
    item: JSONObject = draw(
        st.sampled_from(
            [
                {"type": "message", "role": "assistant", "content": words, "status": "completed"},
                {"type": "reasoning", "summary": []},
            ]
        )
    )
    made = {**item, "id": draw(IDS), **more}
    return draw(st.sampled_from([made, model(made), model(made), model(made)]))


@given(st.lists(st.one_of(raw_said(), raw_said(), raw_calls()), max_size=8), st.integers(0, 3))
@MANY
def test_what_is_to_be_done_for_a_turn(output: list[Any], many: int) -> None:
    found = []
    for process in both("process_model_response"):
        response = ModelResponse(output=[], usage=Usage(), response_id=None)
        response.output = output
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(sdk.histories, "MANY", many)
            made = outcome(
                process,
                agent=AGENT,
                all_tools=[look],
                response=response,
                output_schema=None,
                handoffs=[],
            )
        if not isinstance(made, tuple):
            items = [(type(item), item.raw_item, item.agent) for item in made.new_items]
            made = (items, dataclasses.replace(made, new_items=[]))
        found.append(made)
    assert found[0] == found[1]


CALLED: dict[str, JSONObject] = {
    "function_call": {"arguments": "{}"},
    "custom_tool_call": {"input": "x"},
}


@given(ITEMS)
@MANY
def test_what_servers_and_programs_said(items: list[Any]) -> None:
    for name in ("collect_mcp_list_tools_metadata", "_collect_program_parent_state"):
        original, quick = both(name)
        assert outcome(original, items) == outcome(quick, items)
        raws = [item.raw_item for item in items]
        assert outcome(original, raws) == outcome(quick, raws)


# -- whole runs -------------------------------------------------------------------------------


def looked(*at: str, before: Any = (), id: str = "") -> Any:
    calls = [
        call("look", json.dumps({"at": each}), call_id=f"{id}{each}", index=n, id=f"fc_{id}{n}")
        for n, each in enumerate(at, len(before))
    ]
    return turn(*before, *calls)


TURNS = [
    looked("tea", before=[reasoning("hm", id="rs_a")], id="a"),
    looked("cup", "pot", before=[message("Two at once", id="msg_b")], id="b"),
    turn(call("nothing", "{}", call_id="none", id="fc_n")),
    looked("tea", id="a"),
    looked("milk", id="d"),
]
DONE = turn(message("done", id="msg_z"))


class Hooks(AgentHooks[Any]):
    """Changes what a model gave, as nobody should: from then on the SDK goes by that."""

    async def on_llm_end(self, context: Any, agent: Any, response: Any) -> None:
        for item in response.output:
            if item.type == "function_call" and item.call_id == "dmilk":
                item.arguments = '{"at": "cream"}'


class Server(MCPServer):
    """An MCP server in this process."""

    name = "server"

    async def connect(self) -> None:
        pass

    async def cleanup(self) -> None:
        pass

    async def list_tools(self, *_: Any) -> Any:
        schema = {"type": "object", "properties": {"at": {"type": "string"}}}
        return [MCPTool(name="look", title="Look", description="Look.", input_schema=schema)]

    async def call_tool(self, tool_name: Any, arguments: Any, meta: Any = None) -> Any:
        return CallToolResult(content=[TextContent(type="text", text=f"saw {arguments}")])

    async def list_prompts(self) -> Any: ...

    async def get_prompt(self, *_: Any) -> Any: ...


def with_hooks() -> tuple[Any, dict[str, Any]]:
    return an_agent(hooks=Hooks()), {}


def with_mcp() -> tuple[Any, dict[str, Any]]:
    return an_agent(tools=[], mcp_servers=[Server()]), {}


def with_instructions() -> tuple[Any, dict[str, Any]]:
    return an_agent(instructions=lambda context, agent: "Look."), {}


def with_session() -> tuple[Any, dict[str, Any]]:
    return an_agent(hooks=Hooks()), {"session": lambda _: SQLiteSession("one")}


def with_handoffs() -> tuple[Any, dict[str, Any]]:
    def shortened(data: HandoffInputData) -> HandoffInputData:
        return data.clone(pre_handoff_items=data.pre_handoff_items[1:])

    asked = Played(turn(call("transfer_to_agent", "{}", call_id="go", id="fc_go")))
    second = an_agent()
    back = handoff_to(second, input_filter=shortened)
    first = Agent(name="first", instructions="Go.", model=asked, handoffs=[back])
    return first, {}


def with_omitted_ids() -> tuple[Any, dict[str, Any]]:
    return an_agent(), {"run_config": RunConfig(reasoning_item_id_policy="omit")}


def an_agent(**more: Any) -> Agent[Any]:
    made = {"name": "agent", "instructions": "Look.", "model": Played(*TURNS, DONE)}
    return Agent(**{**made, "tools": [look], **more})


KINDS = [
    with_hooks,
    with_mcp,
    with_instructions,
    with_session,
    with_handoffs,
    with_omitted_ids,
]


def models_of(agent: Any) -> list[Any]:
    later = [target for each in agent.handoffs if (target := sdk.target_of(each)) is not None]
    return [agent.model.asked, *(asked for each in later for asked in models_of(each))]


def committed(commits: Commits) -> Any:
    return commits.lines[:-1], commits.committed_items, commits.committed_steps


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.__name__)
async def test_a_run_and_its_takeover_are_the_same(
    kind: Callable[[], tuple[Any, dict[str, Any]]], monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = request()
    found = []
    for own in (True, False):
        with monkeypatch.context() as patch:
            for name in QUICK.values() if own else ():
                patch.setattr(sdk.owner_of(name), name.name, both(name.name)[0])
            agent, more = kind()
            first = await runs.run(agent, asked, **more)
            runs.check(first)
            left = first.died_after(len(first.entries) - 1)
            again, more = kind()
            last: Any = sdk.target_of(again.handoffs[0]) if again.handoffs else again
            last.model.turns = [DONE]
            await runs.take_over(again, asked, left, **more)
            runs.check(left)
        found.append((committed(first), models_of(agent), committed(left), models_of(again)))
    for one, other in zip(*found, strict=True):
        assert json.dumps(one, default=str) == json.dumps(other, default=str)


async def test_a_turn_does_not_look_at_each_call_before_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is dear for an item is done a few times for each, not in each turn that follows."""
    planning: Any = __import__("agents.run_internal.tool_planning", fromlist=["x"])
    identity, calls = planning.tool_invocation_identity, 0

    def counted(*args: Any, **kwargs: Any) -> Any:
        nonlocal calls
        calls += 1
        return identity(*args, **kwargs)

    monkeypatch.setattr(planning, "tool_invocation_identity", counted)
    turns = [looked(str(n), id=str(n)) for n in range(30)]
    runs.check(await runs.run(an_agent(model=Played(*turns, DONE), hooks=Hooks()), request()))
    assert calls < 4 * len(turns)
