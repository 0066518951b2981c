"""MCP servers of agents: connected, watched, connected again when they died, and closed.

What a connection opens has to be closed by the task that opened it, so each server has a task of
its own. A server that is away fails only runs that need its tools, and these wait for it a moment.
"""

import asyncio
import contextlib
import logging
from collections.abc import Awaitable, Callable, Iterable, Iterator
from contextvars import ContextVar
from typing import Any, Final, TypeVar

from agents import Agent, ModelBehaviorError, UserError
from agents.mcp import MCPServer

from longrun import metrics
from longrun.backoff import Backoff, jittered, sleep_unless
from longrun.errors import ServerAway
from longrun.execution.contained import contained
from longrun.execution.replay import sdk

log = logging.getLogger("longrun.execution.mcp_servers")

T = TypeVar("T")

FIRST_PAUSE: Final = 0.2
LONGEST_PAUSE: Final = 4.0
"""Seconds between tries to connect. Less than UP_WAIT: a run that waits sees another try."""

UP_WAIT: Final = 10.0
"""Seconds that a run waits for a server which is away."""

START_WAIT: Final = 5.0
"""Seconds that a start waits for the first tries."""

CONNECT_WAIT: Final = 15.0
CLOSE_WAIT: Final = 5.0

LOOK_INTERVAL: Final = 20.0
"""Seconds between looks at a server of which nobody complained."""

LOOK_WAIT: Final = 10.0
"""Seconds that a server has to answer such a look."""


class Kept:
    """One server, which is kept connected as long as it is wanted.

    Args:
        changed: called when it is connected or lost.
        lasting: it is wanted until the process stops; else as long as a run uses it.

    Attributes:
        users: the runs that use it.
        calls: those of its tools that are under way.
        up: whether it is connected, as far as is known.
        tried: it was tried to connect.
    """

    def __init__(
        self, server: MCPServer, changed: Callable[[], None], *, lasting: bool = False
    ) -> None:
        self.server = server
        # The SDK's methods for it have no types.
        self._server: Any = server
        self.name = sdk.mcp_server_name(server)
        self.lasting = lasting
        self.users = 0
        self.calls = 0
        self.up = asyncio.Event()
        self.tried = asyncio.Event()
        self._changed = changed
        self._stirred = asyncio.Event()
        self._unwanted = asyncio.Event()

    def want(self) -> None:
        """One more run uses it."""
        self.users += 1
        self._unwanted.clear()

    def release(self, *, stopping: bool = False) -> None:
        """One run less, or the process stops."""
        self.users = 0 if stopping else self.users - 1
        self.lasting = self.lasting and not stopping
        if not self.lasting and self.users == 0:
            self._unwanted.set()
            self._stirred.set()

    @property
    def wanted(self) -> bool:
        return not self._unwanted.is_set()

    def doubt(self) -> None:
        """Something went wrong with it: whoever wants it now waits until it was looked at."""
        if self.up.is_set():
            self.up.clear()
            self._stirred.set()

    async def is_up(self) -> bool:
        """Whether it is connected, or is soon."""
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self.up.wait(), UP_WAIT)
        return self.up.is_set()

    # -- in its task ----------------------------------------------------------------------

    async def run(self) -> None:
        """Keep it connected until it is not wanted. Raises nothing."""
        backoff = Backoff(FIRST_PAUSE, LONGEST_PAUSE)
        while self.wanted:
            connected = await self._connect()
            self.tried.set()
            if connected:
                backoff.reset()
                self._set_up(True)
                await self._until_lost()
                self._set_up(False)
            await self._close()
            if self.wanted:
                metrics.mcp_reconnects.inc()
                await backoff.pause(self._unwanted)

    def _set_up(self, up: bool) -> None:
        (self.up.set if up else self.up.clear)()
        self._changed()

    async def _connect(self) -> bool:
        try:
            with contained(f"MCP server {self.name!r}"):
                async with asyncio.timeout(CONNECT_WAIT):
                    await self._server.connect()
        except Exception as error:
            log.warning("MCP server %s cannot be connected: %s", self.name, _said(error))
            return False
        log.info("MCP server %s is connected", self.name)
        return True

    async def _until_lost(self) -> None:
        """Return when it does not answer any more, or is not wanted."""
        while True:
            await sleep_unless(self._stirred, jittered(LOOK_INTERVAL))
            self._stirred.clear()
            if not self.wanted or not await self._answers():
                return
            self.up.set()

    async def _answers(self) -> bool:
        try:
            with contained(f"MCP server {self.name!r}"):
                async with asyncio.timeout(LOOK_WAIT):
                    await sdk.probe_mcp_server(self.server)
        except Exception as error:
            # One that is busy with a call may answer nothing else meanwhile.
            if self.calls and (isinstance(error, TimeoutError) or sdk.is_mcp_timeout(error)):
                return True
            log.warning("MCP server %s is lost: %s", self.name, _said(error))
            return False
        return True

    async def _close(self) -> None:
        try:
            with contained(f"MCP server {self.name!r}"):
                async with asyncio.timeout(CLOSE_WAIT):
                    await self._server.cleanup()
        except Exception as error:
            log.warning("MCP server %s could not be closed: %s", self.name, _said(error))


