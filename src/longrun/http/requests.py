"""The body of `POST /responses`: checked, with an error that names the parameter."""

import time
from collections.abc import Mapping
from typing import Annotated, Any, Final, Literal, NamedTuple

from pydantic import ConfigDict, Field, PrivateAttr, ValidationError

from longrun import ids
from longrun.errors import BadRequest
from longrun.http.formats import check_tool_choice, checked_format
from longrun.http.items import CheckedItems, checked_items
from longrun.http.limits import (
    DEFAULT_LIMITS,
    MOST_PARAMETERS,
    Limits,
    is_too_deep,
)
from longrun.http.options import (
    ContextManagement,
    ConversationParam,
    ForkOptions,
    FunctionTool,
    JSONObject,
    LongrunOptions,
    Metadata,
    Options,
    ReasoningOptions,
    TextOptions,
)
from longrun.http.problems import bad_request, shortened
from longrun.http.strict_schema import NotStrict, closed
from longrun.jsontext import dumps
from longrun.operations import null_is_absent
from longrun.parameters import BUDGETS, FORWARDED_HEADERS, NOT_ECHOED, OF_RUNS
from longrun.protocol import GOES_ON, Allowance, Context, Once, RunRequest, untold

_NOT_ECHOED: Final = {
    *NOT_ECHOED,
    # What the server says of the response, which no client says for it.
    "id",
    "object",
    "created_at",
    "completed_at",
    "status",
    "error",
    "incomplete_details",
    "usage",
    "output",
}


class _Made(NamedTuple):
    """What `CreateResponse.parse` makes of a body besides checking it.

    Attributes:
        items: the input as a list of items; `input_text` the same as JSON.
        echoed: what the Response object says of the request.
        tools: the client's function tools.
        format: of the text, as it was checked.
        body: the body itself, of a fork.
    """

    items: list[dict[str, Any]]
    input_text: str
    echoed: dict[str, Any]
    tools: list[dict[str, Any]]
    format: dict[str, Any] | None
    body: dict[str, Any]


