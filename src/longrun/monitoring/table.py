"""The metrics as the table of `monitoring/README.md`."""

from prometheus_client.metrics import MetricWrapperBase

from longrun import metrics

_SUFFIXES = {"counter": "_total", "info": "_info"}


def as_markdown() -> str:
    """One row for each metric, made from the metrics themselves."""
    rows = ["| metric | type | labels | what |", "| --- | --- | --- | --- |"]
    for made in vars(metrics).values():
        if isinstance(made, MetricWrapperBase):
            [family] = made.describe()
            name = family.name + _SUFFIXES.get(family.type, "")
            # Nothing public tells them as long as none has a value.
            labels = ", ".join(f"`{label}`" for label in made._labelnames)
            rows.append(f"| `{name}` | {family.type} | {labels} | {family.documentation} |")
    return "\n".join(rows) + "\n"
