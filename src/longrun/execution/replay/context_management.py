"""`context_management`: the context of a run is compacted between two of its model turns.

For models whose provider does not do that itself. It is a step, a model turn in a scope of its own,
whose record and item are one commit: a takeover finds what was compacted, and asks no model again.
What the model has not seen yet is spared: the new input of the first turn, and later what the last
turn has called and was given for it.
"""

import contextlib
import dataclasses
import logging
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from typing import Any, Final, NamedTuple

from agents import Model, ModelSettings
from agents.items import ModelResponse

from longrun import metrics
from longrun.assembly.assembler import Assembler
from longrun.execution.contained import contained
from longrun.execution.demands import families_of
from longrun.execution.display import Display
from longrun.execution.estimates import tokens_of, tokens_of_item
from longrun.execution.replay.border import Border
from longrun.execution.replay.journal import fingerprint
from longrun.execution.replay.model_turns import ReplayedTurn
from longrun.execution.replay.once import Due, Once
from longrun.execution.replay.results import COMPACTIONS, decode_compaction, encode_compaction
from longrun.execution.replay.scope import ModelCall
from longrun.execution.replay.sdk import origin_of
from longrun.execution.summaries import request_of_summary, summary_in
from longrun.history.cleaning import kind_of
from longrun.history.context_compaction import Compacted, said_by_users
from longrun.history.mending import answered_by, call_of
from longrun.store.records import Step
from longrun.store.run_log import RunLog

log = logging.getLogger("longrun.execution.replay.context_management")

Item = dict[str, Any]

PART: Final = 4
"""A quarter of the threshold is what users' messages may take that are kept word for word, as much
the summary, and by as much a context has to grow before it is compacted again."""

LEAST_SUMMARY: Final = 256
"""Tokens that a summary may have in any case."""


@dataclasses.dataclass(frozen=True, slots=True)
class Terms:
    """What a request asks for, and how it is done here.

    Attributes:
        threshold: tokens of a context above which it is compacted.
        prompt, most_tokens: of the summary.
        model: gives another model that summarizes, with its settings; None: the run's own does.
        content: makes the `encrypted_content` of the item.
        instructed: the first item of the input is the instructions of the request.
    """

    threshold: int
    prompt: str
    most_tokens: int
    model: Callable[[], Awaitable[tuple[Model, ModelSettings] | None]]
    content: Callable[[Compacted], Awaitable[str]]
    instructed: bool


class _Done(NamedTuple):
    """A compaction: what the model said, what comes of it, and how many items are spared."""

    response: ModelResponse
    compacted: Compacted
    tail: int
    content: str = ""


