"""The store of jobs: the truth about every job, in a table, and in files what is too large for one."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Iterator, Mapping, Sequence
from functools import partial
from itertools import chain
from pathlib import Path
from typing import Any, TypeVar

import orjson
from sqlalchemy.exc import NoResultFound

from sage.errors import Conflict
from sage.middleware.queue.jobs import adding, retention
from sage.middleware.queue.jobs.endings import JobVerdict
from sage.middleware.queue.jobs.outputs import OutputLine
from sage.middleware.queue.jobs.rows import change, job_id_of, load, new_job_id, no_such_job, run_ended
from sage.middleware.queue.jobs.runs import JobRuns
from sage.middleware.queue.jobs.upkeep import JobUpkeep
from sage.middleware.queue.jobs.writer import Transaction, refusal_of
from sage.middleware.queue.records import NewJob, QueueDepth, StoredJob
from sage.middleware.queue.states import CANCELLED, CANCELLING, ENDED, FAILED, QUEUED, RUNNING

T = TypeVar("T")

INLINE_BYTES = 64 * 1024
"""What is larger goes to a file."""
_PIECE = 1 << 16


class JobStore(JobRuns, JobUpkeep):
    """The jobs in ``database``, with their files in ``directory``. Its coroutines may be called from any event loop.

    What jobs make is kept in ``file_store``. ``clock`` gives Unix seconds. A job whose worker is not heard of for
    ``lease_seconds`` goes to another one; results stay ``result_ttl`` seconds unless a job says otherwise. Every
    coroutine that writes raises :class:`sage.errors.Unavailable` when the disk or the database cannot take it (code
    ``disk_full`` for a full disk); then nothing of it is written. Those for the run of a worker raise
    :class:`Conflict` (``run_ended``) when it has the job no more.
    """

    async def add(self, new: NewJob) -> tuple[StoredJob, bool]:
        """Adds a job; returns it, and whether it is new: with an idempotency key that is known, it is the job of then.

        Raises :class:`Conflict` (``idempotency_conflict``) when that key came with another request.
        """
        job_id = new_job_id()
        params = orjson.dumps(new.params)
        values = adding.values_of(new, job_id, self._clock())
        is_small = new.input is None or (isinstance(new.input, bytes) and len(new.input) <= INLINE_BYTES)
        if len(params) <= INLINE_BYTES and is_small:
            values |= self._files.inline_columns(new, params)
        else:
            values |= await self._in_files(lambda: self._files.write(job_id, new, params, INLINE_BYTES))
        has_files = values["params"] is None or (values["has_items"] and values["input"] is None)
        try:
            job, is_new = await self._writer.run(lambda transaction: adding.add_once(transaction, new, values))
        except Exception:
            await self._in_thread(lambda: self._files.remove(job_id))
            raise
        if is_new:
            self._tell(job)
        elif has_files:
            await self._in_thread(lambda: self._files.remove(job_id))
        return job, is_new

    async def withdraw(self, job_id: str) -> None:
        """Removes a job that was just added and that nobody has had: it, and its idempotency key, leave no trace."""
        if await self._writer.run(lambda transaction: adding.withdraw(transaction, job_id)):
            await self._in_thread(lambda: self._files.remove(job_id))

    async def get(self, tenant: str, job_id: str) -> StoredJob:
        """Raises :class:`NotFound`, also for a job of another tenant."""
        return await self._in_thread(lambda: self._reader.get(tenant, job_id))

    async def list(
        self,
        tenant: str,
        *,
        kind: str | None = None,
        state: str | None = None,
        user: str | None = None,
        limit: int = 100,
        after: str | None = None,
    ) -> tuple[list[StoredJob], str | None]:
        """A page of jobs, the newest first, and the id after which the next one begins (``None``: the last page).

        Raises :class:`NotFound` when there is no job ``after``.
        """
        wanted = {"tenant": tenant, "kind": kind, "state": state, "user": user}
        found = await self._in_thread(lambda: self._reader.page(wanted, limit + 1, after))
        return found[:limit], found[limit - 1].id if len(found) > limit else None

    async def cancel(self, tenant: str, job_id: str) -> StoredJob:
        """Cancels a job: at once if no worker has it, else its worker hears of it with its next renewal.

        Raises :class:`Conflict` for one that has ended.
        """

        def decide(job: StoredJob) -> JobVerdict | None:
            if job.state in ENDED:
                raise Conflict(f"job '{job_id}' has ended: it is {job.state}", code="job_state")
            return JobVerdict(CANCELLED) if job.state == QUEUED else None

        await self.get(tenant, job_id)
        job = await self._end(job_id, decide)
        if job.state == RUNNING:
            job = await self._write(partial(_start_cancelling, job_id))
        return job if job.state != QUEUED else await self.cancel(tenant, job_id)

    async def fail(
        self, job_id: str, message: str, code: str, *, details: Mapping[str, Any] | None = None
    ) -> StoredJob:
        """Ends an unfinished job, whoever has it; one that has ended stays as it is."""
        if details:
            await self.update_details(job_id, details)

        def decide(job: StoredJob) -> JobVerdict | None:
            if job.state in ENDED:
                return None
            return JobVerdict(CANCELLED) if job.state == CANCELLING else JobVerdict(FAILED, message, code)

        return await self._end(job_id, decide)

    async def retry(self, tenant: str, job_id: str) -> StoredJob:
        """Queues a job that has ended again, for its items without a good result. Raises :class:`Conflict`."""
        await self.get(tenant, job_id)
        return await self._write(
            lambda transaction: retention.retry(transaction, load(transaction, job_id), self._clock())
        )

    async def forget(self, tenant: str, job_id: str) -> None:
        """Removes a job that has ended, with its files. Raises :class:`Conflict` for an unfinished one."""
        job = await self.get(tenant, job_id)
        retention.check_ended(job)
        await self._forget(job)

    async def update_details(self, job_id: str, details: Mapping[str, Any]) -> StoredJob:
        """Sets some of the job's ``details``; the others stay."""

        def work(transaction: Transaction) -> StoredJob:
            job = load(transaction, job_id)
            return change(transaction, job, details=job.details | dict(details))

        return await self._write(work)

    async def unhold(
        self,
        job_id: str,
        *,
        input: Path | None = None,
        total: int | None = None,
        details: Mapping[str, Any] | None = None,
    ) -> StoredJob:
        """Lets a held job be claimed, with its items in the file ``input``; one that is not held stays as it is."""
        if input is not None:
            await self._in_files(lambda: self._files.take_input(job_id, input))

        def work(transaction: Transaction) -> StoredJob:
            job = load(transaction, job_id)
            if not job.held:
                return job
            values: dict[str, Any] = {"held": False, "details": job.details | dict(details or {})}
            if input is not None:
                values |= {"has_items": True, "total": total}
            return change(transaction, job, **values)

        job = await self._write(work)
        if input is not None and not job.has_items:
            await self._in_thread(lambda: self._files.drop_input(job_id))
        return job

    async def held(self, kind: str) -> Sequence[StoredJob]:
        """The held jobs of a kind, of all tenants."""
        return await self._in_thread(lambda: self._reader.held(kind))

    async def results(self, job: StoredJob) -> AsyncIterator[bytes]:
        """The user's lines of the items that have a result, in the order of the input, in pieces of whole lines.

        Raises :class:`NotFound` when the job is forgotten meanwhile.
        """
        if not job.has_items:
            return self._pieces(iter(()))
        if job.has_line:
            return self._pieces(self._reader.line(job))
        if job.state in ENDED and job.output_file_id is not None and job.error_file_id is None:
            return await self._started(job.id, self._of_file(job.tenant, job.output_file_id))
        return await self._started(job.id, _joined(self._items.lines(job), lambda line: line.line))

    async def run_results(self, run: str) -> AsyncIterator[bytes]:
        """The same for a run, each line as its worker handed it in: ``{"index", "ok", "usage", "line"}``. Raises
        :class:`Conflict` when the run has ended."""
        job = await self.find(job_id_of(run))
        if job is None or job.run != run:
            raise run_ended(run)
        return await self._started(job.id, _joined(self._items.lines(job), lambda line: line.entry))

    async def count_unfinished(self, tenant: str) -> int:
        """How many jobs of a tenant have not ended."""
        return await self._in_thread(lambda: self._reader.count_unfinished(tenant))

    async def depth(self) -> QueueDepth:
        return await self._in_thread(lambda: self._reader.depth(dict(self._endings.ended)))

    async def due_webhooks(self, limit: int) -> Sequence[StoredJob]:
        """Jobs whose webhook is to be called now, the longest due first."""
        return await self._in_thread(lambda: self._reader.due_webhooks(self._clock(), limit))

    async def webhook_done(self, job: StoredJob, state: str, attempts: int, next_at: float | None) -> StoredJob:
        """Notes a call of the webhook of ``job``; ``next_at`` is when to call again, ``None`` means never.

        Nothing is noted of a job that has been retried since: its next end is told by itself.
        """
        values = {"webhook_state": state, "webhook_attempts": attempts, "webhook_at": next_at}

        def note(transaction: Transaction) -> StoredJob:
            now = load(transaction, job.id)
            return change(transaction, now, **values) if (now.retries, now.state) == (job.retries, job.state) else now

        return await self._writer.run(note)

    def _of_file(self, tenant: str, file_id: str) -> Iterator[bytes]:
        _, file = self._file_store.open(tenant, file_id)
        with file:
            while piece := file.read(_PIECE):
                yield piece

    async def _in_files(self, write: Callable[[], T]) -> T:
        """Writes files of a job. Raises :class:`Unavailable` when the disk cannot take them."""
        try:
            return await self._in_thread(write)
        except OSError as exc:
            raise refusal_of(exc) from exc

    async def _started(self, job_id: str, pieces: Iterator[bytes]) -> AsyncIterator[bytes]:
        """The pieces, with their files open. Raises :class:`NotFound` when these are gone, and the job with them."""
        try:
            first = await self._in_thread(lambda: next(pieces, b""))
        except (FileNotFoundError, NoResultFound) as exc:
            raise no_such_job(job_id) from exc
        return self._pieces(chain([first], pieces))

    async def _pieces(self, pieces: Iterator[bytes]) -> AsyncIterator[bytes]:
        while (piece := await self._in_thread(lambda: next(pieces, None))) is not None:
            yield piece


def _start_cancelling(job_id: str, transaction: Transaction) -> StoredJob:
    job = load(transaction, job_id)
    return change(transaction, job, state=CANCELLING) if job.state == RUNNING else job


def _joined(lines: Iterator[OutputLine], part: Callable[[OutputLine], bytes]) -> Iterator[bytes]:
    """Pieces of whole lines."""
    piece = bytearray()
    for line in lines:
        piece += part(line) + b"\n"
        if len(piece) >= _PIECE:
            yield bytes(piece)
            piece.clear()
    if piece:
        yield bytes(piece)
