"""What a request wants the last text of its run to be (`text.format`): told to the model, and
checked at the end.

The agents of the run stay as they are: to their guardrails and hooks the output is text, as they
were written for, whatever a request asks for.
"""

from typing import Any

from agents import Agent, AgentOutputSchema, AgentOutputSchemaBase, ModelBehaviorError

from longrun import schemas
from longrun.errors import OutputMismatch
from longrun.jsontext import NotJSON, loads


class RequestedOutput(AgentOutputSchemaBase):
    """A `text.format` of type `json_schema` as an output type of the SDK's."""

    def __init__(self, wanted: dict[str, Any]) -> None:
        self._wanted = wanted
        described = {"description": wanted["description"]} if wanted.get("description") else {}
        # The SDK has no place for the description; models read it in the schema just as well.
        self._schema = {**described, **wanted["schema"]}

    def is_plain_text(self) -> bool:
        return False

    def name(self) -> str:
        return str(self._wanted["name"])

    def json_schema(self) -> dict[str, Any]:
        return self._schema

    def is_strict_json_schema(self) -> bool:
        return bool(self._wanted["strict"])

    def validate_json(self, json_str: str) -> Any:
        """The value, if it fits.

        Raises:
            ModelBehaviorError: it is not JSON, or does not fit a strict schema.
        """
        try:
            return checked(json_str, self._wanted)
        except OutputMismatch as error:
            raise ModelBehaviorError(error.message) from None


def checked(text: str, wanted: dict[str, Any]) -> Any:
    """The value that a last text is, by a `text.format` that is not plain text.

    As with OpenAI, a schema that is not strict is a wish: what does not fit it is no error.

    Raises:
        OutputMismatch: it is not JSON, or does not fit a strict schema.
    """
    try:
        value = loads(text)
    except NotJSON:
        raise OutputMismatch("The model's output is not the JSON of text.format.") from None
    if wanted.get("strict") and not schemas.fits(wanted["schema"], value):
        raise OutputMismatch("The model's output does not fit the JSON schema of text.format.")
    return value


def schema_of(agent: Agent[Any]) -> dict[str, Any] | None:
    """The schema of an agent's own output type; None for text."""
    own = agent.output_type
    if own is None or own is str:
        return None
    made = own if isinstance(own, AgentOutputSchemaBase) else AgentOutputSchema(own)
    return None if made.is_plain_text() else made.json_schema()
