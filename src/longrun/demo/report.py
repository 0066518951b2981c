"""The facts that the demonstration found, as a table and as JSON."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from longrun.demo.proof import Comparison, Event
from longrun.demo.reading import Connection


@dataclass(frozen=True, slots=True)
class Report:
    """The facts of the second act, as the third one found them."""

    response_id: str
    status: str
    connections: Sequence[Connection]
    events: Sequence[Event]
    comparisons: dict[str, Comparison]
    """By the letter of the replica."""
    texts: dict[str, str]
    """The answer, by where it was taken from."""

    @property
    def cuts(self) -> int:
        return sum(connection.end == "cut" for connection in self.connections)

    @property
    def dropped(self) -> int:
        return sum(connection.end == "dropped" for connection in self.connections)

    @property
    def missing(self) -> int:
        return max(len(each.missing) for each in self.comparisons.values())

    @property
    def repeated(self) -> int:
        return max(len(each.repeated) for each in self.comparisons.values())

    @property
    def same_text(self) -> bool:
        return len(set(self.texts.values())) == 1 and all(self.texts.values())

    def differences(self) -> list[str]:
        """Everything that is not as it should be, in words."""
        found = [
            f"log on {name}: {difference}"
            for name, each in self.comparisons.items()
            for difference in each.differences()
        ]
        if not self.same_text:
            sizes = ", ".join(f"{where} {len(text)}" for where, text in self.texts.items())
            found.append(f"the final texts differ, in characters: {sizes}")
        if self.status != "completed":
            found.append(f"the response is {self.status}, not completed")
        return found

    def rows(self) -> list[tuple[str, str, bool]]:
        rows = [("connections", str(len(self.connections)), True), ("cuts", str(self.cuts), True)]
        if self.dropped:
            rows.append(("dropped unexpectedly", str(self.dropped), True))
        rows += [
            ("events received", str(len(self.events)), True),
            ("missing", str(self.missing), not self.missing),
            ("repeated", str(self.repeated), not self.repeated),
        ]
        for name, each in self.comparisons.items():
            said = "yes, byte for byte" if each.equal else "no"
            rows.append((f"equal to the log on {name}", said, each.equal))
        rows.append(("same final text", "yes" if self.same_text else "no", self.same_text))
        return rows

    def as_json(self) -> dict[str, Any]:
        """What `--json` prints."""
        differences = self.differences()
        return {
            "ok": not differences,
            "response_id": self.response_id,
            "status": self.status,
            "connections": len(self.connections),
            "cuts": self.cuts,
            "dropped": self.dropped,
            "events": len(self.events),
            "first": self.events[0].number,
            "last": self.events[-1].number,
            "missing": self.missing,
            "repeated": self.repeated,
            "equal_to_log": {name: each.equal for name, each in self.comparisons.items()},
            "same_text": self.same_text,
            "characters": len(next(iter(self.texts.values()))),
            "differences": differences,
            "connection_list": [asdict(connection) for connection in self.connections],
        }
