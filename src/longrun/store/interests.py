"""Interests: which responses other replicas have readers for. What nobody reads elsewhere is not
announced.

Each replica tells the others on the control channel:

- `reading REPLICA ID,ID,…`: all that it has readers for;
- `reads REPLICA ID,…` and `left REPLICA ID,…`: these as well, these no longer;
- `who`, `who REPLICA`: everybody, or that one, is to say `reading`;
- `hears REPLICA`: that one has a channel of its own for announcements. What only such replicas
  read is announced there, and wakes no other process; all else on the channel that all have.

Versions before this one neither send nor understand these messages. So while any replica that is
alive has not said what it reads, and whenever this one may have missed a message, everything is
announced. Who hears of an interest in a log that it writes answers by announcing how far that log
reaches: nothing is missed that was committed while the message was on its way. A reader that gets
no answer looks by itself, and says it again (`fanout/hub.py`).
"""

import asyncio
import time
from collections.abc import Callable, Iterable, Iterator, Set
from typing import Final

MESSAGE_BYTES: Final = 7_900
"""Postgres takes payloads under 8,000 bytes."""

LOOK_HOLDS: Final = 3.0
"""Seconds for which it is known who is alive, from one look to several that failed. A replica that
drains looks no more, and announces everything."""

TAKEN_FROM: Final = 5.0
"""Seconds for which all events of a response that was taken from another replica are announced: it
may have readers there, of which it had nobody to tell while it wrote the log itself."""

SAY_EVERY: Final = 1.0
"""Minimum interval between two complete lists of a replica; many may ask at once."""

ASK_EVERY: Final = 10.0
"""Interval at which a replica that has not said what it reads is asked again."""

JOINED_WITHIN: Final = 0.003
"""Seconds after which the others are told that a response has readers here: what these begin with
is read first. What is committed meanwhile is announced then."""

LEFT_WITHIN: Final = 1.0
"""Seconds within which the others are told that a response has no readers here any more."""

MANY: Final = 4
"""Replicas beyond which what they read is announced to all: one message, not one for each."""

FORGOTTEN_AFTER: Final = 60.0
"""Seconds after which the interests of a replica that is not alive are forgotten; one that was
frozen for less has its announcements at once."""


