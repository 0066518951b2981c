"""What the provider gave: ids, sealed reasoning, the items and responses that it keeps."""

import hashlib
import hmac
from base64 import urlsafe_b64decode, urlsafe_b64encode
from dataclasses import dataclass, field
from itertools import count
from typing import Any

_SEAL = b"gAAAAAB"
"""What encrypted reasoning of OpenAI begins with."""


class Mint:
    """Makes ids that look like the provider's: `rs_` and 50 hex digits, `call_` and 24 characters.

    Deterministic: the n-th id of a seed is always the same one.
    """

    def __init__(self, seed: str) -> None:
        self._seed = seed
        self._numbers = count()

    def item(self, prefix: str) -> str:
        return f"{prefix}_{self._digest()[:50]}"

    def call(self) -> str:
        return f"call_{self._digest()[:24]}"

    def seal(self, item_id: str) -> str:
        """Encrypted reasoning, bound to its item: it can be told from an altered one."""
        body = item_id.encode()
        mark = hmac.digest(self._seed.encode(), body, "sha256")
        return (_SEAL + urlsafe_b64encode(mark + body)).decode()

    def unseal(self, sealed: str) -> str | None:
        """The id that encrypted reasoning belongs to; None if it is not ours as we gave it."""
        try:
            raw = urlsafe_b64decode(sealed.removeprefix(_SEAL.decode()))
        except ValueError:
            return None
        mark, body = raw[:32], raw[32:]
        ours = hmac.digest(self._seed.encode(), body, "sha256")
        return body.decode() if hmac.compare_digest(mark, ours) else None

    def _digest(self) -> str:
        return hashlib.sha256(f"{self._seed}:{next(self._numbers)}".encode()).hexdigest()


@dataclass
class Asked:
    """A request that came, and what became of it.

    Attributes:
        path: `/v1/responses` or `/v1/chat/completions`.
        body: as it was sent.
        headers: lower-case names.
        refusal: the error's message, if it was refused.
        output: the items, or the one message, that were given.
        usage: what the answer says was used.
    """

    path: str
    body: dict[str, Any]
    headers: dict[str, str]
    refusal: str | None = None
    output: list[dict[str, Any]] = field(default_factory=list)
    usage: dict[str, Any] | None = None

    @property
    def items(self) -> list[dict[str, Any]]:
        """The input as a list of items, or the messages."""
        given = self.body.get("input", self.body.get("messages", []))
        return [{"role": "user", "content": given}] if isinstance(given, str) else given


@dataclass
class Memory:
    """What one provider knows of.

    Attributes:
        given: every item that it gave, by id.
        stored: the ids that may be referred to: of responses with `store`.
        reasoning_of: the reasoning that an item needs before it, by the item's id.
        follower_of: the item that a reasoning needs behind it, by the reasoning's id.
        contexts: input and output of the stored responses, by id.
    """

    mint: Mint
    given: dict[str, dict[str, Any]] = field(default_factory=dict)
    stored: set[str] = field(default_factory=set)
    reasoning_of: dict[str, str] = field(default_factory=dict)
    follower_of: dict[str, str] = field(default_factory=dict)
    contexts: dict[str, list[dict[str, Any]]] = field(default_factory=dict)
    asked: list[Asked] = field(default_factory=list)

    def give(self, output: list[dict[str, Any]], store: bool) -> None:
        """Note the items of one answer, and what belongs together.

        Reasoning belongs to the item right behind it. Only those two: of parallel calls the first.
        """
        reasoning: str | None = None
        for item in output:
            self.given[item["id"]] = item
            if store:
                self.stored.add(item["id"])
            if item["type"] == "reasoning":
                reasoning = item["id"]
            elif reasoning is not None:
                self.reasoning_of[item["id"]] = reasoning
                self.follower_of[reasoning] = item["id"]
                reasoning = None
