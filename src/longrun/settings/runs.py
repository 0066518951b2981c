"""Settings of runs: how many, for how long, and what they show."""

from typing import Literal

from pydantic import Field

from longrun.settings.sections import YEAR, Section


class Runs(Section):
    """How many runs there may be, for how long, and what they show."""

    max_runs: int = Field(
        default=100,
        ge=1,
        le=100_000,
        description="Maximum number of runs this replica executes at once; more are queued.",
    )
    max_queued: int = Field(
        default=10_000,
        ge=0,
        le=1_000_000_000,
        description="Maximum number of queued responses across all replicas; beyond it, 429.",
    )
    run_timeout: float = Field(
        default=1800.0,
        gt=0,
        le=YEAR,
        description="Time limit for a response across all attempts, queue time included.",
    )
    max_attempts: int = Field(
        default=3,
        ge=1,
        le=1_000_000,
        description="Attempts at a response after which one more crash fails it.",
    )
    max_handovers: int = Field(
        default=100,
        ge=1,
        le=1_000_000,
        description="Consecutive handovers of a run without a finished step, before it fails.",
    )
    max_turns: int = Field(
        default=100, ge=1, le=1_000_000, description="Maximum number of model turns in a run."
    )
    lease_seconds: float = Field(
        default=10.0,
        ge=1,
        le=YEAR,
        description="How long a frozen replica keeps its runs; a killed one loses them at once.",
    )
    cancel_on_disconnect: bool = Field(
        default=True,
        description="Cancel the run of a foreground request when its client disconnects.",
    )
    retry_window: float = Field(
        default=60.0,
        ge=0,
        le=YEAR,
        description="How long such a run continues if its request has an `Idempotency-Key`, since "
        "its client, or a proxy, may send it again.",
    )
    server_tools: Literal["mcp_call", "function_call"] = Field(
        default="mcp_call",
        description="How calls that the server executes are shown: as one `mcp_call` item each, "
        "or as a `function_call`, which many clients try to execute themselves, and a "
        "`function_call_output`.",
    )
    continue_with: Literal["last", "first"] = Field(
        default="last",
        description="Which agent takes the next turn of a chain or a conversation with the same "
        "`model`: the one that spoke `last`, after handoffs, or the `first` one again.",
    )
    conversation_overlap: Literal["refuse", "queue"] = Field(
        default="refuse",
        description="What happens to a new response while another one is on its conversation: "
        "`refuse` (400, `conversation_locked`), or `queue` behind it.",
    )
    max_item_bytes: int = Field(
        default=16 * 1024 * 1024,
        ge=64 * 1024,
        le=128 * 1024 * 1024,
        description="Maximum size of one output item, or one tool output, as JSON. A larger tool "
        "output is replaced by a message; anything else that is larger fails its run, as do items "
        "of more than eight times that in total.",
    )
    compaction_agent: str = Field(
        default="",
        max_length=1000,
        description="Agent whose model summarizes compacted contexts, instead of the requested "
        "agent's own model.",
    )
    compaction_prompt: str = Field(
        default="",
        max_length=100_000,
        description="Prompt that follows the context when that model is asked for a summary, "
        "instead of longrun's own.",
    )
    compaction_threshold: int = Field(
        default=100_000,
        ge=1000,
        le=1_000_000_000,
        description="Number of tokens above which a context is compacted, if its request asks for "
        "compaction without a `compact_threshold`.",
    )
    compaction_max_tokens: int = Field(
        default=8192,
        ge=16,
        le=1_000_000,
        description="Maximum number of tokens of such a summary, reasoning included.",
    )
