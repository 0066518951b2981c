"""Parcels: small chunks that go along with their announcement, so that a replica that reads them
need not ask Postgres. They are a hint too: one that is lost, late or not opened costs time.

LISTEN and NOTIFY need no rights: any role of the database hears what is announced, and can announce
something itself. So a parcel is encrypted and authenticated (AES-256-GCM), with a key that its
replica makes when it starts, and tells the others in a table that only longrun's roles may read. A
channel with a secret name would be no secret: views of statistics show the text of a LISTEN. What
is in a parcel is as it is stored; what is sealed there, is sealed here.

It is the last part of an announcement, `=REPLICA:BASE64`, which versions before pass over.
"""

import asyncio
import binascii
import contextlib
import logging
import os
import struct
import time
import zlib
from collections.abc import Callable, Iterable, Sequence
from typing import Final, NamedTuple

import orjson
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from longrun import metrics
from longrun.backoff import sleep_unless
from longrun.errors import Unavailable, Unreadable
from longrun.store.database import Database
from longrun.store.records import Chunk
from longrun.store.sealing import VERSION, chunk_place, parcel_key_place
from longrun.supervision import also_on, finished_before

log = logging.getLogger("longrun.store.parcels")

MARK: Final = ",="
"""Before the parcel of an announcement. No id has such a sign in it."""

PACKED_FROM: Final = 1024
"""Bytes from which on a chunk is compressed: events are much alike. Each chunk by itself, so that
the size of a parcel tells nothing that one tenant's chunk has in common with another's."""

LARGEST: Final = 64 * 1024
"""Bytes of a chunk that nobody tries to get into a parcel."""

MOST_WAITING: Final = 32 * 1024
"""Bytes of chunks that wait to go along with an announcement. With more than that they would hardly
fit, and to try takes longer than to fetch them."""

MOST_USED: Final = 0.01
"""How much of the notification queue may be in use, for parcels to be sent: some LISTENer of the
cluster does not read, and parcels would fill it much sooner. Of a queue of the usual
size, 80 MB."""

LOOK_EVERY: Final = 10.0
"""Seconds after which it is looked how full the queue is, while parcels are sent."""

LOOK_HOLDS: Final = 30.0
"""Seconds after which that is not known any more, and no parcels are sent."""

LOOK_REST: Final = 1.0
"""Minimum interval between two looks, whoever asks for one."""

KEY_BYTES: Final = 32

_NONCE: Final = struct.Struct(">4xQ")
_ABOUT: Final = "longrun parcel 1 "
_TAG_BYTES: Final = 16


class Stored(NamedTuple):
    """A chunk as it is stored, and whose it is. `packed`: its data is compressed."""

    response_id: str
    first: int
    last: int
    data: bytes
    packed: bool = False


def stored(response_id: str, chunk: Chunk) -> Stored:
    """A chunk, as it is stored, on its way into a parcel."""
    data = chunk.data
    if PACKED_FROM <= len(data) <= LARGEST:
        packed = zlib.compress(data, 1)
        if len(packed) < len(data):
            return Stored(response_id, chunk.first, chunk.last, packed, True)
    return Stored(response_id, chunk.first, chunk.last, data)


class Waiting:
    """Chunks, as readers see them, that wait for the announcements of their logs, to go along. Of
    each log those of one commit after the other, from the first that was not announced."""

    def __init__(self) -> None:
        self._chunks: dict[str, list[Chunk] | None] = {}
        self._bytes = 0

    def add(self, response_id: str, chunks: Sequence[Chunk]) -> None:
        """What was committed last of a log. Nothing: what comes after it continues nothing."""
        found = self._chunks.setdefault(response_id, [])
        if found is None:
            return
        size = sum([len(chunk.data) for chunk in chunks])
        if chunks and self._bytes + size <= MOST_WAITING:
            self._bytes += size
            found.extend(chunks)
        else:
            self._bytes -= sum([len(chunk.data) for chunk in found])
            self._chunks[response_id] = None

    def take(self) -> dict[str, list[Chunk]]:
        """All of them, which wait no more."""
        chunks, self._chunks, self._bytes = self._chunks, {}, 0
        return {id_: found for id_, found in chunks.items() if found}


