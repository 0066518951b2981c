"""The key ring of `LONGRUN_ENCRYPTION_KEYS`: entries `id:key`, of which the first encrypts and all
decrypt. What is wrong with one is said without any part of a key."""

import base64
import binascii
import re
from dataclasses import dataclass, field
from typing import Final

KEY_BYTES: Final = 32
"""The size of a key: AES-256."""

PLAIN: Final = "plain"
"""As the first entry: new data is not encrypted, while the keys that follow still decrypt."""

_ID: Final = re.compile(r"[A-Za-z0-9_.-]{1,32}")

_HOW: Final = "expected id:key, and `openssl rand -base64 32` makes a key"


@dataclass(frozen=True, slots=True)
class RingKey:
    """A key, and the id that is stored with everything that it encrypted."""

    id: str
    secret: bytes = field(repr=False)


@dataclass(frozen=True, slots=True)
class KeyRing:
    """The keys of a replica.

    Attributes:
        writes: the key that encrypts new data; None: new data is stored as it is.
    """

    keys: tuple[RingKey, ...] = ()
    writes: RingKey | None = None

    @classmethod
    def parse(cls, text: str) -> "KeyRing":
        """Read a ring, whose entries are separated by commas, spaces or line ends.

        Raises:
            ValueError: says which entry is wrong, by its number or its id, never by its key.
        """
        entries = [entry for entry in re.split(r"[,\s]+", text) if entry]
        writes_plain = entries[:1] == [PLAIN]
        start = 2 if writes_plain else 1
        keys = tuple(_key(number, each) for number, each in enumerate(entries[start - 1 :], start))
        if not keys:
            raise ValueError(f"there is no key in it; {_HOW}")
        _check_distinct(keys)
        return cls(keys, None if writes_plain else keys[0])


def _key(number: int, entry: str) -> RingKey:
    key_id, colon, encoded = entry.partition(":")
    if not colon:
        raise ValueError(f"entry {number} has no colon; {_HOW}")
    if key_id == PLAIN or not _ID.fullmatch(key_id):
        raise ValueError(
            f"the id of entry {number} is not allowed: up to 32 letters, digits, '.', '_' and '-', "
            f"and not {PLAIN!r}"
        )
    try:
        secret = base64.b64decode(encoded, validate=True)
    except (binascii.Error, ValueError):
        raise ValueError(f"the key of {key_id!r} is not base64; {_HOW}") from None
    if len(secret) != KEY_BYTES:
        raise ValueError(
            f"the key of {key_id!r} has {len(secret)} bytes; exactly {KEY_BYTES} are needed"
        )
    return RingKey(key_id, secret)


def _check_distinct(keys: tuple[RingKey, ...]) -> None:
    by_id: dict[str, RingKey] = {}
    by_secret: dict[bytes, RingKey] = {}
    for key in keys:
        if key.id in by_id:
            raise ValueError(f"two keys have the id {key.id!r}; each needs an id of its own")
        if key.secret in by_secret:
            raise ValueError(f"{by_secret[key.secret].id!r} and {key.id!r} are the same key")
        by_id[key.id] = by_secret[key.secret] = key
