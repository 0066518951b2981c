"""The settings as text: the tables of their document, and what `longrun settings` prints."""

import re
from typing import Any

from pydantic import SecretStr

from longrun.settings.names import variable
from longrun.settings.sections import Section
from longrun.settings.whole import Settings


def as_markdown() -> str:
    """The tables of `settings/README.md`, one for each section, made from the fields themselves."""
    sections = [base for base in reversed(Settings.__bases__) if issubclass(base, Section)]
    return "\n".join(map(_table, sections))


def _table(section: type[Section]) -> str:
    title = re.sub(r"(?<=[a-z])(?=[A-Z])", " ", section.__name__).capitalize()
    rows = ["| variable | default | what |", "| --- | --- | --- |"]
    for name, field in section.model_fields.items():
        default = field.default
        shown = f"`{shown_value(default)}`" if shown_value(default) else ""
        rows.append(f"| `{variable(name)}` | {shown} | {field.description} |")
    return "\n".join([f"## {title}", "", section.__doc__ or "", "", *rows, ""])


def effective(settings: Settings) -> dict[str, dict[str, Any]]:
    """By variable: the value in effect, where it came from, the default, and what it is for.

    A secret is shown as `(hidden)`. `source` is `environment` or `default`.
    """
    return {
        variable(name): {
            "value": _plain(getattr(settings, name)),
            "source": "environment" if name in settings.model_fields_set else "default",
            "default": _plain(field.default),
            "description": field.description,
        }
        for name, field in Settings.model_fields.items()
    }


def as_lines(settings: Settings) -> str:
    """One line for each setting: variable, value, where it came from."""
    rows = [
        (name, shown_value(each["value"]) or "-", each["source"])
        for name, each in effective(settings).items()
    ]
    widths = [max(len(row[column]) for row in rows) for column in (0, 1)]
    return "".join(
        f"{name:<{widths[0]}}  {value:<{widths[1]}}  {source}\n" for name, value, source in rows
    )


def shown_value(value: Any) -> str:
    """A value as it would be set; empty for none."""
    if isinstance(value, list | tuple):
        return " ".join(value)
    if isinstance(value, bool):
        return str(value).lower()
    return "" if value is None else str(value)


def _plain(value: Any) -> Any:
    if isinstance(value, SecretStr):
        return "(hidden)"
    if isinstance(value, tuple):
        return list(value)
    return value if value is None or isinstance(value, bool | int | float) else str(value)
