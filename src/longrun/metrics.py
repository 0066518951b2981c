"""Prometheus metrics of a replica. No tenant data: no ids, no principals in any label."""

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from prometheus_client.exposition import CONTENT_TYPE_LATEST

CONTENT_TYPE = CONTENT_TYPE_LATEST

registry = CollectorRegistry()

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
append_failures = Counter(
    "longrun_append_failures", "Appends that failed and were tried again.", registry=registry
)
fenced = Counter(
    "longrun_fenced",
    "Appends refused because another attempt holds the response.",
    registry=registry,
)
announcements = Counter("longrun_announcements", "NOTIFY messages sent.", registry=registry)
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
reader_timeouts = Counter(
    "longrun_reader_timeouts", "Readers cut because they took nothing.", registry=registry
)
runs = Gauge("longrun_runs", "Runs live on this replica.", registry=registry)
runs_finished = Counter(
    "longrun_runs_finished", "Runs finished on this replica.", ["status"], registry=registry
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
part_restarts = Counter(
    "longrun_part_restarts", "Restarts of background parts.", ["part"], registry=registry
)
requests = Counter(
    "longrun_http_requests",
    "HTTP requests answered.",
    ["method", "route", "status"],
    registry=registry,
)


def exposition() -> bytes:
    """All metrics in Prometheus's text format."""
    return generate_latest(registry)
