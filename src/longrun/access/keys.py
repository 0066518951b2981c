"""API keys: `lr_PREFIX_SECRET`. The prefix is public, of the whole only the hash is stored.

The secret is 256 random bits, so a plain SHA-256 is as good as a slow hash, which is for
passwords that people choose.
"""

import hashlib
import hmac
import re
import secrets
from dataclasses import dataclass, field
from typing import Final

_ALPHABET: Final = "abcdefghijkmnpqrstuvwxyz23456789"
"""Without characters that look alike: prefixes are read aloud and typed."""

_KEY: Final = re.compile(r"(?P<prefix>lr_[a-z0-9]{12})_(?P<secret>[A-Za-z0-9_-]{43})")


@dataclass(frozen=True, slots=True)
class NewKey:
    """A key as it is shown, once."""

    text: str = field(repr=False)
    prefix: str
    hash: bytes = field(repr=False)


def new_key() -> NewKey:
    """A key that nobody has."""
    prefix = "lr_" + "".join(secrets.choice(_ALPHABET) for _ in range(12))
    text = f"{prefix}_{secrets.token_urlsafe(32)}"
    return NewKey(text, prefix, hash_of(text))


def prefix_of(text: str) -> str | None:
    """The public part of what may be a key; None where it cannot be one."""
    found = _KEY.fullmatch(text)
    return found["prefix"] if found else None


def hash_of(text: str) -> bytes:
    return hashlib.sha256(text.encode()).digest()


def matches(text: str, stored: bytes) -> bool:
    """Whether a text is the key of a hash, in a time that does not tell how nearly."""
    return hmac.compare_digest(hash_of(text), stored)
