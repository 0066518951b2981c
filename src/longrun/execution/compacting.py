"""What a run needs in order to compact its context, if its request asks for that."""

from collections.abc import Awaitable, Callable
from dataclasses import dataclass

from agents import Model, ModelSettings

from longrun.execution.application import Application
from longrun.execution.current import Current
from longrun.execution.handling.handler import Handler
from longrun.execution.host import Handle
from longrun.execution.registry import Registry
from longrun.execution.replay import sdk
from longrun.execution.replay.context_management import Terms
from longrun.execution.served import made
from longrun.history.context_compaction import COMPACTION
from longrun.protocol import RunRequest
from longrun.settings import Settings
from longrun.store.context_compactions import ContextCompactions


@dataclass(frozen=True, slots=True)
class Compacting:
    """Of all runs of a replica.

    Attributes:
        compactions: sign what clients keep.
    """

    registry: Registry
    application: Application
    settings: Settings
    compactions: ContextCompactions

    def terms(self, request: RunRequest, handle: Handle) -> Terms | None:
        """Those of a run; None: its request does not ask for compaction."""
        wanted = [
            each
            for each in request.parameters.get("context_management") or ()
            if each["type"] == COMPACTION
        ]
        if not wanted:
            return None
        thresholds = (each.get("compact_threshold") for each in wanted)
        return Terms(
            threshold=min(each or self.settings.compaction_threshold for each in thresholds),
            prompt=self.settings.compaction_prompt,
            most_tokens=self.settings.compaction_max_tokens,
            model=self._model(handle),
            content=lambda compacted: self.compactions.content(compacted, request.principal),
            instructed=bool(request.parameters.get("instructions")),
        )

    def _model(self, handle: Handle) -> Callable[[], Awaitable[tuple[Model, ModelSettings] | None]]:
        async def other() -> tuple[Model, ModelSettings] | None:
            name = self.settings.compaction_agent
            return await self.model_of(name, handle.current) if name else None

        return other

    async def model_of(self, name: str, current: Current) -> tuple[Model, ModelSettings]:
        """The model of an agent, with the settings of its runs."""
        served = self.registry.get(name)
        assert not isinstance(served, Handler)
        config = await self.application.config_of(current)
        return sdk.model_of(await made(served, current), config)
