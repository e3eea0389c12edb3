"""The store of jobs: the truth about every job, in a table, and in files what is too large for one."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TypeVar

import orjson
from sqlalchemy import bindparam, case, func, select, update

from sage.errors import Conflict
from sage.middleware.database.database import Database
from sage.middleware.queue.job_files import JobFiles
from sage.middleware.queue.models import jobs
from sage.middleware.queue.records import Claim, JobEnd, NewJob, StoredJob
from sage.middleware.queue.rows import (
    BY_ID,
    INSERT,
    VIEW,
    change,
    end,
    job_id_of,
    job_of,
    load,
    load_run,
    new_job_id,
    new_run,
    no_such_job,
    put_back,
    run_ended,
    state_after,
)
from sage.middleware.queue.states import HELD_BY_RUN, QUEUED, RUNNING
from sage.middleware.queue.writer import JobWriter, Transaction, Work
from sage.thread_pool import ThreadPool

T = TypeVar("T")

LEASE_SECONDS = 6.0
INLINE_BYTES = 64 * 1024
"""What is larger goes to a file."""
_WEEK = 7 * 24 * 3600.0
_RETRY_SECONDS = 1.0
"""After the first failure of a job that may be tried again; then twice as long."""

_c = jobs.c
_CLAIM = (
    update(jobs)
    .where(
        _c.id == bindparam("job_id"),
        _c.state == QUEUED,
        _c.held.is_(False),
        _c.available_at <= bindparam("now"),
    )
    .values(
        state=RUNNING,
        run=bindparam("new_run"),
        worker=bindparam("by"),
        lease_until=bindparam("until"),
        started_at=func.coalesce(_c.started_at, bindparam("now")),
        deliveries=_c.deliveries + 1,
        strikes=_c.strikes + 1,
    )
    .returning(*VIEW, _c.params)
)
_RENEW = (
    update(jobs)
    .where(_c.id == bindparam("job_id"), _c.run == bindparam("by_run"), _c.state.in_(HELD_BY_RUN))
    .values(lease_until=bindparam("until"))
    .returning(*VIEW)
)
_done, _failed, _total = (bindparam(name, type_=_c.done.type) for name in ("to_done", "to_failed", "to_total"))
_RENEW_PROGRESS = _RENEW.where(_c.has_items.is_(False)).values(
    total=func.coalesce(_total, _c.total),
    done=_done,
    failed=_failed,
    strikes=case((_done + _failed > _c.done + _c.failed, 0), else_=_c.strikes),
)


class JobStore:
    """The jobs in ``database``, with their files in ``directory``. Its coroutines may be called from any event loop.

    ``clock`` gives Unix seconds. A job whose worker is not heard of for ``lease_seconds`` goes to another one; results
    stay ``result_ttl`` seconds unless a job says otherwise. Every coroutine that writes raises
    :class:`sage.errors.Unavailable` when the disk or the database cannot take it (code ``storage_full`` for a full
    disk); then nothing of it is written.
    """

    def __init__(
        self,
        database: Database,
        directory: Path,
        *,
        clock: Callable[[], float] = time.time,
        lease_seconds: float = LEASE_SECONDS,
        result_ttl: float = _WEEK,
    ) -> None:
        self._database = database
        self._clock = clock
        self._result_ttl = result_ttl
        self.lease_seconds = lease_seconds
        self._files = JobFiles(directory / "jobs")
        self._writer = JobWriter(database)
        self._pool = ThreadPool(4, "jobs reader")
        self._listeners: list[Callable[[StoredJob], None]] = []

    def listen(self, listener: Callable[[StoredJob], None]) -> None:
        """Calls ``listener`` with every job that changes through this store, on the loop of who changed it."""
        self._listeners.append(listener)

    async def close(self) -> None:
        """Returns when everything is written; the database stays open."""
        await asyncio.to_thread(self._writer.close)
        self._pool.shutdown(wait=False)

    async def add(self, new: NewJob) -> tuple[StoredJob, bool]:
        """Adds a job; returns it, and whether it is new: with an idempotency key that is known, it is the job of then.

        Raises :class:`Conflict` (``idempotency_conflict``) when that key came with another request.
        """
        job_id, now = new_job_id(), self._clock()
        params = orjson.dumps(new.params)
        values = _values_of(new, job_id, now)
        inline_input = isinstance(new.input, bytes) and len(new.input) <= INLINE_BYTES
        if len(params) <= INLINE_BYTES and (new.input is None or inline_input):
            values |= self._files.inline_columns(new, params)
        else:
            values |= await self._in_thread(lambda: self._files.write(job_id, new, params, INLINE_BYTES))
        try:
            job, is_new = await self._writer.run(lambda transaction: _add(transaction, new, values))
        except BaseException:
            await self._in_thread(lambda: self._files.remove(job_id))
            raise
        if is_new:
            self._tell(job)
        elif values["params"] is None or values["input"] is None:
            await self._in_thread(lambda: self._files.remove(job_id))
        return job, is_new

    async def get(self, tenant: str, job_id: str) -> StoredJob:
        """Raises :class:`sage.errors.NotFound`, also for a job of another tenant."""
        job = await self.find(job_id)
        if job is None or job.tenant != tenant:
            raise no_such_job(job_id)
        return job

    async def find(self, job_id: str) -> StoredJob | None:
        """The job of whatever tenant; ``None`` means that there is none."""

        def read() -> StoredJob | None:
            with self._database.reading() as connection:
                row = connection.execute(BY_ID, {"job_id": job_id}).one_or_none()
            return None if row is None else job_of(row)

        return await self._in_thread(read)

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

        Raises :class:`sage.errors.NotFound` when there is no job ``after``.
        """
        before = None if after is None else (await self.get(tenant, after)).sequence
        wanted = {_c.tenant: tenant, _c.kind: kind, _c.state: state, _c.user: user}
        statement = select(*VIEW).where(*(column == value for column, value in wanted.items() if value is not None))
        if before is not None:
            statement = statement.where(_c.sequence < before)
        statement = statement.order_by(_c.sequence.desc()).limit(limit + 1)

        def read() -> list[StoredJob]:
            with self._database.reading() as connection:
                return [job_of(row) for row in connection.execute(statement)]

        found = await self._in_thread(read)
        return found[:limit], found[limit - 1].id if len(found) > limit else None

    async def claim(self, job_id: str, worker: str) -> Claim:
        """Gives a queued job to ``worker``, under a lease. Raises :class:`Conflict` (``not_claimable``)."""
        now = self._clock()
        bound = {"job_id": job_id, "now": now, "new_run": new_run(job_id), "by": worker}
        bound["until"] = now + self.lease_seconds
        row = await self._writer.run(lambda transaction: transaction.connection.execute(_CLAIM, bound).one_or_none())
        if row is None:
            raise Conflict(
                f"job '{job_id[:64]}' is not to be claimed: it is unknown, taken, or has ended", code="not_claimable"
            )
        job, stored = job_of(row), row[-1]
        if stored is None:
            stored = await self._in_thread(lambda: self._files.read_params(job_id))
        self._tell(job)
        assert job.run is not None
        return Claim(job.run, job, orjson.loads(stored))

    async def renew(
        self, run: str, *, done: int | None = None, failed: int | None = None, total: int | None = None
    ) -> StoredJob:
        """Renews the lease of a run, and tells of the progress of a job of one. Its worker has to stop when the state
        of the answer is ``cancelling``. Raises :class:`Conflict` (``run_ended``)."""
        bound: dict[str, Any] = {"job_id": job_id_of(run), "by_run": run, "until": self._clock() + self.lease_seconds}
        progress = {"to_done": done or 0, "to_failed": failed or 0, "to_total": total}

        def work(transaction: Transaction) -> StoredJob:
            row = None
            if done is not None or failed is not None or total is not None:
                row = transaction.connection.execute(_RENEW_PROGRESS, bound | progress).one_or_none()
            if row is None:
                row = transaction.connection.execute(_RENEW, bound).one_or_none()
            if row is None:
                raise run_ended(run)
            return job_of(row)

        return await self._write(work)

    async def finish(self, run: str, ending: JobEnd) -> StoredJob:
        """Ends a run. Raises :class:`Conflict` (``run_ended``)."""
        now = self._clock()
        result = None if ending.result is None else orjson.dumps(ending.result)

        def work(transaction: Transaction) -> StoredJob:
            job = load_run(transaction, run)
            state = state_after(job, ending)
            if state == QUEUED:
                wait = _RETRY_SECONDS * 2 ** max(job.strikes - 1, 0)
                return put_back(transaction, job, now + wait, strikes=job.strikes)
            error = {"error_message": ending.error_message, "error_code": ending.error_code}
            return end(transaction, job, state, now, self._result_ttl, result=result, **error)

        return await self._write(work)

    async def update_details(self, job_id: str, details: Mapping[str, Any]) -> StoredJob:
        """Sets some of the job's ``details``; the others stay."""

        def work(transaction: Transaction) -> StoredJob:
            job = load(transaction, job_id)
            return change(transaction, job, details=job.details | dict(details))

        return await self._write(work)

    async def _write(self, work: Work[StoredJob]) -> StoredJob:
        job = await self._writer.run(work)
        self._tell(job)
        return job

    def _tell(self, job: StoredJob) -> None:
        for listener in self._listeners:
            listener(job)

    async def _in_thread(self, work: Callable[[], T]) -> T:
        return await asyncio.wrap_future(self._pool.submit(work))


