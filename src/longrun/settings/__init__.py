"""The settings of a replica, by section, and as text."""

from longrun.settings.names import NOT_SETTINGS, variable
from longrun.settings.requests import no_parameter
from longrun.settings.sections import YEAR
from longrun.settings.whole import Settings

__all__ = ["NOT_SETTINGS", "YEAR", "Settings", "no_parameter", "variable"]
