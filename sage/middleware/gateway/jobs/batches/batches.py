"""OpenAI's batches: a job each, whose input is checked line by line after the batch is accepted."""

from __future__ import annotations

import asyncio
import hashlib
import logging
import re
import time
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from sage.errors import Conflict, InvalidRequest, NotFound, SageError
from sage.middleware.auth.principal import Principal
from sage.middleware.gateway.collections.bounded_pool import BoundedPool
from sage.middleware.gateway.jobs.batches.input import BatchInput
from sage.middleware.gateway.jobs.batches.views import KIND, batch_id, batch_status, job_id
from sage.middleware.gateway.jobs.jobs import Jobs
from sage.middleware.gateway.jobs.lines import LineLimits
from sage.middleware.queue.files import FileStore, FileUpload
from sage.middleware.queue.records import NewJob, StoredJob
from sage.middleware.queue.states import CANCELLING, ENDED, LOW, QUEUED

ENDPOINTS = ("/v1/chat/completions", "/v1/completions", "/v1/embeddings", "/v1/rerank")
_UNITS = {"s": 1, "m": 60, "h": 3600, "d": 86400}
_WINDOW = re.compile(r"([1-9][0-9]{0,6})([smhd])", re.ASCII)
_LONGEST_WINDOW = 30 * 86400
_KEPT = 30 * 86400.0
"""Seconds after its end that a batch is kept with its files."""
_BEYOND_WINDOW = 60.0
"""Seconds that the job's time limit is longer, so that the end of the window is what is told."""
_LOOK_FOR_LOST = 30.0
"""Seconds between two looks for batches whose gateway ended before their input was checked."""
_CHECKED_AT_ONCE = 2
_WAITING_CHECKS = 10_000
_LAST_CHECKS = 5.0
"""Seconds that the end waits for checks that run."""
_INVALID = "invalid_batch"

logger = logging.getLogger("sage")


@dataclass(frozen=True, slots=True)
class RequestedBatch:
    """A batch to be made. ``completion_window`` is a time such as ``24h``; ``output_expires_after`` is in seconds,
    ``None`` means that the output is kept as long as the batch."""

    input_file_id: str
    endpoint: str
    completion_window: str
    metadata: dict[str, str] = field(default_factory=dict)
    output_expires_after: int | None = None
    idempotency_key: str | None = None


