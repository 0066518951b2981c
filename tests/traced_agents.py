"""The scripted agents, with what the Agents SDK traces written into the file that TRACES names."""

import json
import os
from typing import Any

from agents import set_trace_processors
from agents.tracing import TracingProcessor

from tests.scripted import agents

__all__ = ["agents"]


class ToFile(TracingProcessor):
    """Writes each span when it ends, at once."""

    def _write(self, exported: Any) -> None:
        with open(os.environ["TRACES"], "a") as file:
            file.write(json.dumps(exported, default=str) + "\n")

    def on_trace_start(self, trace: Any) -> None:
        self._write(trace.export())

    def on_trace_end(self, trace: Any) -> None:
        pass

    def on_span_start(self, span: Any) -> None:
        pass

    def on_span_end(self, span: Any) -> None:
        self._write(span.export())

    def shutdown(self) -> None:
        pass

    def force_flush(self) -> None:
        pass


set_trace_processors([ToFile()])
