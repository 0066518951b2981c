"""The body of `POST /responses`: checked, with an error that names the parameter."""

import time
from typing import Annotated, Any, Final, Literal

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    JsonValue,
    StringConstraints,
    ValidationError,
)

from longrun import ids
from longrun.errors import BadRequest
from longrun.http.problems import bad_request
from longrun.protocol import RunRequest

MetadataKey = Annotated[str, StringConstraints(max_length=64)]
MetadataValue = Annotated[str, StringConstraints(max_length=512)]

_ROLES: Final = frozenset({"user", "assistant", "system", "developer"})

_ACTED_UPON: Final = (
    "frequency_penalty",
    "instructions",
    "max_output_tokens",
    "parallel_tool_calls",
    "presence_penalty",
    "reasoning",
    "temperature",
    "tool_choice",
    "tools",
    "top_p",
    "truncation",
)

_NOT_ECHOED: Final = (
    "input",
    "stream",
    "include",
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
)


DEEPEST: Final = 200
"""Levels of objects and lists in parameters; JSON encoders have limits not far above."""


class FunctionTool(BaseModel):
    """A client's own function tool. Other types of tools are echoed and not acted upon."""

    model_config = ConfigDict(extra="allow", strict=True)

    type: str
    name: str | None = None
    description: str | None = None
    parameters: dict[str, JsonValue] | None = None
    strict: bool | None = None


class ReasoningOptions(BaseModel):
    """Efforts and summaries are not listed: models learn new ones."""

    model_config = ConfigDict(extra="allow", strict=True)

    effort: str | None = None
    summary: str | None = None


class TextOptions(BaseModel):
    model_config = ConfigDict(extra="allow", strict=True)

    format: dict[str, JsonValue] | None = None
    verbosity: str | None = None


class CreateResponse(BaseModel):
    """The body of `POST /responses`.

    What is named here is checked; everything else is accepted and echoed, since SDKs add fields
    every month. A `null` counts as not given.
    """

    model_config = ConfigDict(extra="allow", strict=True)

    model: str | None = None
    input: str | list[dict[str, JsonValue]] | None = None
    background: bool = False
    stream: bool = False
    store: bool = True
    previous_response_id: str | None = None
    conversation: str | dict[str, JsonValue] | None = None
    instructions: str | None = None
    metadata: Annotated[dict[MetadataKey, MetadataValue], Field(max_length=16)] | None = None
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
    tools: list[FunctionTool] | None = None
    tool_choice: str | dict[str, JsonValue] | None = None
    truncation: Literal["auto", "disabled"] | None = None
    service_tier: str | None = None
    safety_identifier: str | None = None
    prompt_cache_key: str | None = None
    user: str | None = None
    include: list[str] | None = None

    @classmethod
    def parse(cls, body: Any) -> "CreateResponse":
        """Check a body.

        Raises:
            BadRequest: names the parameter, what is wrong and what is allowed.
        """
        if not isinstance(body, dict):
            raise BadRequest("The body must be a JSON object.")
        for name, value in body.items():
            if _is_too_deep(value):
                raise BadRequest(f"{name}: nested deeper than {DEEPEST} levels.", param=name)
        try:
            parsed = cls.model_validate({k: v for k, v in body.items() if v is not None})
        except ValidationError as error:
            raise bad_request(error, body) from None
        parsed._check_together()
        return parsed

    def _check_together(self) -> None:
        if self.background and not self.store:
            raise BadRequest("background requires store to be true.", param="store")
        if self.previous_response_id and self.conversation:
            raise BadRequest(
                "previous_response_id and conversation exclude each other.",
                param="previous_response_id",
            )
        if self.conversation:
            raise BadRequest("conversation is not supported yet.", param="conversation")
        if not self.input and not self.previous_response_id:
            raise BadRequest(
                "input is required: a string that is not empty, or a list of input items.",
                param="input",
                code="missing_required_parameter",
            )
        for place, tool in enumerate(self.tools or ()):
            if tool.type == "function" and not tool.name:
                where = f"tools[{place}].name"
                raise BadRequest(f"{where}: a function tool needs a name.", param=where)

    def items(self) -> list[dict[str, Any]]:
        """The request's own input as a list of items.

        Raises:
            BadRequest: an item that is neither a message nor of a named type.
        """
        if isinstance(self.input, str):
            return [{"role": "user", "content": self.input}] if self.input else []
        for place, item in enumerate(self.input or ()):
            _check_item(item, f"input[{place}]")
        return list(self.input or ())

    def run_request(self, principal: str, agent: str, items: list[dict[str, Any]]) -> RunRequest:
        """This request as a response to be produced, with an id of its own.

        Args:
            items: all input items, those of previous responses included.
        """
        given = self.model_dump(include=set(_ACTED_UPON), exclude_none=True)
        given["tools"] = [tool for tool in given.get("tools", ()) if tool["type"] == "function"]
        response_id = ids.new_response_id()
        return RunRequest(
            response_id=response_id,
            principal=principal,
            agent=agent,
            background=self.background,
            stored=self.store,
            input=items,
            document=self._document(response_id, agent),
            parameters=given,
        )

    def _document(self, response_id: str, agent: str) -> dict[str, Any]:
        """The Response object without its output: everything echoed, nothing missing.

        Open Responses wants its fields present, numbers and `service_tier` never null.
        """
        given = self.model_dump(exclude_unset=True, exclude=set(_NOT_ECHOED))
        return {
            "id": response_id,
            "object": "response",
            "created_at": int(time.time()),
            "completed_at": None,
            "status": "in_progress",
            "error": None,
            "incomplete_details": None,
            "instructions": None,
            "max_output_tokens": None,
            "max_tool_calls": None,
            "parallel_tool_calls": True,
            "previous_response_id": None,
            "prompt_cache_key": None,
            "reasoning": None,
            "safety_identifier": None,
            "temperature": 1.0,
            "top_p": 1.0,
            "presence_penalty": 0.0,
            "frequency_penalty": 0.0,
            "top_logprobs": 0,
            "tool_choice": "auto",
            "tools": [],
            "truncation": "disabled",
            "usage": None,
            "user": None,
            "metadata": {},
            **given,
            "service_tier": self.service_tier or "default",
            "text": {"format": {"type": "text"}, **given.get("text", {})},
            "background": self.background,
            "store": self.store,
            "model": agent,
        }


def _check_item(item: dict[str, Any], where: str) -> None:
    kind = item.get("type", "message")
    if not isinstance(kind, str):
        raise BadRequest(f"{where}.type must be a string.", param=f"{where}.type")
    if kind == "message":
        if item.get("role") not in _ROLES:
            raise BadRequest(
                f"{where}.role must be one of {', '.join(sorted(_ROLES))}.", param=f"{where}.role"
            )
        content = item.get("content")
        if not isinstance(content, str) and not _are_objects(content):
            raise BadRequest(
                f"{where}.content must be a string or a list of content parts.",
                param=f"{where}.content",
            )
    elif kind.endswith("_call_output") and not isinstance(item.get("call_id"), str):
        raise BadRequest(f"{where}.call_id must be a string.", param=f"{where}.call_id")


def _are_objects(value: Any) -> bool:
    return isinstance(value, list) and all(
        isinstance(part, dict) and isinstance(part.get("type"), str) for part in value
    )


def _is_too_deep(value: Any) -> bool:
    level = [value]
    for _ in range(DEEPEST):
        level = [
            inner
            for outer in level
            if isinstance(outer, dict | list)
            for inner in (outer.values() if isinstance(outer, dict) else outer)
        ]
        if not level:
            return False
    return True