class Parcels:
    """One per replica. Where announcements are to carry nothing (settings) it sends none, and still
    opens those of others.

    Args:
        reads: whether a response has readers here.
        carried: called with what comes in a parcel: whose it is, and a chunk as it is stored.
    """

    def __init__(
        self,
        database: Database,
        replica_id: str,
        *,
        reads: Callable[[str], bool],
        carried: Callable[[str, Chunk], None],
    ) -> None:
        self._database = database
        self._replica_id = replica_id
        self._reads = reads
        self._carried = carried
        self._key = new_key()
        self._own = AESGCM(self._key)
        self._sends = database.settings.announce_chunks
        self._sent = 0
        self._others: dict[str, AESGCM | None] = {}
        self._work = asyncio.Event()
        self._fits = False
        self._looked_at = -LOOK_HOLDS
        place = parcel_key_place(replica_id)
        self._told = (replica_id, database.sealing.seal(place, self._key))

    # -- sending ---------------------------------------------------------------------------------

    @property
    def may_go(self) -> bool:
        """Whether parcels can be sent: the others know the key, and the notification queue has room
        for them."""
        if not self._sends:
            return False
        age = time.monotonic() - self._looked_at
        if age > LOOK_EVERY:
            self._work.set()
        return self._fits and age < LOOK_HOLDS

    def room(self, size: int) -> int:
        """Bytes of chunks, and of what says whose each is, in a parcel of `size` characters."""
        sealed = (size - len(MARK) - len(self._replica_id) - 1) // 4 * 3
        return sealed - _NONCE.size - _TAG_BYTES

    def sealed(self, response_id: str, chunk: Chunk) -> Stored:
        """A chunk, as readers see it, on its way into a parcel."""
        place = chunk_place(response_id, chunk.first, chunk.last)
        data = self._database.sealing.seal(place, chunk.data)
        return stored(response_id, Chunk(chunk.first, chunk.last, data))

    def pack(self, chunks: Iterable[Stored], room: int) -> str:
        """A parcel, after its mark, with those of these chunks that fit. Empty: none does."""
        full: set[str] = set()
        heads: list[tuple[str, int, int, int, bool]] = []
        datas = []
        for response_id, first, last, data, packed in chunks:
            takes = cost(response_id, first, last, data)
            if takes > room or response_id in full:
                # Nor what comes after it in its log, which would not continue anything.
                full.add(response_id)
                continue
            room -= takes
            heads.append((response_id, first, last, len(data), packed))
            datas.append(data)
        if not heads:
            return ""
        plain = b"\n".join((orjson.dumps(heads), b"".join(datas)))
        nonce = _NONCE.pack(self._sent)
        self._sent += 1
        sealed = nonce + self._own.encrypt(nonce, plain, (_ABOUT + self._replica_id).encode())
        text = binascii.b2a_base64(sealed, newline=False).decode("ascii")
        return f"{MARK}{self._replica_id}:{text}"

    def refused(self) -> None:
        """A NOTIFY was refused: perhaps the notification queue is full."""
        self._fits = False
        self._work.set()

    # -- receiving -------------------------------------------------------------------------------

    def received(self, parcel: str, response_ids: Iterable[str]) -> None:
        """A parcel came, with the announcement of these. Never fails: anybody may send anything."""
        if not any(map(self._reads, response_ids)):
            return
        replica_id, _, text = parcel.partition(":")
        if replica_id == self._replica_id:
            return
        if replica_id not in self._others:
            self._work.set()
        cipher = self._others.get(replica_id)
        if cipher is None:
            metrics.parcels_unopened.inc()
            return
        try:
            sealed = binascii.a2b_base64(text)
            about = (_ABOUT + replica_id).encode()
            plain = cipher.decrypt(sealed[: _NONCE.size], sealed[_NONCE.size :], about)
            chunks = _opened(plain)
        except Exception:  # a forgery: InvalidTag, no base64, too little of it
            metrics.parcels_unopened.inc()
            return
        for response_id, chunk in chunks:
            if self._reads(response_id):
                self._carried(response_id, chunk)

    # -- keys ------------------------------------------------------------------------------------

    async def run(self, stop: asyncio.Event) -> None:
        """Tell the own key and learn those of the others, again when one is not known; and how full
        the notification queue is, while parcels are sent."""
        with also_on(stop, self._work.set):
            while not stop.is_set():
                self._work.clear()
                with contextlib.suppress(Unavailable):
                    await finished_before(stop, self._look())
                if not await sleep_unless(stop, LOOK_REST):
                    await self._work.wait()

    async def _look(self) -> None:
        rows = await self._database.fetch(self._database.queries.exchange_parcel_keys, *self._told)
        self._others = {row["replica_id"]: self._cipher(*row) for row in rows}
        self._fits = self._others.pop(self._replica_id, None) is not None and (
            rows[0]["usage"] < MOST_USED
        )
        self._looked_at = time.monotonic()

    def _cipher(self, replica_id: str, key: bytes, _usage: float) -> AESGCM | None:
        """What opens the parcels of a replica; None if its key is of no use here."""
        try:
            key = self._database.sealing.open(parcel_key_place(replica_id), key)
        except Unreadable:
            return None
        return AESGCM(key) if len(key) == KEY_BYTES else None


def new_key() -> bytes:
    """A key that nobody takes for a sealed one, by its first byte, where it is stored as it is."""
    while (key := os.urandom(KEY_BYTES))[0] == VERSION:
        pass
    return key


def cost(response_id: str, first: int, last: int, data: bytes) -> int:
    """About how many bytes of a parcel a chunk takes, rather more."""
    return len(response_id) + len(str(first)) + len(str(last)) + len(data) + 24


def _opened(plain: bytes) -> Sequence[tuple[str, Chunk]]:
    """What a replica has packed."""
    head, _, rest = plain.partition(b"\n")
    found = []
    for response_id, first, last, length, packed in orjson.loads(head):
        data, rest = rest[:length], rest[length:]
        if packed:
            data = zlib.decompress(data)
        found.append((response_id, Chunk(first, last, data)))
    return found
