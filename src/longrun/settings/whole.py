"""All settings: one frozen object, read from `LONGRUN_*` at start, checked, and passed down."""

from typing import Any, Self

from pydantic import ValidationError, model_validator
from pydantic_core import PydanticCustomError

from longrun.errors import ConfigurationError
from longrun.settings.access import Access
from longrun.settings.connections import Connections
from longrun.settings.database import Database
from longrun.settings.event_log import EventLog
from longrun.settings.names import field, line, unknown, unknown_variables, variable
from longrun.settings.process import Process
from longrun.settings.requests import Requests
from longrun.settings.runs import Runs
from longrun.settings.webhooks import Webhooks


# pydantic lists the fields of the last base first.
class Settings(Webhooks, Access, Requests, Connections, Runs, EventLog, Database, Process):
    """Everything that can be set, each by the variable `LONGRUN_` + its name in capitals.

    Durations are in seconds, sizes in bytes. Flags of `longrun serve` win over the environment.

    Raises:
        ConfigurationError: (from `load`) a value is not allowed, or a name is not a setting; names
            variable and value.
    """

    @model_validator(mode="before")
    @classmethod
    def _knows_every_name(cls, given: Any) -> Any:
        known = set(cls.model_fields)
        names = [name for name in given if field(name) not in known]
        problems = [unknown(name, known) for name in names]
        variables = {variable(name) for name in known}
        problems += [unknown(name, variables) for name in unknown_variables(variables)]
        if problems:
            raise PydanticCustomError("unknown", "{said}", {"said": "\n".join(problems)})
        return given

    @classmethod
    def load(cls, **given: Any) -> Self:
        """Read the environment; what is given (and not None) wins.

        Raises:
            ConfigurationError: a value is not allowed, or a name is not a setting; names the
                variable and the value.
        """
        try:
            return cls(**{field(k): v for k, v in given.items() if v is not None})
        except ValidationError as error:
            raise ConfigurationError("\n".join(map(line, error.errors()))) from None
