"""What every section of the settings is made from."""

import ipaddress
import re
from typing import Annotated, Any, Final

from pydantic import AfterValidator, BeforeValidator
from pydantic_core import PydanticCustomError
from pydantic_settings import BaseSettings, NoDecode, SettingsConfigDict

from longrun.settings.names import PREFIX


def _separated(value: Any) -> Any:
    """The words of a text; anything else is left to pydantic."""
    return tuple(re.split(r"[,\s]+", value.strip())) if isinstance(value, str) else value


Strings = Annotated[tuple[str, ...], NoDecode, BeforeValidator(_separated)]
"""Several words in one variable, separated by commas or spaces."""


def _networks(value: tuple[str, ...]) -> tuple[str, ...]:
    """The words, each an address or a network."""
    for each in value:
        try:
            ipaddress.ip_network(each)
        except ValueError:
            raise PydanticCustomError(
                "network",
                "{each} is no address or network like 10.0.0.7 or 10.0.0.0/8",
                {"each": repr(each)},
            ) from None
    return value


Networks = Annotated[Strings, AfterValidator(_networks)]
"""Several addresses or networks."""

YEAR: Final = 366 * 24 * 60 * 60


class Section(BaseSettings):
    """Settings that belong together; `Settings` has those of all sections."""

    # mypy takes a default for one only where it has its name.
    model_config = SettingsConfigDict(
        env_prefix=PREFIX,
        frozen=True,
        extra="forbid",
        env_ignore_empty=True,
        populate_by_name=True,
        allow_inf_nan=False,
    )