class ContextManagement:
    """That of one run.

    Args:
        spent: told what each summary has used.
    """

    def __init__(
        self,
        terms: Terms,
        once: Once,
        run_log: RunLog,
        border: Border,
        assembler: Assembler,
        display: Display,
        spent: Callable[[Any], None],
    ) -> None:
        self._terms = terms
        self._once = once
        self._log = run_log
        self._border = border
        self._assembler = assembler
        self._display = display
        self._spent = spent
        # The items of the run from the first to this one are replaced by those.
        self._replaced = 0
        self._instead: list[Item] = []
        # Of the last turn: how much of the input it saw, its tokens, its first output index.
        self._seen: int | None = None
        self._tokens = 0
        self._first: int | None = None

    def of_model(self, model: Model) -> bool:
        """Whether it is done here for a model, and not by its provider."""
        return "Responses" not in families_of(model)

    def view(self, items: Any) -> Any:
        """What a model gets in place of the input that the SDK has made."""
        if not self._instead or not isinstance(items, list) or len(items) < self._replaced:
            return items
        head = items[:1] if self._terms.instructed else []
        return [*head, *self._instead, *items[self._replaced :]]

    async def stream(
        self,
        call: ModelCall,
        model: Model,
        asked: Mapping[str, Any],
        recorded: bool,
        go: Callable[[], AsyncIterator[Any]],
    ) -> AsyncIterator[Any]:
        """A turn of the run's own, before which the context is compacted if it is time.

        Args:
            recorded: the turn was asked by an earlier attempt.
            go: the turn itself.
        """
        if isinstance(call.input, list):
            await self._before(call, model, asked, recorded)
        last: Any = None
        async with contextlib.aclosing(go()) as events:  # type: ignore[type-var]
            async for event in events:
                last = event
                yield event
        # Only now the assembler has taken it.
        if last is not None and last.type == "response.completed":
            self._saw(call, last)

    def _saw(self, call: ModelCall, event: Any) -> None:
        replayed = isinstance(event, ReplayedTurn)
        indexes = event.indexes if replayed else self._assembler.turn_indexes
        self._seen = len(call.input) if isinstance(call.input, list) else None
        usage = event.response.usage
        self._tokens = 0 if usage is None else usage.input_tokens
        self._first = min(indexes, default=self._assembler.next_index)

    async def _before(
        self, call: ModelCall, model: Model, asked: Mapping[str, Any], recorded: bool
    ) -> None:
        due = Due(COMPACTIONS, "model", call.turn, fingerprint(agent=call.agent))
        cut = self._cut(call.input)
        if not self._once.is_recorded(due) and (
            recorded or cut is None or not self._is_due(call, asked, cut)
        ):
            return
        try:
            done = await self._once.value(
                due,
                lambda: self._summarized(call, model, asked, cut or 0),
                encode=self._shown,
                decode=_decoded,
                keep=self._keep,
            )
        except _Failed as failed:
            # The turn is asked with all of it, and says itself if that is too long.
            log.warning("the context of a run was not compacted: %s", failed.__cause__)
            metrics.context_compactions.labels(call.agent, "threshold", "failed").inc()
            return
        metrics.context_compactions.labels(call.agent, "threshold", "done").inc()
        self._spent(done.response.usage)
        self._instead = done.compacted.items
        self._replaced = max(0, len(call.input) - done.tail)
        self._seen, self._tokens = None, 0

    # -- when, and what -------------------------------------------------------------------

    def _cut(self, items: list[Item]) -> int | None:
        """Up to where the items of a run are compacted; None: there is nothing to compact."""
        cut = self._seen
        if cut is None:
            if self._instead:
                return None
            cut = len(items)
            while cut and _is_new(items[cut - 1]):
                cut -= 1
        answered = {answered_by(item) for item in items[cut:]} - {None}
        called = [place for place, item in enumerate(items[:cut]) if call_of(item) in answered]
        cut = min([cut, *called])
        while cut and kind_of(items[cut - 1]) == "reasoning":
            cut -= 1
        return cut if cut > max(self._replaced, int(self._terms.instructed)) else None

    def _is_due(self, call: ModelCall, asked: Mapping[str, Any], cut: int) -> bool:
        items = call.input
        if self._seen is not None and self._tokens:
            tokens = self._tokens + sum(map(tokens_of_item, items[self._seen :]))
        else:
            tokens = tokens_of(asked["system_instructions"], self.view(items))
        new = sum(map(tokens_of_item, items[self._replaced : cut]))
        return tokens > self._terms.threshold and new >= self._terms.threshold // PART

    async def _summarized(
        self, call: ModelCall, model: Model, asked: Mapping[str, Any], cut: int
    ) -> _Done:
        terms, settings = self._terms, asked["model_settings"]
        items = self.view(call.input[:cut])
        other = await terms.model()
        if other is not None:
            model, settings = other
        request = request_of_summary(
            self._border.going_out(items, origin_of(model)),
            terms.prompt,
            settings,
            most_tokens=min(terms.most_tokens, max(LEAST_SUMMARY, terms.threshold // PART)),
            instructions=None,
        )
        try:
            with contained(f"the model of agent {call.agent!r}"):
                response = await model.get_response(**request)
            summary = summary_in(response)
        except Exception as error:
            raise _Failed from error
        kept = _kept(items[int(terms.instructed) :], terms.threshold // PART)
        spares = len(call.input) - cut
        if self._first is not None:
            # As clients see them: what is shown as one item may be two here, a call and its output.
            made = max(0, self._assembler.next_index - self._first)
            spares = made + len(said_by_users(call.input[cut:]))
        compacted = Compacted(summary, kept, whole=True, spares=spares)
        return _Done(response, compacted, len(call.input) - cut, await terms.content(compacted))

    # -- its record -----------------------------------------------------------------------

    def _shown(self, done: _Done) -> str:
        index = self._assembler.compaction(done.content)
        return encode_compaction(done.response, done.compacted.text(), index, done.tail)

    async def _keep(self, step: Step, done: _Done) -> None:
        self._display.write([step], refers=False)
        await self._log.flush()


class _Failed(Exception):
    """No summary was to be had."""


def _decoded(result: str) -> _Done:
    response, compacted, tail = decode_compaction(result)
    return _Done(response, Compacted.read(compacted), tail)


def _is_new(item: Item) -> bool:
    """Whether an item at the end of an input is one that no model has answered yet."""
    made = kind_of(item) == "message" and item.get("role") == "assistant"
    return not made and (kind_of(item) == "message" or answered_by(item) is not None)


def _kept(items: Sequence[Item], most: int) -> list[Item]:
    """The last messages of users, as far as they have no more tokens than this."""
    kept: list[Item] = []
    for item in reversed(said_by_users(items)):
        most -= tokens_of_item(item)
        if most < 0:
            break
        kept.append({key: value for key, value in item.items() if key != "id"})
    return kept[::-1]
