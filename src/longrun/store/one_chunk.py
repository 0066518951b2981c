"""The commonest append: one chunk of one run, of whose log this server has confirmed all before it.

At a human pace most appends are that, each after a pause in which the processor's caches have
forgotten everything: there every function that is called costs some microseconds, and so does every
object that is made. So this goes a short way of its own from what waits to what is sent. All else,
and whatever fails, is the log writer's.
"""

from collections.abc import Mapping
from datetime import datetime
from typing import Any, Final

from longrun.store.announcer import Announcer
from longrun.store.batch import SMALL_BYTES, Share
from longrun.store.connections import Lane
from longrun.store.database import Database
from longrun.store.sealing import chunk_place

NOBODY: Final[Mapping[str, Any]] = {
    "response_id": "",
    "attempt": 0,
    "first": 0,
    "last": 0,
    "data": b"",
    "server": 0.0,
    "channel": "",
    "told": "",
}
"""The parameters of `append_chunk`, of a chunk of a response that does not exist."""


class OneChunk:
    """Makes the statements of such appends.

    Args:
        lane: executes them, and keeps them prepared.
        announcer: decides which of them announce something.
    """

    def __init__(self, database: Database, lane: Lane, announcer: Announcer | None) -> None:
        self._sealing = database.sealing
        self._announcer = announcer
        self._silent = database.queries.form("append_chunk", "told")
        self._telling = database.queries.form("append_chunk")
        self._server: datetime | None = None
        self._started = 0.0
        for form in (self._silent, self._telling):
            lane.keep(form.sql)

    def of_nobody(self) -> list[tuple[Any, ...]]:
        """Statements like those of `of`, which write nothing: so that they are planned."""
        return [(form.sql, *form.values(NOBODY)) for form in (self._silent, self._telling)]

    def of(self, share: Share) -> tuple[tuple[Any, ...], bool] | None:
        """The SQL that appends a share, with its values, and whether it announces what it writes.
        None: this is not such an append.
        """
        run, entries, chunks = share.run, share.entries, share.chunks
        if run.end is None or len(entries) != 1 or len(chunks) != 1 or share.size > SMALL_BYTES:
            return None
        entry, [(first, last, data)], (server, end) = entries[0], chunks, run.end
        if end != first or entry.items or entry.steps or entry.ending or entry.taken:
            return None
        if server is not self._server:
            self._server, self._started = server, server.timestamp()
        id_ = run.response_id
        if self._sealing.writes:
            data = self._sealing.seal(chunk_place(id_, first, last), data)
        values = {
            "response_id": id_,
            "attempt": run.attempt,
            "first": first,
            "last": last,
            "data": data,
            "server": self._started,
        }
        said = self._announcer and self._announcer.along_with(id_, first, last, data)
        if not said:
            return (self._silent.sql, *self._silent.values(values)), False
        values["channel"], values["told"] = said
        return (self._telling.sql, *self._telling.values(values)), True
