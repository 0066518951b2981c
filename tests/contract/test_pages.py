"""Pages of lists are bounded by bytes: what is long takes more pages, and each of them is right."""

import base64
import json
from random import Random
from typing import Any

import httpx2
from openai import AsyncOpenAI

from longrun.http.pages import MOST, fitting
from tests.reading import create, script
from tests.servers import Replica

TEXT = base64.b64encode(Random(4).randbytes(MOST // 4)).decode()[: MOST // 4 + 1000]
"""Four of them do not fit on a page. Nothing compresses it: what is encrypted is measured as it is
stored."""


def test_a_page_has_one_object_at_least() -> None:
    assert fitting([], 20) == 0
    assert fitting([MOST * 9, 1], 20) == 1
    assert fitting([1, MOST * 9, 1], 20) == 1
    assert fitting([MOST // 2, MOST // 2, 1], 20) == 2
    assert fitting([1, 1, 1], 2) == 2


async def pages(replica: Replica, path: str, **query: Any) -> list[dict[str, Any]]:
    """All pages of a list, as who follows `last_id` gets them."""
    found: list[dict[str, Any]] = []
    async with httpx2.AsyncClient(base_url=replica.base_url, timeout=60) as client:
        while not found or found[-1]["has_more"]:
            given = {**query, "limit": 100, **({"after": found[-1]["last_id"]} if found else {})}
            answer = await client.get(path, params=given)
            assert answer.status_code == 200, answer.text
            assert answer.headers["content-length"] == str(len(answer.content))
            found.append(answer.json())
            ids = [each["id"] for each in found[-1]["data"]]
            assert (found[-1]["first_id"], found[-1]["last_id"]) == (ids[0], ids[-1])
    return found


def counts(found: list[dict[str, Any]]) -> list[int]:
    return [len(page["data"]) for page in found]


async def test_responses(two: list[Replica]) -> None:
    asked = script(deltas=1, delta=TEXT)
    made = [
        await create(two[n % 2], asked, model="scripted", metadata={"of": "long pages"})
        for n in range(5)
    ]
    for order, expected in (("desc", made[::-1]), ("asc", made)):
        query = {"metadata[of]": "long pages", "order": order}
        found = await pages(two[0], "/responses", **query)
        assert counts(found) == [3, 2]
        assert [each for page in found for each in page["data"]] == expected


async def test_items_of_a_conversation_and_what_references_lead_to(
    two: list[Replica], clients: list[AsyncOpenAI]
) -> None:
    long = await create(two[0], script(deltas=1, delta=TEXT), model="scripted")
    [message] = long["output"]
    reference = {"type": "item_reference", "id": message["id"]}
    own = {"role": "user", "content": TEXT}
    conversation = await clients[1].conversations.create(
        items=[own, reference, reference, {"role": "user", "content": "short"}, own]  # type: ignore[list-item]
    )
    path = f"/conversations/{conversation.id}/items"
    found = await pages(two[0], path, order="asc")
    assert counts(found) == [4, 1]
    shown = [item["content"][0]["text"] for page in found for item in page["data"]]
    assert shown == [TEXT, TEXT, TEXT, "short", TEXT]
    items = clients[1].conversations.items.list(conversation.id, order="desc", limit=100)
    assert len([item async for item in items]) == 5
    # A reference that leads to an item of the conversation itself.
    own_id = found[0]["first_id"]
    to_own: Any = {"type": "item_reference", "id": own_id}
    await clients[0].conversations.items.create(conversation.id, items=[to_own] * 3)
    found = await pages(two[0], path, order="desc")
    assert counts(found) == [3, 4, 1]


async def test_input_items_of_the_request_itself(two: list[Replica]) -> None:
    """Of a long input a page is read, and not the rest, whatever its strings have in them."""
    odd = 'a\x00b\ud800c \u2028 "item_reference" '
    long = [{"role": "user", "content": TEXT + str(n)} for n in range(5)]
    asked = json.dumps(
        [
            *long[:4],
            {"type": "message", "role": "user", "content": odd},
            {"role": "assistant", "content": [{"type": "output_text", "text": "item_reference"}]},
            long[4],
        ]
    )
    body = f'{{"model": "scripted", "input": {asked}, "stream": false}}'
    async with httpx2.AsyncClient(base_url=two[0].base_url, timeout=60) as client:
        answer = await client.post(
            "/responses", content=body, headers={"content-type": "application/json"}
        )
        assert answer.status_code == 200, answer.text[:1000]
    path = f"/responses/{answer.json()['id']}/input_items"
    given = [item["content"] for item in json.loads(asked)]
    texts = [each if isinstance(each, str) else each[0]["text"] for each in given]
    for order in ("asc", "desc"):
        found = await pages(two[1], path, order=order)
        assert counts(found) == ([3, 4] if order == "asc" else [5, 2])
        shown = [item["content"][0]["text"] for page in found for item in page["data"]]
        assert shown == (texts if order == "asc" else texts[::-1])
    async with httpx2.AsyncClient(base_url=two[0].base_url, timeout=60) as client:
        answer = await client.get(path, params={"after": found[0]["first_id"] + "0"})
        assert answer.status_code == 400, answer.text


async def test_input_items_that_are_references(two: list[Replica]) -> None:
    """One short request, whose list would be of any size."""
    long = await create(two[0], script(deltas=1, delta=TEXT), model="scripted")
    reference = {"type": "item_reference", "id": long["output"][0]["id"]}
    own = {"role": "user", "content": "hello"}
    made = await create(two[1], [*[reference] * 7, own], model="scripted")
    found = await pages(two[0], f"/responses/{made['id']}/input_items", order="asc")
    assert counts(found)[0] == 3
    shown = [item["content"][0]["text"] for page in found for item in page["data"]]
    assert shown == [TEXT] * 7 + ["hello"]