class Batches:
    """The batches of one gateway. Belongs to its event loop."""

    def __init__(self, jobs: Jobs, files: FileStore, limits: LineLimits) -> None:
        self._jobs = jobs
        self._files = files
        self._limits = limits
        self._threads = BoundedPool("checks of batches", _CHECKED_AT_ONCE, _WAITING_CHECKS)
        self._checking: dict[str, asyncio.Task[None]] = {}
        self._looking: asyncio.Task[None] | None = None
        jobs.store.listen(self._changed)

    def begin(self) -> None:
        """Goes on with the checks that the end of a gateway has interrupted."""
        self._looking = asyncio.create_task(self._look_for_lost())

    async def end(self) -> None:
        """Ends all checks; the next gateway begins them anew."""
        tasks = [*self._checking.values(), *([] if self._looking is None else [self._looking])]
        for task in tasks:
            task.cancel()
        if tasks:
            await asyncio.wait(tasks)
        await asyncio.to_thread(self._threads.close, _LAST_CHECKS)

    async def create(self, principal: Principal, request: RequestedBatch) -> StoredJob:
        """A new batch, whose input is checked from now on.

        Raises :class:`InvalidRequest` for what is wrong with the request itself, :class:`NotFound` when there is no
        such file, and what :meth:`Jobs.submit` raises.
        """
        self._jobs.may_submit(principal, KIND)
        window = _seconds_of(request.completion_window)
        if request.endpoint not in ENDPOINTS:
            raise InvalidRequest(
                f"'{request.endpoint[:64]}' is no endpoint for a batch; there are {', '.join(ENDPOINTS)}",
                param="endpoint",
                code="invalid_endpoint",
            )
        await self._check_file(principal, request.input_file_id)
        job, _ = await self._jobs.submit(principal, self._new_job(request, window))
        return job

    async def _check_file(self, principal: Principal, file_id: str) -> None:
        try:
            file = await asyncio.to_thread(self._files.get, principal.tenant, file_id)
        except NotFound as exc:
            raise NotFound(exc.message, param="input_file_id") from None
        if file.purpose != "batch":
            raise InvalidRequest(
                f"the file '{file.id}' was uploaded for '{file.purpose}'; the input of a batch has the purpose 'batch'",
                param="input_file_id",
                code="invalid_file_purpose",
            )

    def _new_job(self, request: RequestedBatch, window: int) -> NewJob:
        details = {
            "endpoint": request.endpoint,
            "completion_window": request.completion_window,
            "output_expires_after": request.output_expires_after,
        }
        wanted = repr((KIND, request.input_file_id, sorted(details.items(), key=str), sorted(request.metadata.items())))
        return NewJob(
            kind=KIND,
            tenant="",  # who asks is set by Jobs.submit
            user="",
            params={"endpoint": request.endpoint},
            input_file_id=request.input_file_id,
            priority=LOW,
            held=True,
            errors_apart=True,
            window=window,
            time_limit=window + _BEYOND_WINDOW,
            result_ttl=_KEPT,
            idempotency_key=request.idempotency_key,
            request_hash=hashlib.sha256(wanted.encode()).digest(),
            metadata=request.metadata,
            details=details,
        )

    async def get(self, principal: Principal, batch: str) -> StoredJob:
        """The caller's batch. Raises :class:`NotFound`."""
        try:
            job = await self._jobs.store.get(principal.tenant, job_id(batch))
        except NotFound:
            raise _not_found(batch) from None
        if job.kind != KIND:
            raise _not_found(batch)
        return job

    async def page(self, principal: Principal, limit: int, after: str | None) -> tuple[list[StoredJob], bool]:
        """The caller's batches, the newest first, those after the batch ``after``; and whether there are more.

        Raises :class:`InvalidRequest` when there is no such batch.
        """
        before = None
        if after is not None:
            try:
                before = (await self.get(principal, after)).id
            except NotFound as exc:
                raise InvalidRequest(f"'after': {exc.message}", param="after") from None
        found, following = await self._jobs.store.list(principal.tenant, kind=KIND, limit=limit, after=before)
        return found, following is not None

    async def cancel(self, principal: Principal, batch: str) -> StoredJob:
        """Cancels the caller's batch. One that runs is cancelling until its worker has stopped.

        Raises :class:`Conflict` when it has ended.
        """
        job = await self.get(principal, batch)
        if job.state == CANCELLING:
            return job
        if job.state in ENDED:
            raise Conflict(
                f"the batch '{batch_id(job.id)}' is {batch_status(job)}, so it cannot be cancelled", code="batch_ended"
            )
        await self._jobs.store.update_details(job.id, {"cancelling_at": time.time()})
        return await self._jobs.store.cancel(principal.tenant, job.id)

    def _changed(self, job: StoredJob) -> None:
        """A job is new, is to be done again, or is another step further."""
        if job.kind == KIND and job.held and job.state == QUEUED:
            self._check(job)

    def _check(self, job: StoredJob) -> None:
        if job.id not in self._checking:
            task = asyncio.create_task(self._check_input(job))
            self._checking[job.id] = task
            task.add_done_callback(lambda _: self._checking.pop(job.id, None))

    async def _check_input(self, job: StoredJob) -> None:
        """Checks the input of a batch, and lets its job begin or fail."""
        try:
            await self._checked(job)
        except SageError as error:
            logger.warning("the input of batch %s cannot be checked now: %s", batch_id(job.id), error.message)
        except Exception:
            logger.exception("the input of batch %s cannot be checked", batch_id(job.id))

    async def _checked(self, job: StoredJob) -> None:
        store = self._jobs.store
        upload = await asyncio.to_thread(self._files.create_output)  # for the items only: it is never kept
        try:
            checked = BatchInput(job.details["endpoint"], upload, self._limits)
            try:
                errors = await self._threads.run(partial(self._read, job, checked, upload), job.tenant)
            except NotFound:
                errors = [_fault("file_not_found", "the input file was deleted, or has expired")]
            if errors:
                message = "the input of the batch is not valid (errors lists what is wrong)"
                await store.fail(job.id, message, _INVALID, details={"errors": errors})
                return
            details: dict[str, Any] = {"in_progress_at": time.time()}
            if len(checked.models) == 1:
                details["model"] = next(iter(checked.models))
            await store.unhold(job.id, input=upload.path, total=checked.total, details=details)
        finally:
            await asyncio.shield(asyncio.to_thread(upload.__exit__, None, None, None))

    def _read(self, job: StoredJob, checked: BatchInput, upload: FileUpload) -> list[dict[str, Any]]:
        assert job.input_file_id is not None
        with self._files.open_input(job.tenant, job.input_file_id) as file:
            errors = checked.read(file)
        upload.flush()
        return errors

    async def _look_for_lost(self) -> None:
        while True:
            try:
                for job in await self._jobs.store.held(KIND):
                    self._check(job)
            except Exception as error:
                logger.warning("batches cannot be looked for: %s", error)
            await asyncio.sleep(_LOOK_FOR_LOST)


def _seconds_of(window: str) -> int:
    found = _WINDOW.fullmatch(window)
    seconds = int(found[1]) * _UNITS[found[2]] if found is not None else 0
    if not 0 < seconds <= _LONGEST_WINDOW:
        raise InvalidRequest(
            f"'{window[:32]}' is no completion window; it is a time such as '24h', up to '30d'",
            param="completion_window",
            code="invalid_completion_window",
        )
    return seconds


def _fault(code: str, message: str) -> dict[str, Any]:
    return {"code": code, "message": message, "param": None, "line": None}


def _not_found(batch: str) -> NotFound:
    return NotFound(f"there is no batch '{batch[:64]}' (GET /v1/batches lists yours)", param="batch_id")
