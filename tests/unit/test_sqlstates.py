"""What errors mean: by SQLSTATE, by its class, by what the client itself raises."""

import asyncio
import ssl

import asyncpg
import pytest

from longrun.store.sqlstates import Meaning, is_gone, is_hopeless, meaning


def of_server(sqlstate: str, severity: str = "ERROR") -> asyncpg.PostgresError:
    """The error that asyncpg makes of a message of the server."""
    fields = {"C": sqlstate, "V": severity, "S": severity, "M": "a message"}
    made = asyncpg.PostgresError.new(fields)
    assert made.sqlstate == sqlstate
    return made


STATEMENTS = [
    ("08000", Meaning.AWAY),
    ("08003", Meaning.AWAY),
    ("08006", Meaning.AWAY),
    ("08P01", Meaning.AWAY),
    ("0A000", Meaning.MISFIT),
    ("22021", Meaning.OWN),
    ("22P05", Meaning.OWN),
    ("23505", Meaning.OWN),
    ("23514", Meaning.OWN),
    ("25006", Meaning.AWAY),
    ("25P02", Meaning.AWAY),
    ("25P03", Meaning.AWAY),
    ("26000", Meaning.AWAY),
    ("28000", Meaning.REFUSED),
    ("28P01", Meaning.REFUSED),
    ("3D000", Meaning.REFUSED),
    ("3F000", Meaning.MISFIT),
    ("40001", Meaning.BUSY),
    ("40003", Meaning.AWAY),
    ("40P01", Meaning.BUSY),
    ("42501", Meaning.MISFIT),
    ("42P01", Meaning.MISFIT),
    ("42P05", Meaning.AWAY),
    ("53100", Meaning.AWAY),
    ("53200", Meaning.AWAY),
    ("53300", Meaning.AWAY),
    ("54000", Meaning.OWN),
    ("55000", Meaning.BUSY),
    ("55006", Meaning.BUSY),
    ("55P03", Meaning.BUSY),
    ("57000", Meaning.AWAY),
    ("57014", Meaning.BUSY),
    ("57P01", Meaning.AWAY),
    ("57P02", Meaning.AWAY),
    ("57P03", Meaning.AWAY),
    ("57P04", Meaning.AWAY),
    ("57P05", Meaning.AWAY),
    ("58030", Meaning.AWAY),
    ("58P01", Meaning.AWAY),
    ("72000", Meaning.BUSY),
    ("F0000", Meaning.AWAY),
    ("P0001", Meaning.OWN),
    ("XX000", Meaning.BUSY),
    ("XX001", Meaning.BUSY),
    ("ZZ999", Meaning.OWN),
]


@pytest.mark.parametrize(("sqlstate", "expected"), STATEMENTS)
def test_of_a_statement(sqlstate: str, expected: Meaning) -> None:
    error = of_server(sqlstate)
    assert meaning(error) is expected
    assert is_gone(error) == (expected in (Meaning.AWAY, Meaning.REFUSED, Meaning.BUSY))


@pytest.mark.parametrize("severity", ["FATAL", "PANIC"])
@pytest.mark.parametrize(("sqlstate", "of_statement"), STATEMENTS)
def test_what_ends_the_session_is_never_the_statements_own(
    sqlstate: str, of_statement: Meaning, severity: str
) -> None:
    """A pooler says XX000 of a login that failed, a server 42501 of a database without CONNECT."""
    error = of_server(sqlstate, severity)
    assert is_gone(error)
    if of_statement in (Meaning.AWAY, Meaning.REFUSED):
        assert meaning(error) is of_statement


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (TimeoutError(), Meaning.BUSY),
        (ConnectionResetError(), Meaning.AWAY),
        (ConnectionRefusedError(), Meaning.AWAY),
        (OSError(24, "Too many open files"), Meaning.AWAY),
        (ssl.SSLError(), Meaning.AWAY),
        (asyncio.IncompleteReadError(b"", 1), Meaning.AWAY),
        (asyncpg.ConnectionDoesNotExistError("closed"), Meaning.AWAY),
        (asyncpg.InterfaceError("connection is closed"), Meaning.AWAY),
        (asyncpg.InternalClientError("unexpected"), Meaning.AWAY),
        (asyncpg.ClientConfigurationError("sslmode"), Meaning.OWN),
        (asyncpg.DataError("invalid input for query argument $1"), Meaning.OWN),
        (UnicodeEncodeError("utf-8", "\ud800", 0, 1, "surrogates not allowed"), Meaning.OWN),
        (OverflowError(), Meaning.OWN),
        (MemoryError(), Meaning.OWN),
        (TypeError(), Meaning.OWN),
    ],
    ids=repr,
)
def test_what_the_client_raises(error: Exception, expected: Meaning) -> None:
    assert meaning(error) is expected


@pytest.mark.parametrize(
    ("error", "hopeless"),
    [
        (of_server("28000", "FATAL"), True),
        (of_server("28P01", "FATAL"), True),
        (of_server("3D000", "FATAL"), True),
        (of_server("42501", "FATAL"), True),
        (of_server("22023", "FATAL"), True),
        (of_server("53300", "FATAL"), False),
        (of_server("55000", "FATAL"), False),
        (of_server("57P03", "FATAL"), False),
        (of_server("08P01", "FATAL"), False),
        (of_server("XX000", "FATAL"), False),
        (ConnectionRefusedError(), False),
        (TimeoutError(), False),
        (ssl.SSLCertVerificationError(), True),
        (asyncpg.ClientConfigurationError("sslmode"), True),
        (ValueError("port"), True),
    ],
    ids=repr,
)
def test_whether_a_connection_will_be_refused_again(error: Exception, hopeless: bool) -> None:
    assert is_hopeless(error) is hopeless
