"""Fixtures: one Postgres for the session, a schema for each test that asks, replicas on it."""

import itertools
from collections.abc import AsyncIterator, Generator, Iterator
from typing import Any

import pytest
from openai import AsyncOpenAI

from longrun.store.database import Database
from tests import postgres, servers, storing
from tests.provider.server import Provider, running

_schemas = itertools.count(1)


@pytest.fixture(scope="session")
def database() -> Iterator[postgres.Server]:
    """A Postgres that all tests of the session share; each uses a schema of its own."""
    with postgres.embedded() as server:
        yield server


@pytest.fixture
def schema() -> str:
    """A schema name that no other test uses."""
    return f"test_{next(_schemas)}"


@pytest.fixture
async def store(database: postgres.Server, schema: str) -> AsyncIterator[Database]:
    """The pools of a replica on a schema of its own, with all tables."""
    async with storing.migrated(database.url, schema) as opened:
        yield opened


@pytest.fixture(scope="package")
def two(database: postgres.Server) -> Iterator[list[servers.Replica]]:
    """Two replicas on one database, shared by the tests of a folder: none may stop them."""
    with servers.replicas(2, database.url, schema=f"folder_{next(_schemas)}") as started:
        yield started


@pytest.fixture
async def clients(two: list[servers.Replica]) -> AsyncIterator[list[AsyncOpenAI]]:
    """An openai client for each of the two."""
    made = [AsyncOpenAI(base_url=r.base_url, api_key="none", max_retries=0) for r in two]
    yield made
    for client in made:
        await client.close()


@pytest.fixture(scope="session")
def running_provider() -> Iterator[Provider]:
    """A model provider that all tests of the session share."""
    with running() as started:
        yield started


@pytest.fixture
def provider(running_provider: Provider) -> Provider:
    """The session's provider; its record of requests begins with the test."""
    running_provider.forget_requests()
    return running_provider


@pytest.hookimpl(wrapper=True)
def pytest_report_to_serializable(report: Any) -> Generator[None, Any, Any]:
    """What a test printed or logged, such that it can be sent to pytest-xdist's main process: with
    a lone surrogate in it, the process that ran the test would end."""
    return _sendable((yield))


def _sendable(value: Any) -> Any:
    if isinstance(value, str):
        return value.encode("utf-8", "backslashreplace").decode()
    if isinstance(value, dict):
        return {_sendable(key): _sendable(each) for key, each in value.items()}
    if isinstance(value, list | tuple):
        return type(value)(map(_sendable, value))
    return value
