"""Loops in a pipeline: records that go back to a stage before the one they come from, and how a job with loops ends."""

from __future__ import annotations

from _thread import allocate_lock
from typing import Any

from sage.kernels.runtime.services.callers import Callers
from sage.kernels.runtime.streams.channels import Channel
from sage.kernels.runtime.streams.records import StreamRecord, Ticket, finish

_NO_LIMIT = 1 << 40
"""A loop with bounded channels alone could wait for itself."""


class FeedbackChannel(Channel):
    """The channel of a stage whose writers stand behind it. They end after it, so it is not they who end it."""

    def __init__(self) -> None:
        super().__init__(_NO_LIMIT)

    def close(self) -> None:
        """One writer has ended, which changes nothing."""

    def end(self) -> None:
        """No more records will come: its reader ends once it has taken what is left."""
        with self._mutex:
            self.writers = 0
            waiting = self._all_waiting()
        for wakeup in waiting:
            wakeup.release()


class RecordsUnderWay:
    """Counts the sources of one job that have not ended, and the records that are not done yet. When none is left,
    nothing can come through a loop any more, and the feedback channels end."""

    def __init__(self, channels: list[FeedbackChannel]) -> None:
        self._channels = channels
        self._ticket = Ticket(self._end, allocate_lock())  # counts one too many, until all sources are counted

    def _end(self) -> None:
        for channel in self._channels:
            channel.end()

    def source_starts(self) -> None:
        self._ticket.add(1)

    def source_ends(self) -> None:
        self._ticket.add(-1)

    all_sources_counted = source_ends

    def count(self, records: list[StreamRecord]) -> list[StreamRecord]:
        """The records of a source, with tickets that are counted here too."""
        self._ticket.add(len(records))
        return [record._replace(ticket=self._ticket_for(record.ticket)) for record in records]

    def _ticket_for(self, ticket: Ticket | None) -> Ticket:
        if ticket is None:
            return self._ticket

        def done() -> None:
            finish(ticket)
            finish(self._ticket)

        return Ticket(done, allocate_lock())


class PassingWorker:
    """Meets :class:`sage.kernels.runtime.streams.workers.Worker`: passes records on as they are."""

    def start(self, callers: Callers) -> None:
        pass

    def process(self, batch: list[Any]) -> list[Any]:
        return batch

    def stop(self) -> None:
        pass
