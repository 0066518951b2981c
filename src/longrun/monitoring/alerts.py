"""Alert rules for Prometheus: what somebody should look into, and what to do first."""

from dataclasses import dataclass
from typing import Final, Literal

from longrun.jsontext import dumps


@dataclass(frozen=True, slots=True)
class Alert:
    """One rule.

    Attributes:
        expression: PromQL that gives something while it is amiss.
        lasting: for how long it has to be, as Prometheus writes it.
        summary: for the one who is woken; may use Prometheus's templates.
        advice: what to do first.
    """

    name: str
    expression: str
    lasting: str
    severity: Literal["page", "ticket"]
    summary: str
    advice: str


ALERTS: Final = (
    Alert(
        "LongrunNoReplica",
        "absent(longrun_build_info) == 1",
        "1m",
        "page",
        "No longrun replica is scraped",
        "Look whether replicas run, and whether Prometheus reaches their /metrics.",
    ),
    Alert(
        "LongrunNotListening",
        "longrun_listening == 0",
        "1m",
        "page",
        "{{ $labels.instance }} hears no notifications",
        "Its readers wait for polls. `longrun doctor` says whether Postgres or a pooler is why.",
    ),
    Alert(
        "LongrunLogCannotBeWritten",
        "rate(longrun_append_failures_total[5m]) > 0.1",
        "2m",
        "page",
        "{{ $labels.instance }} cannot write events",
        "Runs wait meanwhile, and lose nothing. Look at Postgres: its disk, its role, failovers.",
    ),
    Alert(
        "LongrunQueueWaits",
        "max(longrun_cluster_queued_seconds) > 60",
        "5m",
        "ticket",
        "The first of the queue has waited for {{ $value | humanizeDuration }}",
        "Replicas are full, or serve other agents: start more, or raise LONGRUN_MAX_RUNS.",
    ),
    Alert(
        "LongrunAgentUnserved",
        "max by (agent) (longrun_cluster_unserved) > 0",
        "5m",
        "ticket",
        "{{ $value }} responses wait for {{ $labels.agent }}, which no replica serves",
        "Start a replica that serves it, or cancel them. `longrun doctor` says how long they wait.",
    ),
    Alert(
        "LongrunWebhooksGivenUp",
        'sum(increase(longrun_webhook_deliveries_total{outcome="given_up"}[1h])) > 0',
        "0m",
        "ticket",
        "Webhooks were given up: their endpoints did not take them for days",
        "`longrun webhooks list --state given_up` lists them, `redeliver` posts them again.",
    ),
    Alert(
        "LongrunTakeovers",
        'sum(rate(longrun_runs_started_total{kind="takeover"}[10m])) * 600 > 20',
        "5m",
        "ticket",
        "Runs are taken over again and again",
        "Replicas die or freeze: look for `replica died` and for kills by the operating system.",
    ),
    Alert(
        "LongrunRunsGivenUp",
        "sum by (agent) (increase(longrun_runs_given_up_total[1h])) > 0",
        "0m",
        "ticket",
        "Runs of {{ $labels.agent }} were given up",
        "They ended several processes, or never got on. `longrun ps --status failed` lists them.",
    ),
    Alert(
        "LongrunRunsFail",
        'sum by (agent) (rate(longrun_runs_finished_total{status="failed"}[15m]))'
        " / sum by (agent) (rate(longrun_runs_finished_total[15m])) > 0.2",
        "15m",
        "ticket",
        "{{ $value | humanizePercentage }} of the runs of {{ $labels.agent }} fail",
        "`longrun show ID` says why one failed.",
    ),
    Alert(
        "LongrunNotificationQueueFills",
        "max(longrun_cluster_notification_queue_ratio) > 0.1",
        "5m",
        "page",
        "{{ $value | humanizePercentage }} of Postgres's notification queue is in use",
        "Somebody listens and does not read: find the old transaction in pg_stat_activity. When it "
        "is full, commits fail.",
    ),
    Alert(
        "LongrunLoopBlocked",
        "increase(longrun_loop_blocks_total[15m]) > 3",
        "0m",
        "ticket",
        "Code blocks the event loop of {{ $labels.instance }}",
        "Its log names the function: make it async, or a plain function, which gets a thread.",
    ),
    Alert(
        "LongrunPartRestarts",
        "increase(longrun_part_restarts_total[15m]) > 10",
        "0m",
        "ticket",
        "{{ $labels.part }} of {{ $labels.instance }} fails again and again",
        "Its log says why.",
    ),
)


def rules() -> str:
    """The rules, as a file of Prometheus (YAML)."""
    lines = ["groups:", "  - name: longrun", "    rules:"]
    for alert in ALERTS:
        lines += [
            f"      - alert: {alert.name}",
            f"        expr: {_quoted(alert.expression)}",
            f"        for: {alert.lasting}",
            f"        labels: {{severity: {alert.severity}}}",
            "        annotations:",
            f"          summary: {_quoted(alert.summary)}",
            f"          description: {_quoted(alert.advice)}",
        ]
    return "\n".join(lines) + "\n"


def _quoted(text: str) -> str:
    # A JSON string is one of YAML.
    return dumps(text).decode()
