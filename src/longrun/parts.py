"""The parts of one replica, wired: which gets which. Nothing of it runs yet."""

from importlib.metadata import version

from longrun import ids
from longrun.access.known_keys import KnownKeys
from longrun.access.rates import Rates
from longrun.access.stream_tokens import StreamTokens
from longrun.execution.admission import Admission
from longrun.execution.agreement import check_agreement
from longrun.execution.application import (
    Application,
)
from longrun.execution.attempts import Attempts
from longrun.execution.compactor import Compactor
from longrun.execution.ending import Ends
from longrun.execution.host import Host
from longrun.execution.mcp_servers import MCPServers
from longrun.execution.registry import Registry
from longrun.execution.token_counter import TokenCounter
from longrun.execution.tracing.opening import tracer_of
from longrun.execution.watch import Watch
from longrun.fanout.hub import Hub
from longrun.settings import Settings
from longrun.store.abridging import Abridging
from longrun.store.announcer import Announcer
from longrun.store.approvals import Approvals
from longrun.store.claims import Claims
from longrun.store.compaction import Compaction
from longrun.store.conversations import Conversations
from longrun.store.creation_writer import CreationWriter
from longrun.store.database import Database
from longrun.store.deliveries import Deliveries
from longrun.store.digesting import Digesting
from longrun.store.events import EventLog
from longrun.store.idempotency import IdempotencyKeys
from longrun.store.interests import Interests
from longrun.store.keys import KEYS_CHANGED, Keys
from longrun.store.lease import Lease
from longrun.store.limits import SharedLimits
from longrun.store.listener import Listener
from longrun.store.log_writer import LogWriter
from longrun.store.opening import Opening
from longrun.store.overview import Overview
from longrun.store.parcels import Parcels
from longrun.store.partitions import Partitions
from longrun.store.pulse import Pulse
from longrun.store.records import Chunk
from longrun.store.responses import Responses
from longrun.store.retention import Retention
from longrun.store.ring_check import RingCheck
from longrun.store.sampling import Sampling
from longrun.store.steers import Steers
from longrun.supervision import Supervisor
from longrun.webhooks.delivering import Delivering


