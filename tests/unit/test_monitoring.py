"""The dashboard and the alerts: valid for Grafana and Prometheus, and of metrics that there are."""

import re

import promql_parser
import yaml
from prometheus_client.metrics_core import Metric

from longrun import metrics
from longrun.monitoring.alerts import ALERTS, rules
from longrun.monitoring.dashboard import dashboard

_SAMPLES = {"counter": ("_total",), "histogram": ("_bucket", "_sum", "_count"), "info": ("_info",)}


def families() -> list[Metric]:
    return list(metrics.registry.collect())


def known() -> set[str]:
    return {
        family.name + suffix for family in families() for suffix in _SAMPLES.get(family.type, ("",))
    }


def used(expression: str) -> set[str]:
    return set(re.findall(r"longrun_\w+", expression))


class TestDashboard:
    def test_asks_for_what_there_is(self) -> None:
        expressions = [
            target["expr"] for panel in dashboard()["panels"] for target in panel.get("targets", ())
        ]
        assert len(expressions) > 20
        for expression in expressions:
            # Grafana puts these in.
            query = expression.replace("$__rate_interval", "1m").replace("$job", "longrun")
            promql_parser.parse(query)
            assert used(query)
            assert used(query) <= known(), query

    def test_panels_do_not_lie_on_each_other(self) -> None:
        taken: set[tuple[int, int]] = set()
        ids = []
        for panel in dashboard()["panels"]:
            ids.append(panel["id"])
            at = panel["gridPos"]
            cells = {(at["x"] + x, at["y"] + y) for x in range(at["w"]) for y in range(at["h"])}
            assert not cells & taken, panel["title"]
            assert at["x"] + at["w"] <= 24
            taken |= cells
        assert len(ids) == len(set(ids))


class TestAlerts:
    def test_are_rules_of_prometheus(self) -> None:
        [group] = yaml.safe_load(rules())["groups"]
        assert [rule["alert"] for rule in group["rules"]] == [alert.name for alert in ALERTS]
        for rule in group["rules"]:
            promql_parser.parse(rule["expr"])
            assert used(rule["expr"]) <= known(), rule["expr"]
            assert re.fullmatch(r"\d+[mh]", rule["for"])
            assert rule["labels"]["severity"] in ("page", "ticket")
            assert set(rule["annotations"]) == {"summary", "description"}


def test_metrics_are_named_as_prometheus_wants_them() -> None:
    for family in families():
        assert family.name.startswith("longrun_")
        assert family.documentation.endswith(".")
        if family.type == "histogram" and "events" not in family.name:
            assert family.name.endswith("_seconds")
        for sample in family.samples:
            assert not {"principal", "id", "response_id", "user"} & sample.labels.keys()
