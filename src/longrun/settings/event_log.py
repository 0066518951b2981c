"""Settings of the event log and of its way to readers."""

from pydantic import Field

from longrun.settings.sections import YEAR, Section


class EventLog(Section):
    """How events are written, and how they reach readers."""

    announce_interval: float = Field(
        default=0.0005,
        ge=0,
        le=1,
        description="Minimum interval between NOTIFYs of a replica; it grows with load.",
    )
    announce_chunks: bool = Field(
        default=True,
        description="Send small chunks along with NOTIFYs, encrypted, so that replicas with "
        "readers need not query Postgres. Off: a NOTIFY only says that there is something new.",
    )
    poll_interval: float = Field(
        default=2.0,
        gt=0,
        le=60,
        description="How often readers check the log when no NOTIFY arrives.",
    )
    chunk_bytes: int = Field(
        default=256 * 1024,
        ge=1024,
        le=64 * 1024 * 1024,
        description="Maximum size of a chunk of the event log, unless one event is larger.",
    )
    page_bytes: int = Field(
        default=128 * 1024,
        ge=1024,
        le=64 * 1024 * 1024,
        description="How much history a reader fetches from the log at a time.",
    )
    ring_bytes: int = Field(
        default=1024 * 1024,
        ge=1024,
        description="Size of the newest events kept in memory for each response that has readers "
        "here.",
    )
    run_buffer_bytes: int = Field(
        default=1024 * 1024,
        ge=1024,
        description="Size of a run's uncommitted events beyond which the run is slowed down.",
    )
    merge_deltas: bool = Field(
        default=True,
        description="Merge the deltas of one part that wait for the same commit into one event. "
        "Off: each is an event of its own.",
    )
    compact_after: float = Field(
        default=300.0,
        ge=0,
        le=YEAR,
        description="How long after a response's end its events are compacted: rewritten in the "
        "background as chunks of `LONGRUN_CHUNK_BYTES`, without readers noticing. 0: never.",
    )
    keepalive_interval: float = Field(
        default=15.0,
        gt=0,
        le=YEAR,
        description="How long a stream may be silent before a comment line is sent.",
    )