class Parts:
    """What a replica consists of, each part once.

    Attributes:
        store_parts: those that run until the end.
        server_parts: run beside them.
        work_parts: run until a drain.
    """

    def __init__(self, served: Registry, settings: Settings, application: Application) -> None:
        replica_id = ids.new_replica_id()
        self.database = Database(settings)
        self.opening = Opening(self.database)
        self.lease = Lease(self.database, replica_id, version("longrun"), served.names())
        self.claims = Claims(self.database, replica_id, served.names())
        self.overview = Overview(self.database)
        self.approvals = Approvals(self.database)
        self.steers = Steers(self.database)
        self.conversations = Conversations(self.database)
        self.keys = Keys(self.database)
        self.idempotency_keys = IdempotencyKeys(self.database)
        self.known_keys = KnownKeys(self.keys, settings.key_cache_seconds)
        self.stream_tokens = StreamTokens(self.keys, settings.stream_token_seconds)
        self.shared_limits = SharedLimits(self.database)
        self.rates = Rates(self.shared_limits)
        self.event_log = EventLog(self.database)
        self.hub = Hub(
            self.event_log,
            ring_bytes=settings.ring_bytes,
            poll_interval=settings.poll_interval,
            deaf=lambda: not self.listener.connected,
            join=lambda response_id: self.interests.join(response_id),
            leave=lambda response_id: self.interests.leave(response_id),
        )
        self.interests = Interests(
            replica_id,
            reading=self.hub.reading,
            local=lambda response_id: self.host.find(response_id) is not None,
            hears=lambda: self.listener.connected,
            wanted=lambda response_id: self.announcer.announce_again(response_id),
            moved=self.hub.moved,
            strangers=lambda: self.announcer.announce_recent(),
            wake=lambda: self.announcer.wake(),
        )
        self.creations = CreationWriter(self.database, self.hub.committed)
        self.responses = Responses(self.database, self.creations)
        self.ring_check = RingCheck(self.database)
        self.partitions = Partitions(
            self.database, settings.partition_seconds, settings.leave_seconds
        )
        self.pulse = Pulse(self.database, lost=self.hub.send_elsewhere)
        self.parcels = Parcels(
            self.database, replica_id, reads=self.hub.reads, carried=self.hub.carried
        )
        self.announcer = Announcer(self.database, self.interests, self.parcels)
        self.digesting = Digesting(
            self.database, is_live=lambda response_id: self.host.find(response_id) is not None
        )
        self.writer = LogWriter(self.database, self._committed, self.announcer)
        self.host = Host(settings.max_runs, settings.drain_seconds)
        self.tracer = tracer_of(settings, replica_id)
        self.sampling = Sampling(self.database, replica_id)
        self.delivering = Delivering(Deliveries(self.database), settings)
        ends = Ends(
            self.claims,
            self.event_log,
            self.writer,
            self.announcer,
            self.steers,
            self.tracer,
            ended=self.delivering.wake,
        )
        self.servers = MCPServers(served.agents())
        self.attempts = Attempts(
            served,
            responses=self.responses,
            approvals=self.approvals,
            claims=self.claims,
            event_log=self.event_log,
            writer=self.writer,
            announcer=self.announcer,
            ends=ends,
            settings=settings,
            application=application,
            servers=self.servers,
            steers=self.steers,
            tracer=self.tracer,
        )
        self.admission = Admission(
            host=self.host,
            attempts=self.attempts,
            ends=ends,
            responses=self.responses,
            claims=self.claims,
            writer=self.writer,
            announcer=self.announcer,
            replica_id=replica_id,
            settings=settings,
            check=lambda request: check_agreement(served.get(request.agent), request),
            registry=served,
        )
        self.compactor = Compactor(
            served,
            application,
            settings,
            tracer=self.tracer,
            state=lambda: self.attempts.state,
            check_open=self.host.check_open,
        )
        self.token_counter = TokenCounter(
            served,
            application,
            settings,
            self.responses,
            self.servers,
            state=lambda: self.attempts.state,
            check_open=self.host.check_open,
        )
        self.watch = Watch(
            self.admission,
            self.host,
            self.claims,
            lease_seconds=settings.lease_seconds,
            fit=lambda: (
                self.listener.connected and self.lease.held and self.ring_check.problem is None
            ),
            looked=self._looked,
        )
        self.listener = Listener(
            self.database,
            replica_id,
            announced=self.hub.announced,
            flows=self.hub.flows,
            parcel=self.parcels.received,
            told=self._told,
            caught_up=self._caught_up,
        )
        self._supervise(settings)

    def _supervise(self, settings: Settings) -> None:
        self.store_parts = Supervisor()
        self.store_parts.add("log_writer", self.writer.run)
        self.store_parts.add("creation_writer", self.creations.run)
        self.store_parts.add("joining", self.event_log.joining.run)
        self.store_parts.add("announcer", self.announcer.run)
        self.store_parts.add("parcels", self.parcels.run)
        self.store_parts.add("listener", self.listener.run)
        self.store_parts.add("hub", self.hub.run)
        self.store_parts.add("pulse", self.pulse.run)
        self.store_parts.add("ring_check", self.ring_check.run)
        self.store_parts.add("rates", self.rates.run)
        self.store_parts.add("webhooks", self.delivering.run)
        self.store_parts.add("errands", self.host.run_errands)
        self.store_parts.add("sampling", self.sampling.run)
        self.server_parts = Supervisor()
        self.server_parts.add("mcp_servers", self.servers.run)
        self.work_parts = Supervisor()
        self.work_parts.add("host", self.host.run)
        self.work_parts.add("watch", self.watch.run)
        self.work_parts.add(
            "retention",
            Retention(
                self.responses,
                self.conversations,
                self.keys,
                self.shared_limits,
                settings,
                self.hub.reading,
                None
                if settings.event_retention is None
                else Abridging(self.database, settings.event_retention),
                self.idempotency_keys,
            ).run,
        )
        self.work_parts.add("partitions", self.partitions.run)
        compaction = Compaction(self.database, fit=lambda: self.ring_check.problem is None)
        self.work_parts.add("compaction", compaction.run)
        self.work_parts.add("digesting", self.digesting.run)

    def _committed(self, response_id: str, chunks: list[Chunk]) -> None:
        self.hub.committed(response_id, chunks)
        self.digesting.committed(response_id, chunks[-1])

    def _looked(self, alive: list[str]) -> None:
        self.announcer.replicas = len(alive)
        self.interests.looked(alive)

    def _told(self, message: str) -> None:
        if message == KEYS_CHANGED:
            self.known_keys.forget()
        else:
            self.watch.told(message)
            self.interests.heard(message)

    def _caught_up(self) -> None:
        self.known_keys.forget()
        self.hub.look_again()
        self.interests.reconnected()
        self.watch.reconnected()
