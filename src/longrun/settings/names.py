"""Names of settings and of their variables, and what is said of a wrong one."""

import difflib
import os
import re
from collections.abc import Iterable
from typing import Any, Final

PREFIX: Final = "LONGRUN_"

NOT_SETTINGS: Final = frozenset({"LONGRUN_API_KEY", "LONGRUN_URL"})
"""Variables that begin like settings and are none: with which key commands call a server, and where
that is."""

_OF_KUBERNETES: Final = re.compile(
    r"LONGRUN_(\w+_)?(SERVICE_HOST=|SERVICE_PORT(_\w+)?=|PORT_\d+_(TCP|UDP|SCTP)(_\w+)?=|PORT=tcp://)"
)
"""Set in every container of a namespace in which a service is called `longrun` or `longrun-…`."""


def variable(name: str) -> str:
    """The environment variable of a field."""
    return "LONGRUN_SCHEMA" if name == "db_schema" else "LONGRUN_" + name.upper()


def field(name: str) -> str:
    return "db_schema" if name in {"schema", "LONGRUN_SCHEMA"} else name


def line(problem: Any) -> str:
    """One problem: the variable, its value, and what is allowed."""
    if not problem["loc"]:
        return str(problem["msg"])
    name = field(str(problem["loc"][0]))
    hidden = "url" in name or name in ("encryption_keys", "webhook_secret")
    shown = "(hidden)" if hidden else repr(problem["input"])
    said = f"{variable(name)}={shown}: {problem['msg']}"
    if name == "port" and str(problem["input"]).startswith("tcp://"):
        said += " (Kubernetes sets it for a service called longrun: set enableServiceLinks: false)"
    return said


def unknown_variables(known: set[str]) -> Iterable[str]:
    for name, value in sorted(os.environ.items()):
        upper = name.upper()
        if not upper.startswith(PREFIX) or not value or upper in known | NOT_SETTINGS:
            continue
        if not _OF_KUBERNETES.match(f"{upper}={value}"):
            yield name


def unknown(name: str, known: set[str]) -> str:
    # Without what all of them have in common, which would make any two of them alike.
    rests = {each.removeprefix(PREFIX): each for each in known}
    nearest = difflib.get_close_matches(name.removeprefix(PREFIX), rests, 1)
    hint = f"did you mean {rests[nearest[0]]}?" if nearest else "see `longrun settings`"
    return f"{name} is not a setting; {hint}"
