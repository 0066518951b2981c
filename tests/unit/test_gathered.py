"""What is streamed of a text is kept as the text, and not as its deltas."""

import tracemalloc

from longrun.assembly.arguments import Arguments
from longrun.assembly.texts import Texts

COUNT = 100_000
IDENTITY = {"item_id": "msg_1", "output_index": 0}


def kept_by(of: Texts | Arguments, kind: str, **fields: object) -> float:
    """How much is kept of a text, as a multiple of its length."""
    tracemalloc.start()
    try:
        before, _ = tracemalloc.get_traced_memory()
        size = 0
        for number in range(COUNT):
            delta = f"w{number} "
            size += len(delta)
            of.event(kind, {**IDENTITY, **fields, "type": kind, "delta": delta})
        after, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    return (after - before) / size


def test_a_text() -> None:
    texts = Texts(IDENTITY)
    assert kept_by(texts, "response.output_text.delta", content_index=0) < 3
    [part] = texts.so_far({"type": "message"})["content"]
    assert part["text"].startswith("w0 w1 w2 ")
    assert part["text"].endswith(f"w{COUNT - 1} ")


def test_arguments() -> None:
    arguments = Arguments("function_call", IDENTITY, always=True)
    assert kept_by(arguments, "response.function_call_arguments.delta") < 3
    assert arguments.so_far({})["arguments"].endswith(f"w{COUNT - 1} ")