class Interests:
    """One per replica.

    Args:
        reading: the responses that have readers here.
        local: whether a response is executed here, so that its readers need no announcement.
        hears: whether the LISTEN connection is up.
        wanted: called with a response that another replica has become interested in.
        moved: called with a response that has been taken by another attempt, on whichever replica.
        strangers: called when there is a new replica of which it is not known what it reads.
        wake: called when `messages` has something to send.
    """

    def __init__(
        self,
        replica_id: str,
        *,
        reading: Callable[[], Iterable[str]],
        local: Callable[[str], bool],
        hears: Callable[[], bool],
        wanted: Callable[[str], None],
        moved: Callable[[str], None],
        strangers: Callable[[], None],
        wake: Callable[[], None],
    ) -> None:
        self._own_id = replica_id
        self._reading = reading
        self._local = local
        self._hears = hears
        self._wanted = wanted
        self._moved = moved
        self._report_strangers = strangers
        self._wake = wake
        # Of the others.
        self._of: dict[str, set[str]] = {}
        self._readers: dict[str, set[str]] = {}
        self._direct: set[str] = set()
        self._alive: frozenset[str] = frozenset()
        self._alive_at: dict[str, float] = {}
        self._strangers: frozenset[str] = frozenset()
        self._looked_at = -LOOK_HOLDS
        self._taken: dict[str, float] = {}
        # Of this one, and what it has to say.
        self._told: set[str] = set()
        self._pending: dict[str, bool] = {}
        self._joined = False
        self._asks: dict[str, None] = {}
        self._asked_at: dict[str, float] = {}
        self._says_all = False
        self._said_at = -SAY_EVERY

    # -- what is read elsewhere ----------------------------------------------------------------

    def elsewhere(self, response_id: str) -> bool:
        """Whether a response has readers on another replica, or may have."""
        return response_id in self._readers or self._is_unsure(response_id)

    def is_read(self, response_id: str) -> bool:
        """Whether a response has readers on another replica, for certain."""
        return response_id in self._readers

    def _is_unsure(self, response_id: str) -> bool:
        """Whether it may have readers on a replica of which that is not known here."""
        if self._strangers or not self._hears():
            return True
        now = time.monotonic()
        if now - self._looked_at > LOOK_HOLDS:
            return True
        taken = self._taken.get(response_id)
        return taken is not None and now - taken < TAKEN_FROM

    def who_hears(self, response_id: str) -> Iterable[str]:
        """The replicas on whose own channels it is to be announced; none: on that of all."""
        readers: Set[str] = self._readers.get(response_id, frozenset())
        direct = len(readers) <= MANY and readers <= self._direct
        return readers if direct and not self._is_unsure(response_id) else ()

    def took(self, response_id: str) -> None:
        """This replica goes on with a response that another one may have executed."""
        self._taken[response_id] = time.monotonic()

    def looked(self, alive: Iterable[str]) -> None:
        """A look around has found these replicas alive, this one perhaps among them."""
        now = self._looked_at = time.monotonic()
        self._alive = frozenset(alive) - {self._own_id}
        self._alive_at |= dict.fromkeys(self._alive, now)
        for replica in [r for r, at in self._alive_at.items() if now - at > FORGOTTEN_AFTER]:
            del self._alive_at[replica]
            self._asked_at.pop(replica, None)
            self._direct.discard(replica)
            self._forget(replica)
        self._taken = {id_: at for id_, at in self._taken.items() if now - at < TAKEN_FROM}
        known = self._strangers
        self._count_strangers()
        if not self._strangers <= known:
            self._report_strangers()
        for replica in self._strangers:
            if now - self._asked_at.get(replica, -ASK_EVERY) >= ASK_EVERY:
                self._asked_at[replica] = now
                self._asks[f"who {replica}"] = None
                self._wake()

    def heard(self, message: str) -> None:
        """A message of the control channel; those about something else are passed over."""
        kind, _, rest = message.partition(" ")
        if kind == "taken":
            self._moved(rest.partition(" ")[0])
        elif kind == "who":
            if rest in ("", self._own_id):
                self.say_all()
        elif kind == "hears":
            self._hear_direct(rest)
        elif kind in ("reading", "reads", "left"):
            replica, _, listed = rest.partition(" ")
            if replica and replica != self._own_id:
                self._hear(kind, replica, listed.split(",") if listed else [])

    def _hear_direct(self, replica: str) -> None:
        if replica and replica not in self._direct and replica != self._own_id:
            self._direct.add(replica)
            # It may be new, and not know this one.
            self._asks[f"hears {self._own_id}"] = None
            self._wake()

    def _hear(self, kind: str, replica: str, ids: list[str]) -> None:
        if kind == "reading":
            self._forget(replica)
            self._of[replica] = set()
            self._alive_at[replica] = time.monotonic()
            self._count_strangers()
        read = self._of.get(replica)
        for response_id in ids:
            if kind == "left":
                if read is not None and response_id in read:
                    read.remove(response_id)
                    self._forget_reader(replica, response_id)
                continue
            if read is not None and response_id not in read:
                read.add(response_id)
                self._readers.setdefault(response_id, set()).add(replica)
            self._wanted(response_id)

    def _forget(self, replica: str) -> None:
        for response_id in self._of.pop(replica, ()):
            self._forget_reader(replica, response_id)

    def _forget_reader(self, replica: str, response_id: str) -> None:
        readers = self._readers[response_id]
        readers.discard(replica)
        if not readers:
            del self._readers[response_id]

    def _count_strangers(self) -> None:
        self._strangers = self._alive.difference(self._of)

    # -- what is read here ---------------------------------------------------------------------

    def join(self, response_id: str) -> bool:
        """A response has readers here. False: it is executed here, so nobody need be told."""
        if self._local(response_id):
            return False
        self._pending[response_id] = True
        if not self._joined:
            self._joined = True
            asyncio.get_running_loop().call_later(JOINED_WITHIN, self._say_joined)
        return True

    def _say_joined(self) -> None:
        self._joined = False
        self._wake()

    def leave(self, response_id: str) -> None:
        """A response has no readers here any more."""
        if response_id not in self._told:
            self._pending.pop(response_id, None)
        elif self._pending.get(response_id) is not False:
            if not self._pending:
                asyncio.get_running_loop().call_later(LEFT_WITHIN, self._wake)
            self._pending[response_id] = False

    def reconnected(self) -> None:
        """There is a new LISTEN connection: before it, anything may have been missed."""
        for replica in list(self._of):
            self._forget(replica)
        self._count_strangers()
        self._asks[f"hears {self._own_id}"] = None
        self._asks["who"] = None
        self.say_all()

    def say_all(self) -> None:
        """Say all that is read here: somebody may not know it."""
        if not self._says_all:
            self._says_all = True
            wait = self._said_at + SAY_EVERY - time.monotonic()
            if wait > 0:
                asyncio.get_running_loop().call_later(wait + 0.01, self._wake)
            else:
                self._wake()

    def messages(self) -> list[str]:
        """What is to be told on the control channel now. If that fails, call `say_all`."""
        asks, self._asks = list(self._asks), {}
        now = time.monotonic()
        if self._says_all and now - self._said_at >= SAY_EVERY:
            self._says_all, self._said_at = False, now
            self._pending.clear()
            self._told = {id_ for id_ in self._reading() if not self._local(id_)}
            first, *more = self._encode("reading", self._told) or [f"reading {self._own_id}"]
            said = [first, *(message.replace("reading", "reads", 1) for message in more)]
        else:
            joined = [id_ for id_, reads in self._pending.items() if reads]
            left = [id_ for id_, reads in self._pending.items() if not reads]
            self._pending.clear()
            self._told.update(joined)
            self._told.difference_update(left)
            said = [*self._encode("reads", joined), *self._encode("left", left)]
        return [*said, *asks]

    def _encode(self, kind: str, ids: Iterable[str]) -> list[str]:
        head = f"{kind} {self._own_id} "
        return [head + part for part in joined_within(ids, MESSAGE_BYTES - len(head))]


def joined_within(parts: Iterable[str], size: int) -> Iterator[str]:
    """Parts joined by commas into as few texts as hold them, each of at most `size` characters."""
    taken: list[str] = []
    length = 0
    for part in parts:
        if taken and length + len(part) > size:
            yield ",".join(taken)
            taken, length = [], 0
        taken.append(part)
        length += len(part) + 1
    if taken:
        yield ",".join(taken)
