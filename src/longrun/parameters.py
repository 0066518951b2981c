"""The parameters of a request: one table, by which the code acts, and from which the wire contract
has its own.

`http` checks them and hands on what a run acts upon; `execution` gives them to models.
"""

from dataclasses import dataclass
from typing import Final, Literal

Models = Literal["", "all", "Responses", "Chat Completions", "OpenAI"]
"""Which models get a parameter. `all`: every adapter, as a setting of the Agents SDK; what it does
with it is its own affair. `OpenAI`: models on the Responses API, and those on Chat Completions at
OpenAI itself, since other providers refuse arguments that they do not know."""


@dataclass(frozen=True, slots=True)
class Parameter:
    """One parameter, or a part of one (`text.format`).

    Attributes:
        does: what comes of it, for the contract's table.
        models: which models get it.
        setting: the field of the SDK's `ModelSettings` that takes it as it is.
        argument: it is handed to the model's client under its own name, since the SDK has no
            setting for it.
        runs: a run acts upon it, so it is stored with the request.
        echoed: it is part of the Response object.
        bounded: a number that LONGRUN_PARAMETER_LIMITS may bound.
        budget: for the whole run; a bound holds for requests that do not name it too.
    """

    name: str
    does: str
    models: Models = ""
    setting: str | None = None
    argument: bool = False
    runs: bool = True
    echoed: bool = True
    bounded: bool = False
    budget: bool = False

    @property
    def whole(self) -> str:
        """The parameter that it is, or is a part of."""
        return self.name.partition(".")[0]


def _of_server(name: str, does: str, *, echoed: bool = True) -> Parameter:
    return Parameter(name, does, runs=False, echoed=echoed)


def _setting(
    name: str, does: str, setting: str, models: Models = "all", *, bounded: bool = False
) -> Parameter:
    return Parameter(name, does, models, setting=setting, bounded=bounded)


def _argument(name: str, does: str, models: Models = "OpenAI") -> Parameter:
    return Parameter(name, does, models, argument=True)


PARAMETERS: Final = (
    _of_server("model", "the name of the agent; the first one served if it is left out"),
    _of_server("input", "a text or a list of items", echoed=False),
    _of_server("background", "the response is made whether or not anybody waits for it"),
    _of_server("stream", "the answer is the stream of events", echoed=False),
    _of_server("previous_response_id", "the response that this one continues"),
    _of_server(
        "conversation", "the conversation that this response reads, and adds to when it ends"
    ),
    Parameter(
        "store",
        "`false`: kept for this request alone, and not by the model's provider",
        "OpenAI",
    ),
    Parameter(
        "instructions", "a developer message before the input, for this response alone", "all"
    ),
    Parameter("metadata", "up to 16 pairs of text; in `longrun.current().metadata`", runs=False),
    _setting("temperature", "sampling", "temperature", bounded=True),
    _setting("top_p", "sampling", "top_p", bounded=True),
    _setting("presence_penalty", "sampling", "presence_penalty", "Chat Completions"),
    _setting("frequency_penalty", "sampling", "frequency_penalty", "Chat Completions"),
    _setting("top_logprobs", "log probabilities of tokens", "top_logprobs", bounded=True),
    Parameter(
        "max_output_tokens",
        "a budget of output tokens over all turns; each turn is asked for at most what is left",
        "all",
        setting="max_tokens",
        bounded=True,
        budget=True,
    ),
    Parameter(
        "max_tool_calls",
        "a budget of calls over all turns, of the agent's own and the provider's tools; a turn "
        "that asks for more ends the response",
        "Responses",
        bounded=True,
        budget=True,
    ),
    _setting("parallel_tool_calls", "several calls in one turn", "parallel_tool_calls"),
    Parameter("reasoning", "effort, and what is told of it", "all"),
    Parameter(
        "text.format",
        "`json_schema` or `json_object`: what the last text is; checked at the end",
        "all",
    ),
    _setting("text.verbosity", "`low`, `medium` or `high`", "verbosity"),
    Parameter("tools", "the client's own function tools; others are echoed", "all"),
    Parameter(
        "tool_choice",
        "`none`, `required`, a tool, or `allowed_tools`; a hosted tool for the first turn",
        "all",
    ),
    Parameter(
        "context_management",
        "`compaction` once the context has over `compact_threshold` tokens: by the provider of "
        "models that get it, else by longrun",
        "Responses",
    ),
    _setting("truncation", "what becomes of an input that is too long", "truncation", "Responses"),
    Parameter(
        "include",
        "what else the model is to tell: `reasoning.encrypted_content`, …",
        "Responses",
        echoed=False,
    ),
    _argument("user", "who asks; in `longrun.current().user`"),
    _argument("safety_identifier", "who asks, for the provider's safety checks"),
    _argument("prompt_cache_key", "what the provider caches the prompt under"),
    _setting("prompt_cache_retention", "how long it caches it", "prompt_cache_retention"),
    _argument("service_tier", "how the provider serves it"),
    Parameter(
        "longrun.fork",
        "an extension: a response and the number of one of its steps, from which this one goes on "
        "([Forks](#forks))",
    ),
    Parameter(
        "longrun.timeout",
        "an extension: seconds that the response may take, over all attempts and the queue",
        bounded=True,
        budget=True,
    ),
    Parameter(
        "longrun.max_total_tokens",
        "an extension: a budget of input and output tokens over all turns",
        bounded=True,
        budget=True,
    ),
)

FORWARDED_HEADERS: Final = "forwarded_headers"
"""Beside the parameters that a run acts upon: the headers that it is to know, by name."""

TRACEPARENT: Final = "traceparent"
"""Beside them too: the client's span, where responses are traced."""

NAMES: Final = frozenset(parameter.name for parameter in PARAMETERS)

BOUNDED: Final = frozenset(parameter.name for parameter in PARAMETERS if parameter.bounded)

BUDGETS: Final = frozenset(parameter.name for parameter in PARAMETERS if parameter.budget)

OF_RUNS: Final = frozenset(parameter.whole for parameter in PARAMETERS if parameter.runs)
"""What a run acts upon, as `http` hands it on."""

NOT_ECHOED: Final = frozenset(parameter.name for parameter in PARAMETERS if not parameter.echoed)


def as_markdown() -> str:
    """The table of the wire contract."""
    rows = ["| parameter | what it does | models that get it |", "| --- | --- | --- |"]
    shown = {"": "", "all": "all", "OpenAI": "Responses; Chat Completions at OpenAI"}
    for each in PARAMETERS:
        rows.append(f"| `{each.name}` | {each.does} | {shown.get(each.models, each.models)} |")
    return "\n".join(rows) + "\n"
