"""What an error of Postgres, or of the connection to it, means for whoever sent the statement.

One table, by SQLSTATE or by its class (its first two characters; Postgres, appendix A). The pool,
the lanes, the log writer, the listener and the lease all go by it.
"""

from enum import Enum
from typing import Final

import asyncpg


class Meaning(Enum):
    """What is to be done about an error."""

    AWAY = "the server or the connection is gone: again on another, for as long as it takes"
    REFUSED = "the server does not let us in: hopeless at start, else as if it were away"
    BUSY = "the server is there and could not do this now: again, but not for ever"
    MISFIT = "the schema or a privilege is not as it must be: no statement of ours is at fault"
    OWN = "the statement, or what it brought, is at fault: never again"


_TABLE: Final = {
    "08": Meaning.AWAY,  # connection exceptions; a pooler's troubles, 08P01
    "0A000": Meaning.MISFIT,  # what this server cannot do; a cached plan that no longer fits
    "25": Meaning.AWAY,  # the transaction's state: read-only after a failover, ended while idle
    "26": Meaning.AWAY,  # a prepared statement that another session of the pooler has
    "28": Meaning.REFUSED,  # the role, its password, pg_hba.conf
    "3D": Meaning.REFUSED,  # no such database
    "3F": Meaning.MISFIT,  # no such schema
    "40": Meaning.BUSY,  # serialization failures and deadlocks
    "40003": Meaning.AWAY,  # whether it was done is not known
    "42": Meaning.MISFIT,  # privileges, tables, columns: our SQL is always the same
    "42P05": Meaning.AWAY,  # like 26
    "53": Meaning.AWAY,  # a full disk, no memory, too many connections
    "55": Meaning.BUSY,  # lock_timeout; a database that takes no connections just now
    "57": Meaning.AWAY,  # shutting down, starting up, ended by an administrator
    "57014": Meaning.BUSY,  # statement_timeout, or cancelled by somebody
    "58": Meaning.AWAY,  # the server's disk or operating system
    "72": Meaning.BUSY,  # snapshot too old
    "F0": Meaning.AWAY,  # the server's configuration file
    "XX": Meaning.BUSY,  # internal errors, of poolers too; too large a text is one of them
}

FAILURES: Final = (
    OSError,
    EOFError,
    asyncpg.PostgresError,
    asyncpg.InterfaceError,
    asyncpg.InternalClientError,
)
"""Everything that comes of a statement or of a connection. TimeoutError is an OSError."""

CANNOT_CONNECT: Final = (*FAILURES, ValueError)
"""Everything that comes of connecting; a ValueError says that the URL itself is wrong."""


def meaning(error: BaseException) -> Meaning:
    """What an error means. One that is none of Postgres's is the statement's own."""
    if isinstance(error, asyncpg.PostgresError):
        return _of_server(error)
    if isinstance(error, TimeoutError):
        return Meaning.BUSY
    if isinstance(error, OSError | EOFError | asyncpg.InternalClientError):
        return Meaning.AWAY
    if isinstance(error, asyncpg.InterfaceError) and not isinstance(error, ValueError):
        return Meaning.AWAY
    return Meaning.OWN


def _of_server(error: asyncpg.PostgresError) -> Meaning:
    state = error.sqlstate or ""
    found = _TABLE.get(state) or _TABLE.get(state[:2]) or Meaning.OWN
    if (error.severity_en or error.severity) in ("FATAL", "PANIC"):
        # It ended the session whatever the statement was, or let none begin.
        if found is Meaning.BUSY:
            return Meaning.AWAY
        if found in (Meaning.MISFIT, Meaning.OWN):
            return Meaning.REFUSED
    return found


_WAITING: Final = frozenset({Meaning.AWAY, Meaning.REFUSED, Meaning.BUSY})


def is_gone(error: BaseException) -> bool:
    """Whether Postgres, or this connection to it, is of no use for now, while nothing is wrong
    with the statement."""
    return meaning(error) in _WAITING


def is_hopeless(error: BaseException) -> bool:
    """Whether a connection that was refused will be refused again."""
    return isinstance(error, ValueError) or meaning(error) not in (Meaning.AWAY, Meaning.BUSY)
