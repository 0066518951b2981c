"""The registry of figures, in the order in which they are measured."""

from typing import Final

from tests.bench.figure import Figure
from tests.bench.figures.announce import ANNOUNCE
from tests.bench.figures.compaction import COMPACTION
from tests.bench.figures.copies import COPIES
from tests.bench.figures.creation import CREATION
from tests.bench.figures.crowd import CROWD
from tests.bench.figures.fanout import FANOUT
from tests.bench.figures.faults import FAULTS
from tests.bench.figures.insert import INSERT
from tests.bench.figures.joining import JOINING
from tests.bench.figures.latency import LATENCY
from tests.bench.figures.memory import MEMORY
from tests.bench.figures.partitions import PARTITIONS
from tests.bench.figures.queue import QUEUE
from tests.bench.figures.replay import REPLAY
from tests.bench.figures.retention import RETENTION
from tests.bench.figures.size import SIZE
from tests.bench.figures.takeover import TAKEOVER
from tests.bench.figures.throughput import THROUGHPUT
from tests.bench.figures.workers import WORKERS

FIGURES: Final[dict[str, Figure]] = {
    figure.name: figure
    for figure in (
        *(LATENCY, FANOUT, CREATION, THROUGHPUT, REPLAY, ANNOUNCE, INSERT, COPIES, FAULTS),
        *(
            TAKEOVER,
            QUEUE,
            COMPACTION,
            PARTITIONS,
            RETENTION,
            SIZE,
            JOINING,
            CROWD,
            MEMORY,
            WORKERS,
        ),
    )
}