class CreateResponse(Options):
    """The body of `POST /responses`.

    What is named here is checked; everything else is accepted and echoed, since SDKs add fields
    every month. A `null` counts as not given.
    """

    model_config = ConfigDict(json_schema_extra=null_is_absent)

    model: str | None = None
    input: str | CheckedItems | None = None
    background: bool = False
    stream: bool = False
    store: bool = True
    previous_response_id: str | None = None
    conversation: str | ConversationParam | None = None
    instructions: str | None = None
    metadata: Metadata | None = None
    temperature: Annotated[float, Field(ge=0, le=2)] | None = None
    top_p: Annotated[float, Field(ge=0, le=1)] | None = None
    presence_penalty: Annotated[float, Field(ge=-2, le=2)] | None = None
    frequency_penalty: Annotated[float, Field(ge=-2, le=2)] | None = None
    top_logprobs: Annotated[int, Field(ge=0, le=20)] | None = None
    max_output_tokens: Annotated[int, Field(ge=1)] | None = None
    max_tool_calls: Annotated[int, Field(ge=1)] | None = None
    parallel_tool_calls: bool | None = None
    reasoning: ReasoningOptions | None = None
    text: TextOptions | None = None
    tools: Annotated[list[FunctionTool], Field(fail_fast=True)] | None = None
    tool_choice: str | JSONObject | None = None
    truncation: Literal["auto", "disabled"] | None = None
    context_management: Annotated[list[ContextManagement], Field(max_length=10)] | None = None
    service_tier: str | None = None
    safety_identifier: str | None = None
    prompt_cache_key: str | None = None
    prompt_cache_retention: Literal["in_memory", "24h"] | None = None
    user: str | None = None
    include: Annotated[list[str], Field(fail_fast=True)] | None = None
    longrun: LongrunOptions | None = None

    # Set by `parse`. One for all, since pydantic takes its time over each.
    _made: _Made = PrivateAttr()

    @classmethod
    def parse(cls, body: Any, limits: Limits = DEFAULT_LIMITS) -> "CreateResponse":
        """Check a body.

        Raises:
            BadRequest: names the parameter, what is wrong and what is allowed. One problem, the
                first that was found.
        """
        if not isinstance(body, dict):
            raise BadRequest("The body must be a JSON object.")
        _check_size(body, limits)
        try:
            parsed = cls.model_validate({k: v for k, v in body.items() if v is not None})
        except ValidationError as error:
            raise bad_request(error, body) from None
        parsed._check_allowed(limits)
        parsed._check_together()
        said = parsed.input
        if isinstance(said, list):
            items = checked_items(said)
        else:
            items = [{"role": "user", "content": said}] if said else []
        # Here, since a large body is parsed beside the event loop.
        input_text = dumps(items).decode()
        tools = parsed._function_tools()
        text_format = checked_format(parsed.text.format if parsed.text else None)
        check_tool_choice(parsed.tool_choice)
        echoed = parsed.model_dump(exclude_unset=True, exclude=_NOT_ECHOED)
        _check_echoed(echoed, limits)
        of_fork = body if parsed.fork is not None else {}
        parsed._made = _Made(items, input_text, echoed, tools, text_format, of_fork)
        return parsed

    def _check_allowed(self, limits: Limits) -> None:
        """What the operator forbids, or bounds. A bound of a budget holds where none is given."""
        for name in limits.forbidden:
            if self._given(name) is not None:
                raise BadRequest(
                    f"{name} is not allowed here.", param=name, code="parameter_not_allowed"
                )
        for name, most in limits.bounds.items():
            value = self._given(name)
            if value is not None and value > most:
                raise BadRequest(
                    f"{name} may be at most {most:g} here.", param=name, code="parameter_too_large"
                )
            if value is None and name in BUDGETS:
                self._give(name, most)

    def _given(self, name: str) -> Any:
        """A parameter, or a part of one, if the body has it."""
        whole, _, part = name.partition(".")
        value = getattr(self, whole) if whole in self.model_fields_set else None
        return getattr(value, part) if part and value is not None else value

    def _give(self, name: str, value: float) -> None:
        whole, _, part = name.partition(".")
        if part:
            given = (self.longrun or LongrunOptions()).model_copy(update={part: value})
            self.longrun = given
        else:
            setattr(self, whole, int(value))

    def _check_together(self) -> None:
        if self.background and not self.store:
            raise BadRequest("background requires store to be true.", param="store")
        if self.previous_response_id and self.conversation:
            raise BadRequest(
                "previous_response_id and conversation cannot be used together.",
                param="previous_response_id",
            )
        if self.fork is not None:
            for name in ("previous_response_id", "conversation"):
                if getattr(self, name):
                    raise BadRequest(
                        f"longrun.fork and {name} cannot be used together: a fork continues what "
                        "the response that it goes on from continues.",
                        param=name,
                    )
        elif not self.input and not self.previous_response_id and not self.conversation:
            raise BadRequest(
                "input is required: a non-empty string or a list of input items.",
                param="input",
                code="missing_required_parameter",
            )

    def of_model(self, agent: str, limits: Limits) -> "CreateResponse":
        """This request of a fork, had it named an agent.

        Raises:
            BadRequest: as `parse`, by the limits of that agent.
        """
        return self.parse({**self._made.body, "model": agent}, limits)

    def names(self, parameter: str) -> bool:
        """Whether the body of a fork itself has a parameter, or a part of one: the operator's
        bounds may have given it one that it does not name."""
        whole, _, part = parameter.partition(".")
        value = self._made.body.get(whole)
        return (value.get(part) if part and isinstance(value, dict) else value) is not None

    @property
    def fork(self) -> ForkOptions | None:
        """What it goes on from."""
        return self.longrun.fork if self.longrun is not None else None

    @property
    def conversation_id(self) -> str | None:
        """The conversation that it is on."""
        given = self.conversation
        return given.id if isinstance(given, ConversationParam) else given

    def items(self) -> list[dict[str, Any]]:
        """The request's own input as a list of items."""
        return self._made.items

    def _function_tools(self) -> list[dict[str, Any]]:
        """The client's function tools, with schemas as `strict` wants them where it is true."""
        made = []
        for place, tool in enumerate(self.tools or ()):
            if tool.type != "function":
                continue
            given = tool.model_dump(exclude_none=True)
            where = f"tools[{place}]"
            if not tool.name:
                raise BadRequest(
                    f"{where}.name: a function tool must have a name.", param=f"{where}.name"
                )
            if tool.strict:
                param = f"{where}.parameters"
                try:
                    given["parameters"] = closed(tool.parameters or {"type": "object"}, param)
                except NotStrict as error:
                    raise BadRequest(
                        f"{shortened(str(error), 500)}.", param=param, code="invalid_schema"
                    ) from None
            made.append(given)
        return made

    def run_request(
        self,
        principal: str,
        agent: str,
        context: Context | None,
        headers: Mapping[str, str] | None = None,
        goes_on: str | None = None,
        cell: str = ids.FIRST_CELL,
        allowance: Allowance | None = None,
        once: Once | None = None,
    ) -> RunRequest:
        """This request as a response to be produced, with an id of its own.

        Args:
            context: what its run begins with.
            headers: those of the request that its run is to know.
            goes_on: the response from which its run goes on.
            cell: the one in which it is made.
            allowance: what bounds its creation.
            once: what creates it once.
        """
        made = self._made
        beside = {FORWARDED_HEADERS: headers or None, GOES_ON: goes_on}
        response_id = ids.new_response_id(cell)
        return RunRequest(
            response_id=response_id,
            principal=principal,
            agent=agent,
            background=self.background,
            stored=self.store,
            input=made.items,
            input_text=made.input_text,
            document=self._document(response_id, agent),
            parameters={**self._of_run(), **{k: v for k, v in beside.items() if v is not None}},
            previous_id=self.previous_response_id,
            conversation_id=self.conversation_id,
            context=context,
            allowance=allowance or Allowance(),
            once=once,
        )

    def _of_run(self) -> dict[str, Any]:
        """What a run acts upon, by its name in the API."""
        named = OF_RUNS & self.model_fields_set
        given = self.model_dump(include=set(named), exclude_none=True) if named else {}
        given["tools"] = self._made.tools
        if self.store:
            given.pop("store", None)
        given.pop("text", None)
        text = {"format": self._made.format, "verbosity": self.text and self.text.verbosity}
        if any(text.values()):
            given["text"] = {name: value for name, value in text.items() if value is not None}
        return given

    def _document(self, response_id: str, agent: str) -> dict[str, Any]:
        """The Response object without its output: everything echoed, nothing missing."""
        given = self._made.echoed
        if self.conversation_id is not None:
            given = {**given, "conversation": {"id": self.conversation_id}}
        return {
            "id": response_id,
            "object": "response",
            "created_at": int(time.time()),
            **untold(),
            **given,
            "service_tier": self.service_tier or "default",
            "text": {"format": {"type": "text"}, **given.get("text", {})},
            "background": self.background,
            "store": self.store,
            "model": agent,
        }


