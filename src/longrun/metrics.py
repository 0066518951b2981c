"""Prometheus metrics of a replica. No tenant data: no ids, no principals in any label."""

import platform
from importlib.metadata import version
from typing import Final

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, Info, generate_latest
from prometheus_client.exposition import CONTENT_TYPE_LATEST

CONTENT_TYPE = CONTENT_TYPE_LATEST

registry = CollectorRegistry()

_OF_RUNS: Final = (0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 300, 900, 1800, 3600, 4 * 3600)

_OF_REQUESTS: Final = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 60)

OF_CLUSTER: Final = "longrun_cluster_"
"""Begins the names of gauges that each replica says of all: to be taken once, and not summed."""

events_appended = Counter(
    "longrun_events_appended", "Events committed to the event log.", registry=registry
)
deltas_merged = Counter(
    "longrun_deltas_merged",
    "Deltas that became part of the event of the one before them.",
    registry=registry,
)
appends = Counter("longrun_appends", "Commits of the log writer.", registry=registry)
append_seconds = Histogram(
    "longrun_append_seconds",
    "Duration of one append: statement and commit.",
    buckets=(0.0005, 0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.25, 0.5, 1, 5),
    registry=registry,
)
append_events = Histogram(
    "longrun_append_events",
    "Events that one commit of the log writer brought.",
    buckets=(1, 2, 5, 10, 25, 50, 100, 250, 500, 1000, 5000),
    registry=registry,
)
append_failures = Counter(
    "longrun_append_failures", "Appends that failed and were tried again.", registry=registry
)
fenced = Counter(
    "longrun_fenced",
    "Appends refused because another attempt holds the response.",
    registry=registry,
)
stream_looks = Counter(
    "longrun_stream_looks",
    "Statements that read what streams begin with, of one or of several streams.",
    registry=registry,
)
streams_looked_up = Counter(
    "longrun_streams_looked_up", "Streams whose beginnings they read.", registry=registry
)
announcements = Counter("longrun_announcements", "NOTIFY messages sent.", registry=registry)
chunks_from_elsewhere = Counter(
    "longrun_chunks_from_elsewhere",
    "Chunks that readers here got of what is written elsewhere: they came with their announcement "
    "(carried), or Postgres was asked for them (fetched).",
    ["how"],
    registry=registry,
)
parcels_unopened = Counter(
    "longrun_parcels_unopened",
    "Announcements whose chunks could not be opened: their sender's key is not known yet, or they "
    "are forged. Readers get the chunks from Postgres.",
    registry=registry,
)
standby_reads = Counter(
    "longrun_standby_reads",
    "Statements that a hot standby was asked: it answered (served), had not replayed so far "
    "(behind), or could not answer (failed).",
    ["outcome"],
    registry=registry,
)
listening = Gauge("longrun_listening", "1 while the LISTEN connection is up.", registry=registry)
listener_reconnects = Counter(
    "longrun_listener_reconnects", "New LISTEN connections after the first.", registry=registry
)
compacted_logs = Counter(
    "longrun_compacted_logs", "Event logs of finished responses compacted.", registry=registry
)
compacted_bytes = Counter(
    "longrun_compacted_bytes",
    "Bytes of events that were written anew in larger chunks.",
    registry=registry,
)
compaction_refusals = Counter(
    "longrun_compaction_refusals",
    "Event logs left as they are, because they cannot be decrypted.",
    registry=registry,
)
readers = Gauge("longrun_readers", "Open streams on this replica.", registry=registry)
sockets = Gauge("longrun_sockets", "Open WebSockets of this replica.", registry=registry)
socket_events = Counter(
    "longrun_socket_events",
    "Responses created on WebSockets (status 200), and errors told on them.",
    ["status"],
    registry=registry,
)
reader_timeouts = Counter(
    "longrun_reader_timeouts", "Readers cut because they took nothing.", registry=registry
)
runs = Gauge("longrun_runs", "Runs live on this replica.", registry=registry)
runs_started = Counter(
    "longrun_runs_started",
    "Attempts begun on this replica: the first of a response, or one that takes over (takeover).",
    ["agent", "kind"],
    registry=registry,
)
runs_finished = Counter(
    "longrun_runs_finished",
    "Runs that ended on this replica.",
    ["agent", "status"],
    registry=registry,
)
run_seconds = Histogram(
    "longrun_run_seconds",
    "From the creation of a response to its end, over all attempts, time in the queue included.",
    ["agent", "status"],
    buckets=_OF_RUNS,
    registry=registry,
)
first_output_seconds = Histogram(
    "longrun_first_output_seconds",
    "From the creation of a response to the first thing that its agent says or does.",
    ["agent"],
    buckets=_OF_RUNS,
    registry=registry,
)
handovers = Counter(
    "longrun_handovers",
    "Runs that this replica gave away, between two steps, for others to go on.",
    ["agent"],
    registry=registry,
)
runs_given_up = Counter(
    "longrun_runs_given_up",
    "Runs that were failed because too many attempts had crashed, or none got on.",
    ["agent"],
    registry=registry,
)
steers = Counter(
    "longrun_steers",
    "Messages put into live runs: accepted by this replica, taken by a run of this replica, or "
    "too late for the end of an attempt, which goes on with them (overtook).",
    ["outcome"],
    registry=registry,
)
steps = Counter(
    "longrun_steps",
    "Steps that runs came to, by kind: done, replayed from their record, or failed.",
    ["kind", "outcome"],
    registry=registry,
)
step_seconds = Histogram(
    "longrun_step_seconds",
    "Duration of steps that were done: turns of models, tools.",
    ["kind"],
    buckets=_OF_RUNS,
    registry=registry,
)
tokens = Counter(
    "longrun_tokens",
    "Tokens of responses that ended here. Of `input` some are `cached`, of `output` `reasoning`.",
    ["agent", "kind"],
    registry=registry,
)
context_compactions = Counter(
    "longrun_context_compactions",
    "Contexts that a model was to summarize: by request (`/responses/compact`), or in a run whose "
    "context reached its threshold; done, or failed.",
    ["agent", "cause", "outcome"],
    registry=registry,
)
loop_lag_seconds = Histogram(
    "longrun_loop_lag_seconds",
    "How much later than it should the event loop takes a turn; looked at four times a second.",
    buckets=(0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5),
    registry=registry,
)
pool_connections = Gauge(
    "longrun_pool_connections",
    "Connections to Postgres for requests: at work (busy), open and free (idle), allowed (limit).",
    ["state"],
    registry=registry,
)
pool_waiting = Gauge(
    "longrun_pool_waiting",
    "Statements that were sent, or wait for a connection.",
    registry=registry,
)
queued = Gauge(
    "longrun_cluster_queued",
    "Responses that wait in the queue, on all replicas; no more than 100,000 are counted.",
    registry=registry,
)
queued_seconds = Gauge(
    "longrun_cluster_queued_seconds",
    "How long the first of the queue has waited.",
    registry=registry,
)
notification_queue = Gauge(
    "longrun_cluster_notification_queue_ratio",
    "The part of Postgres's notification queue that is in use: 1 is full.",
    registry=registry,
)
unserved = Gauge(
    "longrun_cluster_unserved",
    "Responses, queued or handed over, that wait for an agent which no replica that is alive and "
    "takes work serves. Only agents of which that is so have one.",
    ["agent"],
    registry=registry,
)
replicas = Gauge("longrun_cluster_replicas", "Replicas that are alive.", registry=registry)
partitions_ahead = Gauge(
    "longrun_cluster_partitions_ahead_seconds",
    "For how long there are partitions for what comes; below 0 it goes to the one for the rest.",
    registry=registry,
)
loop_blocks = Counter(
    "longrun_loop_blocks",
    "Times that code held up the event loop for seconds; the log names it.",
    registry=registry,
)
tool_threads = Gauge(
    "longrun_tool_threads",
    "Threads in which functions run: busy, or hanging in a call that nobody waits for (abandoned).",
    ["state"],
    registry=registry,
)
tool_calls_waiting = Gauge(
    "longrun_tool_calls_waiting", "Calls of functions that wait for a thread.", registry=registry
)
mcp_servers = Gauge(
    "longrun_mcp_servers",
    "MCP servers of agents: connected (up), or not (away).",
    ["state"],
    registry=registry,
)
mcp_reconnects = Counter(
    "longrun_mcp_reconnects",
    "Tries to connect an MCP server again.",
    registry=registry,
)
webhook_deliveries = Counter(
    "longrun_webhook_deliveries",
    "Attempts to deliver to a webhook endpoint: taken (delivered), to be tried again (failed), the "
    "last one (given_up), answered that the endpoint is gone (gone), or not made since it was "
    "deleted or is disabled (dropped).",
    ["outcome"],
    registry=registry,
)
webhook_pending = Gauge(
    "longrun_cluster_webhook_pending",
    "Webhook deliveries that are not made yet; no more than 10,000 are counted.",
    registry=registry,
)
webhook_oldest_seconds = Gauge(
    "longrun_cluster_webhook_oldest_seconds",
    "For how long the oldest of them is tried.",
    registry=registry,
)
webhook_disabled = Gauge(
    "longrun_cluster_webhook_endpoints_disabled",
    "Webhook endpoints that are disabled: they said that they are gone, or nothing could be "
    "delivered to them for days.",
    registry=registry,
)
part_restarts = Counter(
    "longrun_part_restarts", "Restarts of background parts.", ["part"], registry=registry
)
requests = Counter(
    "longrun_http_requests",
    "HTTP requests answered.",
    ["method", "route", "status"],
    registry=registry,
)


request_seconds = Histogram(
    "longrun_http_request_seconds",
    "From a request to the beginning of its answer.",
    ["route"],
    buckets=_OF_REQUESTS,
    registry=registry,
)
build = Info("longrun_build", "Versions of longrun and of what it stands on.", registry=registry)


def exposition() -> bytes:
    """All metrics in Prometheus's text format."""
    return generate_latest(registry)


def tell_build() -> None:
    """Set the versions, once the process serves."""
    packages = {"version": "longrun", "openai_agents": "openai-agents", "asyncpg": "asyncpg"}
    told = {name: version(package) for name, package in packages.items()}
    build.info({**told, "python": platform.python_version()})
