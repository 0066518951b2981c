"""The proof: what came over broken connections against what the replicas have stored."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from longrun import jsontext
from longrun.protocol import TERMINAL_EVENTS

SHOWN = 120


@dataclass(frozen=True, slots=True)
class Event:
    """One event as it was received: its JSON text, byte for byte, and two fields of it."""

    number: int
    type: str
    text: bytes

    @classmethod
    def parse(cls, text: bytes) -> "Event":
        """Raises `NotJSON` or `KeyError` when the text is no Responses event."""
        fields = jsontext.loads(text)
        return cls(fields["sequence_number"], fields["type"], text)

    def fields(self) -> dict[str, Any]:
        fields: dict[str, Any] = jsontext.loads(self.text)
        return fields


@dataclass(frozen=True, slots=True)
class Comparison:
    """How a received stream differs from a stored log; sequence numbers, in order."""

    missing: tuple[int, ...]
    """In the log, and not received."""
    repeated: tuple[int, ...]
    """Received more than once, as often as too often."""
    unknown: tuple[int, ...]
    """Received, and not in the log."""
    changed: tuple[int, ...]
    """Received with another text than the log has."""
    disordered: tuple[int, ...]
    """Received after a higher number."""
    flaws: tuple[str, ...]
    """What is wrong with the log by itself."""
    details: tuple[str, ...]
    """Both texts of each changed event."""

    @property
    def equal(self) -> bool:
        return not self.differences()

    def differences(self) -> list[str]:
        """Each difference in words; empty when there is none."""
        found = {
            "missing": self.missing,
            "received more than once": self.repeated,
            "not in the log": self.unknown,
            "changed": self.changed,
            "out of order": self.disordered,
        }
        said = [f"{what}: event {_ranges(numbers)}" for what, numbers in found.items() if numbers]
        return [*said, *self.flaws, *self.details]


def compare(received: Sequence[Event], log: Sequence[Event]) -> Comparison:
    """Compare event by event, by the JSON text.

    Args:
        received: all that came, in the order in which it came, over all connections.
        log: a full replay from one replica.
    """
    stored = {event.number: event.text for event in log}
    counts = Counter(event.number for event in received)
    changed = [event for event in received if stored.get(event.number, event.text) != event.text]
    highest = -1
    disordered = []
    for event in received:
        if event.number < highest:
            disordered.append(event.number)
        highest = max(highest, event.number)
    return Comparison(
        missing=tuple(sorted(stored.keys() - counts.keys())),
        repeated=tuple(sorted((counts - Counter(counts.keys())).elements())),
        unknown=tuple(sorted(counts.keys() - stored.keys())),
        changed=tuple(event.number for event in changed),
        disordered=tuple(disordered),
        flaws=tuple(_flaws(log)),
        details=tuple(_detail(event, stored[event.number]) for event in changed),
    )


def _flaws(log: Sequence[Event]) -> list[str]:
    flaws = []
    numbers = [event.number for event in log]
    if numbers != list(range(len(log))):
        flaws.append(f"the log does not count 0, 1, 2, …: it has {_ranges(numbers)}")
    ends = [event.number for event in log if event.type in TERMINAL_EVENTS]
    if len(ends) != 1 or log[-1].number != ends[0]:
        flaws.append(f"the log should end with its only terminal event; it has {len(ends)}")
    return flaws


def _detail(received: Event, stored: bytes) -> str:
    """The first place where the two texts differ, with some of what surrounds it."""
    pairs = zip(received.text, stored, strict=False)
    same = next((at for at, (one, other) in enumerate(pairs) if one != other), None)
    at = max(0, min(len(received.text), len(stored)) if same is None else same - 20)
    return (
        f"event {received.number} from byte {at}: "
        f"received {received.text[at : at + SHOWN]!r}, stored {stored[at : at + SHOWN]!r}"
    )


def _ranges(numbers: Sequence[int]) -> str:
    """`3–5, 9` for 3, 4, 5, 9."""
    spans: list[list[int]] = []
    for number in numbers:
        if spans and number == spans[-1][1] + 1:
            spans[-1][1] = number
        else:
            spans.append([number, number])
    return ", ".join(f"{a}" if a == b else f"{a}–{b}" for a, b in spans) or "nothing"


def streamed_text(events: Sequence[Event]) -> str:
    """The answer as it was shown before the last event: deltas are added up, and `output` of each
    event that has a response (after a takeover too) replaces what was shown."""
    texts: dict[int, str] = {}
    for event in events:
        if event.type in TERMINAL_EVENTS:
            break
        fields = event.fields()
        if "response" in fields:
            texts = dict(enumerate(map(_text, fields["response"].get("output", ()))))
        elif event.type == "response.output_text.delta":
            index = fields.get("output_index", 0)
            texts[index] = texts.get(index, "") + fields["delta"]
    return "".join(texts[index] for index in sorted(texts))


def final_text(events: Sequence[Event]) -> str:
    """The answer as the snapshot in the terminal event has it."""
    if not events or events[-1].type not in TERMINAL_EVENTS:
        return ""
    return "".join(map(_text, events[-1].fields()["response"]["output"]))


def _text(item: dict[str, Any]) -> str:
    if item["type"] != "message":
        return ""
    return "".join(part["text"] for part in item["content"] if part["type"] == "output_text")