def _check_size(body: dict[str, Any], limits: Limits) -> None:
    """What would make validation long, before it begins."""
    if len(body) > MOST_PARAMETERS:
        raise BadRequest(
            f"The body has more than {MOST_PARAMETERS} parameters.",
            code="too_many_parameters",
        )
    for name, most in (("input", limits.input_items), ("tools", limits.tools)):
        value = body.get(name)
        if isinstance(value, list) and len(value) > most:
            raise BadRequest(
                f"{name}: at most {most} elements are allowed, got {len(value)}.",
                param=name,
                code="array_above_max_length",
            )
    for name, value in body.items():
        if isinstance(value, dict | list) and is_too_deep(value, limits.depth):
            param = shortened(name)
            raise BadRequest(f"{param}: nested deeper than {limits.depth} levels.", param=param)


def _check_echoed(echoed: dict[str, Any], limits: Limits) -> None:
    """Every snapshot of the response repeats what is echoed: three at least, each in the log."""
    if _size(echoed, limits.echoed_bytes) <= min(limits.unknown_bytes, limits.echoed_bytes):
        return
    sizes = {name: _size(value, limits.echoed_bytes) for name, value in echoed.items()}
    unknown = {n: size for n, size in sizes.items() if n not in CreateResponse.model_fields}
    for found, most, what in (
        (unknown, limits.unknown_bytes, "unknown parameters"),
        (sizes, limits.echoed_bytes, "the parameters that a response echoes"),
    ):
        if sum(found.values()) > most:
            param = shortened(max(found, key=found.__getitem__))
            raise BadRequest(
                f"{param}: too large; {what} may have at most {most} bytes in total, as JSON.",
                param=param,
                code="parameter_too_large",
            )


def _size(value: Any, most: int) -> int:
    """Bytes as JSON; of a text that is too long anyway, at least as many as that."""
    if isinstance(value, str) and len(value) > most:
        return len(value)
    return len(dumps(value))
