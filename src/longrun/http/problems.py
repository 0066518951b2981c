"""What is wrong with a request, in the words of the API."""

from typing import Any, Final

from pydantic import ValidationError

from longrun.errors import BadRequest, NotFound

_OUR_WORDS: Final = {
    "dict_type": "Input should be an object",
    "list_type": "Input should be a list",
    "model_type": "Input should be an object",
    "string_unicode": "Input should be Unicode text, without lone surrogates",
}


def shortened(text: str, most: int = 200) -> str:
    """A client's text as an answer repeats it: whole, unless it is long."""
    return text if len(text) <= most else text[:most] + "…"


def response_not_found(response_id: str) -> NotFound:
    """The same error whether it is unknown or another principal's."""
    return NotFound(
        f"Response with id {shortened(response_id)!r} not found.", param="id", lost=response_id
    )


def item_not_found(param: str, place: int, item_id: str) -> BadRequest:
    """The same error whether it is unknown or another principal's.

    Args:
        param: the list that has the reference, and `place` where it is there.
    """
    return BadRequest(
        f"Item with id {shortened(item_id)!r} not found.",
        param=f"{param}[{place}].id",
        code="item_not_found",
        lost=item_id,
    )


def bad_request(error: ValidationError, given: Any) -> BadRequest:
    """One problem, in the words of the API: where it is and what would be right."""
    problems = error.errors(include_url=False, include_input=False)
    # The deepest: of a union, that is the branch which the client meant.
    problem = max(problems, key=lambda each: len(each["loc"]))
    param = shortened(_where(problem["loc"], given, problem["type"] == "missing"))
    shown = f"{param}: " if param else ""
    message = _OUR_WORDS.get(problem["type"], problem["msg"])
    return BadRequest(f"{shown}{message}.", param=param or None, code="invalid_type")


def _where(location: tuple[str | int, ...], given: Any, missing: bool) -> str:
    """The parameter at a location; what is not in the body there names a branch of a union."""
    path = ""
    for place, part in enumerate(location):
        if isinstance(given, list) and isinstance(part, int):
            path, given = f"{path}[{part}]", given[part]
        elif isinstance(given, dict) and part in given:
            path, given = f"{path}.{part}", given[part]
        elif missing and place == len(location) - 1:
            path = f"{path}.{part}"
    return path.lstrip(".")
