"""Sections: what a handler yields between two of its steps, recorded as a model's turn is."""

import hashlib
from collections.abc import Callable, Iterable
from typing import Any, Final

from openai.types.responses import Response

from longrun.assembly.assembler import Assembler
from longrun.assembly.server_calls import RunningCall
from longrun.assembly.usage import UsageSum
from longrun.execution.handling.yielded import Yielded, completed, output_of
from longrun.execution.replay.journal import Journal, fingerprint
from longrun.execution.replay.once import Due
from longrun.execution.replay.results import decode_response, encode_response
from longrun.pieces import at_once
from longrun.store.records import Step
from longrun.store.run_log import RunLog

_KIND: Final = "model"

_END: Final = completed(Response.construct(output=[]))
"""The end of a turn that leaves nothing to be shown."""


class Sections:
    """The sections of one run of a handler, in order.

    Args:
        write: commits what the assembler has, with steps.
        spent: called when something was spent; raises if a budget is.

    Attributes:
        name: of the handler.
        streamed: the stream that is under way, until it is recorded with its last event.
    """

    def __init__(
        self,
        assembler: Assembler,
        journal: Journal,
        run_log: RunLog,
        write: Callable[[list[Step]], None],
        spent: Callable[[], None],
        name: str,
    ) -> None:
        self.streamed: Due | None = None
        self.name = name
        self._assembler = assembler
        self._journal = journal
        self._log = run_log
        self._write = write
        self._spent = spent
        self._number = 0
        self._passed: dict[int, Any] = {}
        self._begin()

    def _begin(self) -> None:
        self._number += 1
        self._yielded = Yielded(self.name)
        self._told = 0
        self._digest = hashlib.sha256()
        self._indexes: list[int] = []
        self._calls: dict[str, RunningCall] = {}
        self._usage = UsageSum()
        self._recorded = self._journal.has("", _KIND, self._key)

    @property
    def _key(self) -> str:
        return f"section {self._number}"

    async def take(self, given: Any) -> None:
        """One thing that the handler yields.

        Raises:
            NotYieldable: it is no part of a response.
            BudgetSpent: the run may spend no more.
        """
        if self._passed.pop(id(given), None) is not None:
            if given.type == "response.completed":
                at_once(self._assembler.replayed_turn(given.response))
                self._begin()
            return
        self._told += 1
        self._digest.update(
            given.encode("utf-8", "surrogatepass") if isinstance(given, str) else b"."
        )
        if self._recorded:
            return
        if self._log.must_wait:
            await self._log.ready()
        output = output_of(given)
        if output is None:
            self._raw(self._yielded.events(given))
        else:
            self._answer(output)
        self._write([])

    def _answer(self, output: dict[str, Any]) -> None:
        """What a call has led to: the end of its item, if it is executed here."""
        self._raw(self._yielded.close())
        if self.streamed is None:
            # Only calls of turns that have ended are answered.
            self._raw([_END])
        self._assembler.tool_output(output)

    def pass_over(self, events: list[Any]) -> None:
        """These events of a recorded stream are in the log: they are not to be told again."""
        self._passed.update((id(event), event) for event in events)

    async def end(self) -> None:
        """A step begins: record what was told since the last one.

        Raises:
            BudgetSpent: the run may spend no more.
        """
        if not self._told:
            return
        digest = self._digest.hexdigest()[:16]
        due = Due("", _KIND, self._key, fingerprint(yielded_digest=digest))
        recorded = self._journal.find(*due)
        if recorded is not None:
            at_once(self._assembler.replayed_turn(decode_response(recorded)[0]))
            self._begin()
            return
        self._raw([*self._yielded.close(), _END])
        usage = self._usage.as_json()
        turn = Response.construct(output=[], usage=usage)
        result = at_once(encode_response(turn, self._indexes, {}, self._calls))
        self._write([due.finished(result)])
        self._begin()
        await self._log.flush()
        self._spent()

    def close(self) -> None:
        """The handler has ended: its last section goes out with the end of its response."""
        if not self._recorded:
            self._raw(self._yielded.close())
            self._write([])

    def _raw(self, events: Iterable[Any]) -> None:
        for event in events:
            self._assembler.raw_event(event)
            if event.type != "response.completed":
                continue
            indexes, calls = self._assembler.turn_indexes, self._assembler.turn_calls
            if self.streamed is None:
                self._indexes += indexes
                self._calls.update(calls)
                self._usage.add(event.response.usage)
                continue
            # The stream's own step says which items there are of it.
            due, self.streamed = self.streamed, None
            items = self._assembler.turn_items
            result = at_once(encode_response(event.response, indexes, {}, calls, items))
            self._write([due.finished(result)])
            self._begin()
