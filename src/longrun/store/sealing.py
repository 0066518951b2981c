"""Encryption at rest: what is stored of a response is sealed on its way into Postgres, and opened
on its way out. Nothing else of longrun knows of it.

A sealed value is an envelope: version, flags, the length of what is in it, the id of its key, a
random nonce, and what AES-256-GCM made of it. All of that and the place where the value belongs
(whose it is, which column, which position) are authenticated: one that was changed, or stands
elsewhere, is not opened. In columns of text the envelope is `sealed:key id:base64`, which no JSON
begins like; in those of bytes it begins with VERSION, which no chunk of JSON does. So plain and
sealed values live side by side, each says what it is, and a ring changes key by key.

Each response, and each conversation, has a key of its own, derived from the ring's: of one key's
random nonces only so many may be drawn.
"""

import base64
import functools
import hmac
import logging
import os
import struct
import zlib
from collections.abc import Iterable
from hashlib import blake2b
from typing import Final, NamedTuple

from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from longrun import ids
from longrun.errors import Unreadable
from longrun.key_ring import KeyRing, RingKey

log = logging.getLogger("longrun.store.sealing")

VERSION: Final = 1
"""The first byte of an envelope. Queries look at it, and at the flags and the length after it."""

COMPRESSED: Final = 1
MARKED: Final = 2
"""Flags: it was compressed before it was encrypted; an item begins or ends in this chunk."""

COMPRESSED_FROM: Final = 2048
"""Bytes from which on a value is compressed: Postgres does so with plain ones of that size, and
cannot with what looks random."""

ITEM_EVENT: Final = b'{"type":"response.output_item.'
"""How an event with which an item begins or ends is written (`type` comes first in all)."""

_TEXT: Final = "sealed:"
_HEADER: Final = struct.Struct(">BBIB")
_NONCE_BYTES: Final = 12
_CIPHERS: Final = 4096
"""Responses and conversations whose derived keys are kept."""


class Place(NamedTuple):
    """Where a value belongs: whose it is, what it is, and where among others of its kind. A sealed
    one is opened nowhere else."""

    owner: str
    what: str
    position: tuple[object, ...] = ()

    def __str__(self) -> str:
        return " ".join(map(str, (self.what, *self.position, "of", self.owner)))


def chunk_place(response_id: str, first: int, last: int) -> Place:
    return Place(response_id, "chunk", (first, last))


def digest_place(response_id: str, first: int, last: int) -> Place:
    """What a stretch of a live log says (`digests.data`)."""
    return Place(response_id, "digest", (first, last))


def column_place(response_id: str, column: str) -> Place:
    """A column of `responses`: document, input, request or reason."""
    return Place(response_id, column)


def item_place(response_id: str, index: int) -> Place:
    """An item, by its output index; of the response's own input, by the index in its id."""
    return Place(response_id, "item", (index,))


def steer_place(response_id: str, number: int) -> Place:
    """A message that was put into a response while it was made: an input item of it."""
    return item_place(response_id, ids.input_index(ids.steer_place(number)))


def model_place(response_id: str, index: int) -> Place:
    """The model's face of an item."""
    return Place(response_id, "model", (index,))


def step_place(response_id: str, scope: str, kind: str, key: str, column: str) -> Place:
    """A column of `steps`: fingerprint or result."""
    return Place(response_id, "step", (scope, kind, key, column))


def parked_place(response_id: str) -> Place:
    """What waits for approvals (`parked.state`)."""
    return Place(response_id, "parked")


def metadata_place(conversation_id: str) -> Place:
    return Place(conversation_id, "metadata")


def parcel_key_place(replica_id: str) -> Place:
    """What the parcels of a replica are encrypted with (`parcel_keys.key`)."""
    return Place(replica_id, "parcel key")


def webhook_place(endpoint_id: str) -> Place:
    """What a webhook endpoint is: its name, URL and secrets (`webhook_endpoints.document`)."""
    return Place(endpoint_id, "webhook")


