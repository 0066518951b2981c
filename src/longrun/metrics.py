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
    "Deltas merged into the event of the delta before them.",
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
    "Events in one commit of the log writer.",
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
    "Statements that read the beginnings of one or several streams.",
    registry=registry,
)
streams_looked_up = Counter(
    "longrun_streams_looked_up",
    "Streams whose beginnings those statements read.",
    registry=registry,
)
announcements = Counter("longrun_announcements", "NOTIFY messages sent.", registry=registry)
chunks_from_elsewhere = Counter(
    "longrun_chunks_from_elsewhere",
    "Chunks written elsewhere that readers here received: with their announcement (carried), or "
    "from Postgres (fetched).",
    ["how"],
    registry=registry,
)
parcels_unopened = Counter(
    "longrun_parcels_unopened",
    "Announcements whose chunks could not be opened, because their sender's key is not known yet "
    "or they are forged. Readers get the chunks from Postgres.",
    registry=registry,
)
standby_reads = Counter(
    "longrun_standby_reads",
    "Statements sent to a hot standby: it answered (served), had not replayed far enough "
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
    "Bytes of events rewritten in larger chunks.",
    registry=registry,
)
compaction_refusals = Counter(
    "longrun_compaction_refusals",
    "Event logs that were not compacted because they cannot be decrypted.",
    registry=registry,
)
readers = Gauge("longrun_readers", "Open streams on this replica.", registry=registry)
sockets = Gauge("longrun_sockets", "Open WebSockets of this replica.", registry=registry)
socket_events = Counter(
    "longrun_socket_events",
    "Responses created on WebSockets (status 200), and errors sent on them.",
    ["status"],
    registry=registry,
)
reader_timeouts = Counter(
    "longrun_reader_timeouts",
    "Readers disconnected because they accepted no data.",
    registry=registry,
)
runs = Gauge("longrun_runs", "Runs live on this replica.", registry=registry)
runs_started = Counter(
    "longrun_runs_started",
    "Attempts begun on this replica: the first one of a response (first), or one that takes it "
    "over (takeover).",
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
    "Time from the creation of a response to its end, across all attempts, queue time included.",
    ["agent", "status"],
    buckets=_OF_RUNS,
    registry=registry,
)
first_output_seconds = Histogram(
    "longrun_first_output_seconds",
    "Time from the creation of a response to the first thing its agent says or does.",
    ["agent"],
    buckets=_OF_RUNS,
    registry=registry,
)
handovers = Counter(
    "longrun_handovers",
    "Runs that this replica handed over, between two steps, for others to continue.",
    ["agent"],
    registry=registry,
)
runs_given_up = Counter(
    "longrun_runs_given_up",
    "Runs that failed because too many attempts crashed, or none made progress.",
    ["agent"],
    registry=registry,
)
steers = Counter(
    "longrun_steers",
    "Messages put into live runs: accepted by this replica, taken by a run on this replica, or so "
    "late that an attempt which was ending continues with them (overtook).",
    ["outcome"],
    registry=registry,
)
steps = Counter(
    "longrun_steps",
    "Steps of runs, by kind: done, replayed from their record, or failed.",
    ["kind", "outcome"],
    registry=registry,
)
step_seconds = Histogram(
    "longrun_step_seconds",
    "Duration of steps that were done: model turns and tool calls.",
    ["kind"],
    buckets=_OF_RUNS,
    registry=registry,
)
tokens = Counter(
    "longrun_tokens",
    "Tokens of responses that ended here. `cached` is a part of `input`, `reasoning` a part of "
    "`output`.",
    ["agent", "kind"],
    registry=registry,
)
context_compactions = Counter(
    "longrun_context_compactions",
    "Contexts to be summarized by a model: on request (`/responses/compact`), or in a run whose "
    "context reached its threshold; done or failed.",
    ["agent", "cause", "outcome"],
    registry=registry,
)
loop_lag_seconds = Histogram(
    "longrun_loop_lag_seconds",
    "How late the event loop runs a scheduled callback; sampled four times a second.",
    buckets=(0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5),
    registry=registry,
)
pool_connections = Gauge(
    "longrun_pool_connections",
    "Connections to Postgres for requests: in use (busy), open and free (idle), allowed (limit).",
    ["state"],
    registry=registry,
)
pool_waiting = Gauge(
    "longrun_pool_waiting",
    "Statements that are running, or waiting for a connection.",
    registry=registry,
)
queued = Gauge(
    "longrun_cluster_queued",
    "Responses waiting in the queue, across all replicas; counted up to 100,000.",
    registry=registry,
)
queued_seconds = Gauge(
    "longrun_cluster_queued_seconds",
    "How long the first response in the queue has waited.",
    registry=registry,
)
notification_queue = Gauge(
    "longrun_cluster_notification_queue_ratio",
    "Fraction of Postgres's notification queue in use: 1 is full.",
    registry=registry,
)
unserved = Gauge(
    "longrun_cluster_unserved",
    "Responses, queued or handed over, that wait for an agent which no live replica that takes "
    "work serves. Only such agents have a value.",
    ["agent"],
    registry=registry,
)
replicas = Gauge("longrun_cluster_replicas", "Live replicas.", registry=registry)
partitions_ahead = Gauge(
    "longrun_cluster_partitions_ahead_seconds",
    "How far ahead partitions exist; below 0, new rows go to the default partition.",
    registry=registry,
)
loop_blocks = Counter(
    "longrun_loop_blocks",
    "Times that code blocked the event loop for seconds; the log names the code.",
    registry=registry,
)
tool_threads = Gauge(
    "longrun_tool_threads",
    "Threads that run functions: busy, or stuck in a call that nobody waits for any more "
    "(abandoned).",
    ["state"],
    registry=registry,
)
tool_calls_waiting = Gauge(
    "longrun_tool_calls_waiting", "Function calls waiting for a thread.", registry=registry
)
mcp_servers = Gauge(
    "longrun_mcp_servers",
    "MCP servers of agents: connected (up), or not (away).",
    ["state"],
    registry=registry,
)
mcp_reconnects = Counter(
    "longrun_mcp_reconnects",
    "Attempts to reconnect an MCP server.",
    registry=registry,
)
webhook_deliveries = Counter(
    "longrun_webhook_deliveries",
    "Attempts to deliver to a webhook endpoint: accepted (delivered), to be retried (failed), the "
    "last one (given_up), answered with 410 (gone), or not made because the endpoint was deleted "
    "or is disabled (dropped).",
    ["outcome"],
    registry=registry,
)
webhook_pending = Gauge(
    "longrun_cluster_webhook_pending",
    "Webhook deliveries that are pending; counted up to 10,000.",
    registry=registry,
)
webhook_oldest_seconds = Gauge(
    "longrun_cluster_webhook_oldest_seconds",
    "Age of the oldest of them, in seconds.",
    registry=registry,
)
webhook_disabled = Gauge(
    "longrun_cluster_webhook_endpoints_disabled",
    "Webhook endpoints that are disabled, because they answered 410 or nothing could be delivered "
    "to them for days.",
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
    "Time from a request to the beginning of its answer.",
    ["route"],
    buckets=_OF_REQUESTS,
    registry=registry,
)
build = Info("longrun_build", "Versions of longrun and its main dependencies.", registry=registry)


def exposition() -> bytes:
    """All metrics in Prometheus's text format."""
    return generate_latest(registry)


def tell_build() -> None:
    """Set the versions, once the process serves."""
    packages = {"version": "longrun", "openai_agents": "openai-agents", "asyncpg": "asyncpg"}
    told = {name: version(package) for name, package in packages.items()}
    build.info({**told, "python": platform.python_version()})
