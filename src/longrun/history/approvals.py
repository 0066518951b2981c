"""Approvals on the wire: the item that asks for one, and the items that answer."""

from collections.abc import Iterable, Mapping
from typing import Any, Final, NamedTuple

from longrun import ids
from longrun.history.cleaning import kind_of
from longrun.history.faces import Face

Item = dict[str, Any]

REQUEST: Final = "mcp_approval_request"
RESPONSE: Final = "mcp_approval_response"


class Answer(NamedTuple):
    """What a client says to a request for an approval.

    `reason` is for the model, where it was refused.
    """

    approve: bool
    reason: str | None = None


def request_item(label: str, name: str, arguments: str) -> Item:
    """A request for an approval, without its id.

    Args:
        label: the name of the agent that asks.
        name: the tool that is to be called, or whatever else is asked.
        arguments: of the call, as JSON.
    """
    return {"type": REQUEST, "server_label": label, "name": name, "arguments": arguments}


def answers_in(items: Iterable[Item]) -> dict[str, Answer]:
    """The answers that a request brings, by the ids of what they answer."""
    return {
        item["approval_request_id"]: Answer(item["approve"], item.get("reason"))
        for item in items
        if kind_of(item) == RESPONSE
    }


def answers_to(items: Iterable[Item], response_id: str) -> dict[int, Answer]:
    """The answers to what one response asked, by the output indexes of its requests."""
    found: dict[int, Answer] = {}
    for request_id, answer in answers_in(items).items():
        place = ids.place_of_item(request_id)
        if place is not None and place[0] == response_id:
            found[place[1]] = answer
    return found


def is_ours(item: Item, models: Mapping[str, str]) -> bool:
    """Whether a stored item is a request for an approval that we asked for, and no provider: no
    model is to get it.

    Args:
        models: what is stored of the model's face of items, by id.
    """
    return kind_of(item) == REQUEST and Face.read(models.get(item["id"])).origin is None
