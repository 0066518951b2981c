"""The objects in the body of `POST /responses`: what is known of each is checked."""

from typing import Annotated, Any, Final, Literal

from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    PlainValidator,
    StringConstraints,
    WithJsonSchema,
    model_validator,
)
from pydantic_core import PydanticCustomError

from longrun.http.formats import FORMAT_SCHEMA
from longrun.http.limits import MOST_PARAMETERS
from longrun.settings import YEAR

MOST_PAIRS: Final = 16
"""Of metadata, as with OpenAI."""

MOST_STEPS: Final = 2**31 - 1

MetadataKey = Annotated[str, StringConstraints(max_length=64)]
MetadataValue = Annotated[str, StringConstraints(max_length=512)]


def _object(value: Any) -> Any:
    if not isinstance(value, dict):
        raise PydanticCustomError("dict_type", "Input should be an object")
    return value


def _of_few_pairs(value: Any) -> Any:
    if isinstance(value, dict) and len(value) > MOST_PAIRS:
        raise PydanticCustomError("too_long", f"Input should have at most {MOST_PAIRS} pairs")
    return value


Metadata = Annotated[
    dict[MetadataKey, MetadataValue],
    BeforeValidator(_of_few_pairs),
    Field(json_schema_extra={"maxProperties": MOST_PAIRS}),
]

JSONObject = Annotated[dict[str, Any], PlainValidator(_object), WithJsonSchema({"type": "object"})]
"""An object of any content. It was JSON, so nothing in it needs a check: validating each value of
a large one would take long, and an error for each would take longer."""


class Options(BaseModel):
    """An object of which some names are known, and which may have others."""

    model_config = ConfigDict(extra="allow", strict=True)

    @model_validator(mode="before")
    @classmethod
    def _has_not_too_many_names(cls, value: Any) -> Any:
        if isinstance(value, dict) and len(value) > MOST_PARAMETERS:
            raise PydanticCustomError("too_many_names", f"Input has over {MOST_PARAMETERS} names")
        return value


class FunctionTool(Options):
    """A client's own function tool. Other types of tools are echoed and not acted upon."""

    type: str
    name: str | None = None
    description: str | None = None
    parameters: JSONObject | None = None
    strict: bool | None = None


class ReasoningOptions(Options):
    """Efforts and summaries are not listed: models learn new ones."""

    effort: str | None = None
    summary: str | None = None


class TextOptions(Options):
    format: Annotated[JSONObject, WithJsonSchema(FORMAT_SCHEMA)] | None = None
    verbosity: Literal["low", "medium", "high"] | None = None


class ForkOptions(BaseModel):
    """The response to go on from, and the last of its steps that counts; 0 is before its input."""

    model_config = ConfigDict(extra="forbid", strict=True)

    response_id: str
    step: Annotated[int, Field(ge=0, le=MOST_STEPS)]


class LongrunOptions(Options):
    """Our own: a name that is not known is a mistake."""

    model_config = ConfigDict(extra="forbid", strict=True)

    fork: ForkOptions | None = None
    timeout: Annotated[float, Field(gt=0, le=YEAR)] | None = None
    max_total_tokens: Annotated[int, Field(ge=1)] | None = None


class ContextManagement(Options):
    """Types other than `compaction` are for the providers that know them."""

    type: str
    compact_threshold: Annotated[int, Field(ge=1000, le=1_000_000_000)] | None = None


class ConversationParam(Options):
    id: str
