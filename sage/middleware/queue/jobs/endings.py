"""How runs and jobs end: whatever ends one, its items, its output files and its webhook go with it."""

from __future__ import annotations

import asyncio
import logging
from collections import Counter
from collections.abc import Callable, Mapping
from contextlib import closing
from dataclasses import dataclass
from functools import partial
from typing import Any

from sqlalchemy import bindparam, delete

from sage.errors import Unavailable
from sage.middleware.database.database import Database
from sage.middleware.queue.files import FileStore
from sage.middleware.queue.jobs.items import give_back, lose
from sage.middleware.queue.jobs.job_files import JobFiles
from sage.middleware.queue.jobs.outputs import ItemReader, Missing, Outputs, made_output
from sage.middleware.queue.jobs.rows import change, load, put_back
from sage.middleware.queue.jobs.writer import JobWriter, Transaction, refusal_of
from sage.middleware.queue.models import job_items
from sage.middleware.queue.records import StoredJob
from sage.middleware.queue.states import CANCELLED, QUEUED, SUCCEEDED

_log = logging.getLogger(__name__)

_MOST_TRIES = 20
_ROWS_AT_ONCE = 5000  # so that no transaction takes long


@dataclass(frozen=True, slots=True)
class JobVerdict:
    """What becomes of a job: a state that ends it, or ``queued`` from ``available_at`` on.

    ``is_lost``: its worker did not give it back by its own will. ``result`` is JSON.
    """

    state: str
    message: str | None = None
    code: str | None = None
    result: bytes | None = None
    available_at: float = 0.0
    strikes: int = 0
    is_lost: bool = False

    @property
    def missing(self) -> Missing | None:
        """What the lines of unfinished items say; ``None``: they have none, as those of a cancelled job."""
        if self.state in (CANCELLED, SUCCEEDED):
            return None
        return Missing(self.code or self.state, self.message or f"the job is {self.state}")


Decide = Callable[[StoredJob], JobVerdict | None]
"""What is to become of a job; ``None`` means that it stays as it is. May raise."""

Record = Callable[[Transaction, StoredJob], tuple[StoredJob, Mapping[str, Any]]]
"""Takes the last results of a job before it ends; returns it, and the columns of it that are to be written with its
end. May raise."""