def said_place(conversation_id: str, item_id: str, what: str = "item") -> Place:
    """An item of a conversation. One that belongs to a response has the same place there: its row
    may be a copy of the response's.

    Args:
        what: `item`, or `model` for the model's face.
    """
    found = ids.place_of_item(item_id)
    if found is None:
        return Place(conversation_id, what, (item_id,))
    response_id, index = found
    return Place(response_id, what, (index,))


class Sealing:
    """Seals with the first key of a ring, and opens what any of its keys has sealed.

    Attributes:
        ring: empty where encryption is not set up: everything passes as it is, and what is sealed
            is refused.
    """

    def __init__(self, ring: KeyRing) -> None:
        self.ring = ring
        self._keys = {key.id: key for key in ring.keys}
        self._cipher = functools.lru_cache(_CIPHERS)(self._make_cipher)

    @property
    def knows_keys(self) -> bool:
        """Whether there may be sealed values that this replica can open."""
        return bool(self._keys)

    @property
    def writes(self) -> bool:
        """Whether new values are sealed."""
        return self.ring.writes is not None

    # -- bytes -----------------------------------------------------------------------------

    def seal(self, place: Place, plain: bytes) -> bytes:
        """An envelope; the value itself where new ones are not sealed."""
        key = self.ring.writes
        return plain if key is None else self._envelope(key, place, plain)

    def open(self, place: Place, value: bytes) -> bytes:
        """What was sealed; a value that was not is returned as it is.

        Raises:
            Unreadable: there is no such key here, or the value was changed, or belongs elsewhere.
        """
        return self._opened(place, value) if is_sealed(value) else value

    # -- text ------------------------------------------------------------------------------

    def seal_text(self, place: Place, plain: str) -> str:
        """As `seal`, for columns of text."""
        key = self.ring.writes
        if key is None:
            return plain
        envelope = self._envelope(key, place, plain.encode("utf-8", "surrogatepass"))
        return f"{_TEXT}{key.id}:{base64.b64encode(envelope).decode('ascii')}"

    def open_text(self, place: Place, value: str) -> str:
        """As `open`, for columns of text.

        Raises:
            Unreadable: see `open`.
        """
        if not value.startswith(_TEXT):
            return value
        try:
            envelope = base64.b64decode(value.rpartition(":")[2], validate=True)
        except ValueError:
            raise _unreadable(place, "it is no envelope") from None
        return self._opened(place, envelope).decode("utf-8", "surrogatepass")

    def seal_some(self, place: Place, plain: str | None) -> str | None:
        """As `seal_text`; None stays None."""
        return None if plain is None else self.seal_text(place, plain)

    def open_some(self, place: Place, value: str | None) -> str | None:
        """As `open_text`; None stays None."""
        return None if value is None else self.open_text(place, value)

    # -- what values are found by ------------------------------------------------------------

    def metadata_hashes(self, pairs: Iterable[tuple[str, str]]) -> list[int]:
        """What `key=value` pairs of a new response are found by."""
        return _hashes(list(pairs), _hash_key(self.ring.writes))

    def sought_hashes(self, pairs: Iterable[tuple[str, str]]) -> list[list[int]]:
        """Of these pairs the hashes that a response may have, by the key that it was written with;
        the last are those without a key."""
        found = list(pairs)
        return [_hashes(found, _hash_key(key)) for key in (*self.ring.keys, None)]

    def keyed_hashes(self, purpose: str, owner: str, text: str) -> list[bytes]:
        """What a text of somebody's is known by (32 bytes each), without telling it: a hash by each
        key of the ring, and one without a key only where new values are not sealed."""
        said = f"{len(owner)} {owner} {text}".encode("utf-8", "surrogatepass")
        hashes = [hmac.digest(_derived(key, purpose), said, "sha256") for key in self.ring.keys]
        if not self.writes:
            hashes.append(hmac.digest(purpose.encode(), said, "sha256"))
        return hashes

    # -- how -------------------------------------------------------------------------------

    def _envelope(self, key: RingKey, place: Place, plain: bytes) -> bytes:
        flags, packed = 0, plain
        if place.what == "chunk" and ITEM_EVENT in plain:
            flags |= MARKED
        if len(plain) >= COMPRESSED_FROM:
            packed = zlib.compress(plain, 1)
            flags |= COMPRESSED
        key_id = key.id.encode("ascii")
        head = _HEADER.pack(VERSION, flags, len(plain), len(key_id)) + key_id
        nonce = os.urandom(_NONCE_BYTES)
        cipher = self._cipher(key.id, place.owner)
        return head + nonce + bytes(cipher.encrypt(nonce, packed, head + _bytes_of(place)))

    def _opened(self, place: Place, envelope: bytes) -> bytes:
        try:
            version, flags, length, id_length = _HEADER.unpack_from(envelope)
            start = _HEADER.size + id_length
            key_id = envelope[_HEADER.size : start].decode("ascii")
            nonce = envelope[start : start + _NONCE_BYTES]
            if version != VERSION or len(nonce) < _NONCE_BYTES:
                raise ValueError
        except (struct.error, ValueError):
            raise _unreadable(place, "it is no envelope") from None
        if key_id not in self._keys:
            raise _unreadable(place, f"key {key_id!r} is not in the ring of this replica")
        cipher = self._cipher(key_id, place.owner)
        about = envelope[:start] + _bytes_of(place)
        try:
            packed = cipher.decrypt(nonce, envelope[start + _NONCE_BYTES :], about)
        except Exception as error:  # InvalidTag, which has no text, or a ciphertext that is cut off
            raise _unreadable(
                place, f"it does not fit key {key_id!r}: it was changed, or belongs elsewhere"
            ) from error
        plain = zlib.decompress(packed) if flags & COMPRESSED else bytes(packed)
        if len(plain) != length:
            raise _unreadable(place, "its length is wrong")
        return plain

    def _make_cipher(self, key_id: str, owner: str) -> AESGCM:
        secret = _derived(self._keys[key_id], f"values {owner}")
        return AESGCM(secret)


