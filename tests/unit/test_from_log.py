"""Reading a log back: deltas of one part come as one, whatever is in their texts."""

import itertools
from typing import Any

from hypothesis import example, given
from hypothesis import strategies as st

from longrun.assembly.from_log import events_in
from longrun.jsontext import dumps, loads

texts = st.text(st.sampled_from('ab",\\\n}{:\ud83d\ude00é')) | st.sampled_from(
    ['","item_id":"msg_1"', "\\", '\\"', '"delta":"', "plain "]
)


@st.composite
def deltas(draw: Any) -> dict[str, Any]:
    kind = draw(st.sampled_from(["output_text", "function_call_arguments", "reasoning_text"]))
    index = draw(st.integers(0, 1))
    event = {"type": f"response.{kind}.delta", "sequence_number": 0}
    if draw(st.integers(0, 9)) == 0:
        return {"type": "response.output_text.done", "sequence_number": 0, "text": draw(texts)}
    if kind != "function_call_arguments":
        event |= {"content_index": draw(st.integers(0, 1))}
    event |= {"delta": draw(texts)}
    if draw(st.integers(0, 3)) == 0:
        event |= {"obfuscation": "xyz"}
    event |= {"item_id": f"msg_{index}"}
    if kind == "output_text":
        event |= {"logprobs": draw(st.sampled_from([[], [], [{"token": "a"}]]))}
    return {**event, "output_index": index}


def plainly(events: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The same events, but the deltas of a part that follow each other are one."""
    kinds = ("type", "output_index", "content_index")
    found = []
    for part, together in itertools.groupby(events, lambda e: [e.get(key) for key in kinds]):
        alike = list(together)
        if str(part[0]).endswith(".delta"):
            found.append({**alike[0], "delta": "".join(event["delta"] for event in alike)})
        else:
            found += alike
    return found


def delta(text: str, **more: Any) -> dict[str, Any]:
    kind = "response.output_text.delta"
    return {"type": kind, "sequence_number": 0, "delta": text, **more, "output_index": 0}


@example([delta("a"), delta("b", obfuscation="xyz"), delta("c")])
@example([delta('a",'), delta("b"), delta('c",'), delta("d")])
@given(st.lists(deltas(), min_size=1, max_size=12))
def test_it_is_what_the_log_says(events: list[dict[str, Any]]) -> None:
    lines = [dumps({**event, "sequence_number": n}) for n, event in enumerate(events, 98)]
    found = list(events_in(b"\n".join(lines)))
    expected = plainly([loads(line) for line in lines])
    for event in found + expected:
        event["sequence_number"] = 0
        if "delta" in event:
            # Halves of a pair that come in two deltas: clients of JavaScript put them together.
            event["delta"] = (
                event["delta"].encode("utf-16", "surrogatepass").decode("utf-16", "replace")
            )
    assert found == expected