_SAME_KEY = select(*VIEW, _c.request_hash).where(
    _c.tenant == bindparam("of_tenant"),
    _c.user == bindparam("of_user"),
    _c.idempotency_key == bindparam("with_key"),
)


def _add(transaction: Transaction, new: NewJob, values: Mapping[str, Any]) -> tuple[StoredJob, bool]:
    if new.idempotency_key is not None:
        same = {"of_tenant": new.tenant, "of_user": new.user, "with_key": new.idempotency_key}
        row = transaction.connection.execute(_SAME_KEY, same).one_or_none()
        if row is not None:
            if row.request_hash != new.request_hash:
                raise Conflict(
                    f"the key '{new.idempotency_key[:64]}' was used for another request; take a new one",
                    param="Idempotency-Key",
                    code="idempotency_conflict",
                )
            return job_of(row), False
    return job_of(transaction.connection.execute(INSERT, values).one()), True


def _values_of(new: NewJob, job_id: str, now: float) -> dict[str, Any]:
    """All columns but those of parameters and input."""
    names = (
        *("kind", "queue", "priority", "held", "tenant", "user", "key_id", "idempotency_key", "request_hash"),
        *("deadline", "time_limit", "result_ttl", "total", "errors_apart", "input_file_id", "webhook_url"),
    )
    zeros = ("deliveries", "strikes", "done", "failed", "next_index", "next_offset", "retries", "webhook_attempts")
    return {
        **{name: getattr(new, name) for name in names},
        **dict.fromkeys(zeros, 0),
        "id": job_id,
        "state": QUEUED,
        "meta": dict(new.metadata),
        "details": dict(new.details),
        "created_at": now,
        "available_at": now,
        "has_items": new.input is not None,
    }