def is_sealed(value: bytes) -> bool:
    """Whether it is an envelope: by its first byte, with which no plain value of ours begins."""
    return value[:1] == b"\x01"


def check_value(key: RingKey) -> str:
    """Tells whether two rings mean the same key by an id, and nothing of the key."""
    return _derived(key, "check").hex()[:32]


def text_prefix(key: RingKey | None) -> str:
    """How text begins that was sealed with this key; None: with any."""
    return _TEXT if key is None else f"{_TEXT}{key.id}:"


def id_in_envelope(key: RingKey | None) -> bytes:
    """What an envelope has after the length of what is in it, for this key; None: for any."""
    return b"" if key is None else bytes([len(key.id)]) + key.id.encode("ascii")


def _derived(key: RingKey, purpose: str) -> bytes:
    """A key for one purpose, by HMAC as a pseudo-random function."""
    message = f"longrun {purpose}".encode("utf-8", "surrogatepass")
    return hmac.digest(key.secret, message, "sha256")


def _hash_key(key: RingKey | None) -> bytes:
    return b"" if key is None else _derived(key, "metadata")


def _hashes(pairs: list[tuple[str, str]], key: bytes) -> list[int]:
    """Pairs are found by these: their texts may hold what Postgres's text cannot."""
    return sorted(_hash(f"{len(name)} {name}={value}", key) for name, value in pairs)


def _hash(text: str, key: bytes) -> int:
    digest = blake2b(text.encode("utf-8", "surrogatepass"), digest_size=8, key=key).digest()
    return int.from_bytes(digest, signed=True)


def _bytes_of(place: Place) -> bytes:
    """No part has a NUL in it: all of them come from, or go to, Postgres's text."""
    parts = map(str, (place.owner, place.what, *place.position))
    return "\0".join(parts).encode("utf-8", "surrogatepass")


def _unreadable(place: Place, why: str) -> Unreadable:
    # A model may have given a call id that is no proper Unicode, and it is in a step's key.
    log.error(
        "%s cannot be opened: %s", str(place).encode("ascii", "backslashreplace").decode(), why
    )
    return Unreadable()