class Use:
    """The servers that one run uses."""

    def __init__(self, servers: "MCPServers") -> None:
        self._servers = servers
        self._taken: dict[int, Kept] = {}

    def of(self, server: MCPServer) -> Kept | None:
        """The hold on a server. None: the application has connected it itself."""
        kept = self._taken.get(id(server))
        if kept is None:
            kept = self._servers.take(server)
            if kept is not None:
                self._taken[id(server)] = kept
        return kept

    def end(self) -> None:
        for kept in self._taken.values():
            kept.release()
        self._taken.clear()


_use: ContextVar[Use | None] = ContextVar("longrun_mcp_servers", default=None)


class MCPServers:
    """Those of a process.

    Args:
        agents: those that are served; their servers, and those of agents that they lead to, are
            connected from the start. Servers of agents that are made for a run are connected
            when that run lists their tools, and closed with it.
    """

    def __init__(self, agents: Iterable[Agent[Any]]) -> None:
        self._lasting = servers_of(agents)
        self._kept: dict[int, Kept] = {}
        self._group: asyncio.TaskGroup | None = None
        self._started = asyncio.Event()

    async def run(self, stop: asyncio.Event) -> None:
        """Keep servers connected until `stop`; then close them."""
        async with asyncio.TaskGroup() as group:
            self._group = group
            for server in self._lasting:
                if not is_connected(server):
                    self._keep(server, lasting=True)
            self._started.set()
            try:
                await stop.wait()
            finally:
                self._group = None
                for kept in self._kept.values():
                    kept.release(stopping=True)

    async def settled(self) -> None:
        """Wait until each was tried once, or a moment."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(START_WAIT):
                await self._started.wait()
                for kept in list(self._kept.values()):
                    await kept.tried.wait()

    def away(self) -> list[str]:
        """The names of those of the served agents that are not connected."""
        return sorted(
            kept.name for kept in self._kept.values() if kept.lasting and not kept.up.is_set()
        )

    @contextlib.contextmanager
    def used(self) -> Iterator[None]:
        """Within the block, servers that are needed are connected; until its end."""
        use = Use(self)
        token = _use.set(use)
        try:
            yield
        finally:
            _use.reset(token)
            use.end()

    def take(self, server: MCPServer) -> Kept | None:
        """For one more run; to be released. None: the application has connected it itself."""
        kept = self._kept.get(id(server))
        if kept is None:
            if is_connected(server) or self._group is None:
                return None
            kept = self._keep(server)
        kept.want()
        return kept

    def _keep(self, server: MCPServer, *, lasting: bool = False) -> Kept:
        kept = self._kept[id(server)] = Kept(server, self._measure, lasting=lasting)
        assert self._group is not None
        self._group.create_task(self._run(kept))
        self._measure()
        return kept

    async def _run(self, kept: Kept) -> None:
        # Wanted again while it was being closed, it is connected again.
        while True:
            await kept.run()
            if not kept.wanted:
                break
        del self._kept[id(kept.server)]
        self._measure()

    def _measure(self) -> None:
        up = sum(kept.up.is_set() for kept in self._kept.values())
        metrics.mcp_servers.labels("up").set(up)
        metrics.mcp_servers.labels("away").set(len(self._kept) - up)


def servers_of(agents: Iterable[Agent[Any]]) -> list[MCPServer]:
    """The servers of agents, and of those that they hand over to or have as tools."""
    found: dict[int, MCPServer] = {}
    seen: set[int] = set()
    left: list[Any] = list(agents)
    while left:
        agent = left.pop()
        if id(agent) not in seen:
            seen.add(id(agent))
            found.update((id(server), server) for server in getattr(agent, "mcp_servers", ()))
            left += sdk.agents_behind(agent)
    return list(found.values())


def is_connected(server: MCPServer) -> bool:
    """Whether somebody has connected it already."""
    return getattr(server, "session", None) is not None


# -- what the taps call -------------------------------------------------------------------


async def listing(server: MCPServer, agent: str, do: Callable[[], Awaitable[T]]) -> T:
    """List the tools of a server for an agent: once more when it turns out to be gone.

    Raises:
        ServerAway: it cannot be reached.
    """
    kept = _kept(server)
    if kept is None:
        return await do()
    failure: Exception | None = None
    for _ in range(2):
        if not await kept.is_up():
            break
        try:
            return await do()
        except Exception as error:
            log.warning("MCP server %s did not list its tools: %s", kept.name, _said(error))
            failure = error
            kept.doubt()
    raise ServerAway(agent) from failure


async def calling(server: MCPServer, do: Callable[[], Awaitable[T]]) -> T:
    """Call a tool of a server. Not again if that fails: it may have had its effect.

    Raises:
        UserError: the server cannot be reached; the model is told so, as of any tool's error.
    """
    kept = _kept(server)
    if kept is None:
        return await do()
    if not await kept.is_up():
        raise UserError("The MCP server of this tool cannot be reached.")
    kept.calls += 1
    try:
        return await do()
    except ModelBehaviorError:
        raise
    except Exception:
        kept.doubt()
        raise
    finally:
        kept.calls -= 1


def _kept(server: MCPServer) -> Kept | None:
    use = _use.get()
    return None if use is None else use.of(server)


def _said(error: BaseException) -> str:
    return f"{type(error).__name__}: {error}"
