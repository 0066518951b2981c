"""Settings of requests: what one may hold."""

import difflib
import re
from typing import Self

from pydantic import Field, field_validator, model_validator
from pydantic_core import PydanticCustomError

from longrun.parameters import BOUNDED, NAMES
from longrun.settings.sections import YEAR, Section, Strings


class Requests(Section):
    """What a request may contain."""

    max_body_bytes: int = Field(
        default=32 * 1024 * 1024,
        ge=1024,
        description="Maximum size of a request body; beyond it, 413.",
    )
    max_bodies_bytes: int = Field(
        default=256 * 1024 * 1024,
        ge=1024,
        description="Maximum size of all request bodies being read at once; beyond it, 503. The "
        "same amount is set aside for polls of long responses, which wait for one another.",
    )
    max_json_values: int = Field(
        default=100_000,
        ge=1000,
        description="Maximum number of list elements and object members in a request body.",
    )
    max_json_depth: int = Field(
        default=200,
        ge=10,
        le=200,
        description="Maximum number of levels of lists and objects in a request parameter.",
    )
    max_input_items: int = Field(
        default=10_000, ge=1, description="Maximum number of input items in a request."
    )
    max_steers: int = Field(
        default=32,
        ge=1,
        description="Maximum number of messages waiting to be picked up by one live run (`POST "
        "/responses/{id}/steer`); beyond it, 429.",
    )
    max_tools: int = Field(default=1000, ge=0, description="Maximum number of tools in a request.")
    max_unknown_bytes: int = Field(
        default=256 * 1024,
        ge=0,
        description="Maximum total size of request parameters that longrun does not know, as "
        "JSON. They are echoed in every snapshot of the response.",
    )
    max_echoed_bytes: int = Field(
        default=4 * 1024 * 1024,
        ge=1024,
        description="Maximum total size of the request parameters that a response echoes "
        "(instructions, tools, …), as JSON.",
    )
    idempotency_key_seconds: float = Field(
        default=86_400.0,
        ge=1,
        le=YEAR,
        description="How long an `Idempotency-Key` leads to the response that was created with "
        "it; after that it creates another one.",
    )
    forbidden_parameters: Strings = Field(
        default=(),
        description="Request parameters that are refused, as in `service_tier text.format`.",
    )
    parameter_limits: Strings = Field(
        default=(),
        description="Maximum values of request parameters, as in `max_output_tokens=4096 "
        "longrun.timeout=600`. Limits on budgets also apply to requests that do not set them.",
    )
    forward_headers: Strings = Field(
        default=(),
        description="Request headers that agents see in `longrun.current().headers`. They are "
        "stored with the response: list credentials only if that is acceptable.",
    )

    @field_validator("forbidden_parameters")
    @classmethod
    def _are_parameters(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        for name in value:
            if name not in NAMES - {"input", "model"}:
                raise PydanticCustomError("parameter", "{said}", {"said": no_parameter(name)})
        return value

    @field_validator("parameter_limits")
    @classmethod
    def _are_limits(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        for each in value:
            name, _, most = each.partition("=")
            if name not in BOUNDED:
                said = f"{name!r} cannot be bounded; allowed are {', '.join(sorted(BOUNDED))}"
                raise PydanticCustomError("parameter", "{said}", {"said": said})
            if not re.fullmatch(r"\d+(\.\d+)?", most) or not float(most):
                said = f"{each!r}: expected name=number, the number greater than 0"
                raise PydanticCustomError("parameter", "{said}", {"said": said})
        return value

    @field_validator("forward_headers")
    @classmethod
    def _are_headers(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        for name in value:
            if not re.fullmatch(r"[!#$%&'+.^_`|~0-9A-Za-z-]+", name):
                raise PydanticCustomError(
                    "header", "{said}", {"said": f"{name!r} is not the name of a header"}
                )
        return tuple(name.lower() for name in value)

    @property
    def bounds(self) -> dict[str, float]:
        """`parameter_limits`, by name."""
        pairs = (each.partition("=") for each in self.parameter_limits)
        return {name: float(most) for name, _, most in pairs}

    @model_validator(mode="after")
    def _has_room_for_a_body(self) -> Self:
        if self.max_bodies_bytes < self.max_body_bytes:
            raise PydanticCustomError(
                "bodies",
                "LONGRUN_MAX_BODIES_BYTES={all} is less than LONGRUN_MAX_BODY_BYTES={one}: no "
                "body of that size could ever be read",
                {"all": self.max_bodies_bytes, "one": self.max_body_bytes},
            )
        return self


def no_parameter(name: str) -> str:
    """What is said of a name that is no parameter of a request."""
    nearest = difflib.get_close_matches(name, NAMES, 1)
    hint = f"did you mean {nearest[0]}?" if nearest else "the wire contract lists them"
    return f"{name!r} is not a request parameter that can be forbidden; {hint}"
