"""The Grafana dashboard: panels by row, as JSON to import."""

from dataclasses import dataclass
from typing import Any, Final

WIDTH: Final = 24
"""Of a dashboard, in Grafana's units."""

HEIGHT: Final = 8
ACROSS: Final = 3

_OF = '{job=~"$job"}'
_BY: Final = "$__rate_interval"


@dataclass(frozen=True, slots=True)
class Panel:
    """One diagram.

    Attributes:
        unit: one of Grafana's, such as `s`, `short`, `percentunit`.
        queries: legend and PromQL of each line; `@` stands for the selector of the job.
    """

    title: str
    unit: str
    queries: tuple[tuple[str, str], ...]


def _rate(metric: str, by: str) -> str:
    return f"sum by ({by}) (rate({metric}@[{_BY}]))"


def _quantile(share: float, metric: str, by: str = "") -> str:
    labels = f"le, {by}" if by else "le"
    return f"histogram_quantile({share}, sum by ({labels}) (rate({metric}_bucket@[{_BY}])))"


def _all(metric: str) -> str:
    return f"sum(rate({metric}@[{_BY}]))"


def _panel(title: str, unit: str, *queries: tuple[str, str]) -> Panel:
    return Panel(title, unit, queries)


ROWS: Final[dict[str, tuple[Panel, ...]]] = {
    "Runs": (
        _panel("Live", "short", ("{{instance}}", "longrun_runs@")),
        _panel(
            "Ended",
            "ops",
            ("{{agent}} {{status}}", _rate("longrun_runs_finished_total", "agent, status")),
        ),
        _panel(
            "First output, from creation",
            "s",
            ("p50", _quantile(0.5, "longrun_first_output_seconds")),
            ("p95", _quantile(0.95, "longrun_first_output_seconds")),
            ("p99", _quantile(0.99, "longrun_first_output_seconds")),
        ),
        _panel(
            "Duration, p95", "s", ("{{agent}}", _quantile(0.95, "longrun_run_seconds", "agent"))
        ),
        _panel(
            "Queue",
            "short",
            ("waiting", "max(longrun_cluster_queued@)"),
            ("waiting for {{agent}}, unserved", "max by (agent) (longrun_cluster_unserved@)"),
            ("replicas", "max(longrun_cluster_replicas@)"),
        ),
        _panel("Wait of the first", "s", ("", "max(longrun_cluster_queued_seconds@)")),
        _panel(
            "Takeovers, handovers, given up",
            "ops",
            ("{{kind}}", _rate("longrun_runs_started_total", "kind")),
            ("handovers", _all("longrun_handovers_total")),
            ("given up", _all("longrun_runs_given_up_total")),
        ),
        _panel(
            "Steps", "ops", ("{{kind}} {{outcome}}", _rate("longrun_steps_total", "kind, outcome"))
        ),
        _panel("Steps, p95", "s", ("{{kind}}", _quantile(0.95, "longrun_step_seconds", "kind"))),
        _panel(
            "Tokens", "ops", ("{{agent}} {{kind}}", _rate("longrun_tokens_total", "agent, kind"))
        ),
    ),
    "Events": (
        _panel(
            "Events", "ops", ("{{instance}}", _rate("longrun_events_appended_total", "instance"))
        ),
        _panel(
            "Commit",
            "s",
            ("p50", _quantile(0.5, "longrun_append_seconds")),
            ("p99", _quantile(0.99, "longrun_append_seconds")),
        ),
        _panel("Events a commit, p95", "short", ("", _quantile(0.95, "longrun_append_events"))),
        _panel("Readers", "short", ("{{instance}}", "longrun_readers@")),
        _panel(
            "Amiss with the log",
            "ops",
            ("failures", _all("longrun_append_failures_total")),
            ("fenced", _all("longrun_fenced_total")),
            ("readers cut", _all("longrun_reader_timeouts_total")),
            ("new LISTEN connections", _all("longrun_listener_reconnects_total")),
        ),
        _panel(
            "Notification queue",
            "percentunit",
            ("in use", "max(longrun_cluster_notification_queue_ratio@)"),
        ),
    ),
    "Process": (
        _panel(
            "Requests",
            "reqps",
            ("{{route}} {{status}}", _rate("longrun_http_requests_total", "route, status")),
        ),
        _panel(
            "Answers, p95",
            "s",
            ("{{route}}", _quantile(0.95, "longrun_http_request_seconds", "route")),
        ),
        _panel(
            "Event loop late, p99",
            "s",
            ("{{instance}}", _quantile(0.99, "longrun_loop_lag_seconds", "instance")),
        ),
        _panel(
            "Connections to Postgres",
            "short",
            ("{{instance}} {{state}}", "longrun_pool_connections@"),
        ),
        _panel("Tool threads", "short", ("{{instance}} {{state}}", "longrun_tool_threads@")),
        _panel(
            "Restarts of parts", "ops", ("{{part}}", _rate("longrun_part_restarts_total", "part"))
        ),
    ),
}


def dashboard() -> dict[str, Any]:
    """The dashboard, as Grafana 9 and newer import it."""
    panels: list[dict[str, Any]] = []
    top = 0
    for title, row in ROWS.items():
        panels.append(
            {"type": "row", "title": title, "gridPos": _place(0, top, WIDTH, 1), "panels": []}
        )
        top += 1
        for place, panel in enumerate(row):
            down, across = divmod(place, ACROSS)
            width = WIDTH // ACROSS
            where = _place(across * width, top + down * HEIGHT, width, HEIGHT)
            panels.append(_as_json(panel, where))
        top += -(-len(row) // ACROSS) * HEIGHT
    for number, each in enumerate(panels, 1):
        each["id"] = number
    return {
        "title": "longrun",
        "uid": "longrun",
        "tags": ["longrun"],
        "schemaVersion": 39,
        "editable": True,
        "refresh": "10s",
        "time": {"from": "now-1h", "to": "now"},
        "templating": {"list": [_SOURCE, _JOB]},
        "panels": panels,
    }


_SOURCE: Final = {
    "name": "source",
    "label": "Source",
    "type": "datasource",
    "query": "prometheus",
}
_JOB: Final = {
    "name": "job",
    "label": "Job",
    "type": "query",
    "datasource": {"type": "prometheus", "uid": "${source}"},
    "query": "label_values(longrun_build_info, job)",
    "includeAll": True,
    "multi": True,
    "refresh": 2,
}


def _as_json(panel: Panel, where: dict[str, int]) -> dict[str, Any]:
    source = {"type": "prometheus", "uid": "${source}"}
    return {
        "type": "timeseries",
        "title": panel.title,
        "datasource": source,
        "gridPos": where,
        "fieldConfig": {
            "defaults": {"unit": panel.unit, "min": 0, "custom": {"fillOpacity": 10}},
            "overrides": [],
        },
        "options": {"legend": {"displayMode": "list", "placement": "bottom"}},
        "targets": [
            {
                "refId": chr(ord("A") + place),
                "datasource": source,
                "expr": expression.replace("@", _OF),
                "legendFormat": legend or "__auto",
            }
            for place, (legend, expression) in enumerate(panel.queries)
        ],
    }


def _place(x: int, y: int, w: int, h: int) -> dict[str, int]:
    return {"x": x, "y": y, "w": w, "h": h}