class Endings:
    """Ends jobs, each once. ``ttl`` is how many seconds results stay, unless a job says otherwise."""

    def __init__(
        self,
        database: Database,
        writer: JobWriter,
        files: JobFiles,
        file_store: FileStore,
        clock: Callable[[], float],
        ttl: float,
    ) -> None:
        self._writer = writer
        self._files = files
        self._file_store = file_store
        self._reader = ItemReader(database, files)
        self._clock = clock
        self._ttl = ttl
        self.writing_outputs: set[str] = set()
        """Jobs whose output is being made, which may take longer than a lease."""
        self.ended: Counter[str] = Counter()
        self._tasks: set[asyncio.Future[StoredJob]] = set()

    async def end(
        self, job_id: str, decide: Decide, *, is_lost: bool = False, record: Record | None = None
    ) -> StoredJob:
        """Does with the job what ``decide`` says of it, and returns it. ``is_lost``: its run ended without a word.

        ``decide`` may be asked several times. Raises what it raises, and :class:`Unavailable`. A caller that is
        cancelled does not stop it: output files and the row that tells of them belong together.
        """
        task = asyncio.ensure_future(self._run(job_id, decide, is_lost, record))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return await asyncio.shield(task)

    async def settle(self) -> None:
        """Returns when nothing ends any more on this event loop."""
        loop = asyncio.get_running_loop()
        await asyncio.gather(*(task for task in self._tasks if task.get_loop() is loop), return_exceptions=True)

    async def _run(self, job_id: str, decide: Decide, is_lost: bool, record: Record | None) -> StoredJob:
        job, verdict = await self._writer.run(partial(self._decide, job_id, decide, is_lost, record))
        if verdict is None:
            return job
        self.writing_outputs.add(job_id)
        try:
            for _ in range(_MOST_TRIES):
                ended = await self._end_with_outputs(job, verdict)
                if ended is not None:
                    return ended
                job, verdict = await self._writer.run(partial(self._decide, job_id, decide, False, None))
                if verdict is None:
                    return job
        finally:
            self.writing_outputs.discard(job_id)
        raise Unavailable(f"job '{job_id}' goes on changing while it ends; try again")

    def _decide(
        self, job_id: str, decide: Decide, is_lost: bool, record: Record | None, transaction: Transaction
    ) -> tuple[StoredJob, JobVerdict | None]:
        """Ends what needs no output files; else returns the verdict."""
        job = load(transaction, job_id)
        recorded: Mapping[str, Any] = {}
        if record is not None:
            job, recorded = record(transaction, job)
        if decide(job) is None:
            return job, None
        if job.has_items and not job.has_line:
            job = _take_items_back(transaction, job, is_lost)
        verdict = decide(job)
        if verdict is None:
            return job, None
        if verdict.state == QUEUED:
            return put_back(transaction, job, verdict.available_at, strikes=verdict.strikes), None
        if job.has_items and not job.held and not job.has_line:
            return job, verdict
        columns = {**recorded, **made_output(transaction.connection, job, verdict.result)}
        return self._end(transaction, job, verdict, columns), None

    async def _end_with_outputs(self, job: StoredJob, verdict: JobVerdict) -> StoredJob | None:
        """Makes the outputs, then ends the job; ``None`` means that it changed meanwhile."""
        with closing(Outputs(self._file_store)) as outputs:
            await asyncio.to_thread(self._write, outputs, job, verdict)

            def work(transaction: Transaction) -> StoredJob | None:
                now = load(transaction, job.id)
                if _progress_of(now) != _progress_of(job):
                    return None
                return self._end(transaction, now, verdict, outputs.insert(transaction.connection))

            ended = await self._writer.run(work)
            if ended is not None:
                outputs.keep()
        if ended is not None and ended.state == SUCCEEDED and not ended.failed:
            await self.remove_items(ended)
        return ended

    def _write(self, outputs: Outputs, job: StoredJob, verdict: JobVerdict) -> None:
        try:
            outputs.write(job, self._reader.lines(job, verdict.missing))
        except FileNotFoundError as exc:  # somebody removed them: no later try finds more
            _log.error("job '%s' ends without output: its items are gone: %s", job.id, exc)
            outputs.discard()
        except Exception as exc:
            refusal = refusal_of(exc)
            raise refusal from (exc if refusal is not exc else None)

    def _end(
        self, transaction: Transaction, job: StoredJob, verdict: JobVerdict, output_columns: Mapping[str, Any]
    ) -> StoredJob:
        """Ends the job for good, and makes its webhook due."""
        now = self._clock()
        lifetime = self._ttl if job.result_ttl is None else job.result_ttl
        values: dict[str, Any] = {
            **output_columns,
            "state": verdict.state,
            "held": False,
            "result": verdict.result,
            "error_message": verdict.message,
            "error_code": verdict.code,
            "finished_at": now,
            "expires_at": now + lifetime,
            "run": None,
            "lease_until": None,
        }
        if job.webhook_url is not None:
            values |= {"webhook_state": "due", "webhook_attempts": 0, "webhook_at": now}
        ended = change(transaction, job, **values)
        self.ended[ended.state] += 1
        return ended

    async def remove_items(self, job: StoredJob) -> None:
        """Removes a job's items, and the files beside its row, that nobody needs any more."""
        of_job = {"of_job": job.sequence}
        total = 2**62 if job.total is None else job.total
        step = total if job.total is None else _ROWS_AT_ONCE
        for end in range(step, total + step, step):
            await self._writer.run(partial(_remove_rows, {**of_job, "end": end}))
        await asyncio.to_thread(self._files.remove, job.id)


def _take_items_back(transaction: Transaction, job: StoredJob, is_lost: bool) -> StoredJob:
    if is_lost:
        return lose(transaction, job)
    give_back(transaction, job)
    return job


def _progress_of(job: StoredJob) -> tuple[Any, ...]:
    return job.state, job.run, job.done, job.failed, job.retries


_REMOVE_ROWS = delete(job_items).where(job_items.c.job == bindparam("of_job"), job_items.c.number < bindparam("end"))


def _remove_rows(bound: dict[str, Any], transaction: Transaction) -> None:
    transaction.connection.execute(_REMOVE_ROWS, bound)
