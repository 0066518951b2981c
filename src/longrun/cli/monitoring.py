"""`longrun dashboard`: what to give to Grafana and Prometheus."""

from typing import Annotated

import typer

app = typer.Typer()


@app.command()
def dashboard(
    alerts: Annotated[
        bool, typer.Option("--alerts", help="Print alert rules for Prometheus instead (YAML).")
    ] = False,
) -> None:
    """Print a Grafana dashboard of all replicas (JSON), or alert rules.

    [bold]Example:[/] longrun dashboard > longrun.json

    [bold]Example:[/] longrun dashboard --alerts > /etc/prometheus/rules/longrun.yml
    """
    from longrun.jsontext import dumps
    from longrun.monitoring.alerts import rules
    from longrun.monitoring.dashboard import dashboard as made

    print(rules() if alerts else dumps(made()).decode(), end="" if alerts else "\n")
