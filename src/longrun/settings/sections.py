"""What every section of the settings is made from."""

import re
from typing import Annotated, Any, Final

from pydantic import BeforeValidator
from pydantic_settings import BaseSettings, NoDecode, SettingsConfigDict

from longrun.settings.names import PREFIX


def _separated(value: Any) -> Any:
    """The words of a text; anything else is left to pydantic."""
    return tuple(re.split(r"[,\s]+", value.strip())) if isinstance(value, str) else value


Strings = Annotated[tuple[str, ...], NoDecode, BeforeValidator(_separated)]
"""Several words in one variable, separated by commas or spaces."""

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
