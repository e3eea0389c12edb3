"""``/worker``: the wire of ``sage worker``, who does the jobs. A worker is trusted with the work of all tenants."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Annotated, Any, BinaryIO, Literal

import orjson
from fastapi import Request
from fastapi.responses import Response, StreamingResponse
from pydantic import BaseModel, ConfigDict, Field

from sage.middleware.auth.principal import Scope
from sage.middleware.gateway.jobs.opening import Queue
from sage.middleware.gateway.jobs.sources import open_source
from sage.middleware.queue.records import JobEnd, ResultLine
from sage.middleware.routers.http.asgi import UNLOGGED, note, read_body
from sage.middleware.routers.http.deps import TheQueue
from sage.middleware.routers.http.guard import guarded_router, max_body, requires
from sage.middleware.routers.http.openapi_bodies import BYTES, NDJSON
from sage.middleware.routers.items import reply
from sage.middleware.routers.tasks.schedules import TheSchedules

router = guarded_router("Workers", prefix="/worker")

_MOST_ITEMS = 256
_MOST_IN_HAND = 2048
_ITEMS_BODY = 2**17
"""Bytes of a request for items, which may name all that a worker holds."""
_PIECE = 2**18
Name = Annotated[str, Field(min_length=1, max_length=128)]


class WorkerBody(BaseModel):
    """A body of a worker's."""

    model_config = ConfigDict(extra="forbid", hide_input_in_errors=True)


class HelloBody(WorkerBody):
    """A worker is there, and takes jobs of these queues."""

    worker: Name
    concurrency: int = Field(ge=1, le=4096)
    queues: list[Annotated[str, Field(min_length=1, max_length=64)]] = Field(["default"], min_length=1, max_length=32)
    version: str = Field("", max_length=64)


class HelloAnswer(BaseModel):
    """What a worker has to know."""

    lease_seconds: float
    item_concurrency: int
    schedules: dict[str, Any]


class GoodbyeBody(WorkerBody):
    """A worker has ended; what it did goes back into the queue."""

    worker: Name


class LostBody(WorkerBody):
    """A process of a worker has died with a job."""

    id: str = Field(max_length=64)
    worker: Name


class ClaimBody(WorkerBody):
    """A message, as a worker has got it from the broker."""

    id: str = Field(max_length=64)
    signature: str = Field(max_length=128)
    worker: Name


class Claimed(BaseModel):
    """A job for a worker. `credential` has the rights of who asked for it; null where none is needed."""

    run: str
    id: str
    kind: str
    params: Any
    total: int | None
    has_items: bool
    credential: str | None
    lease_seconds: float
    time_limit: float | None
    deliveries: int
    line: Any = Field(description="The item of a job that has one; null: items are to be taken.")


class RenewBody(WorkerBody):
    """A worker is still at it. Counts are those of a job without items."""

    done: int | None = Field(None, ge=0)
    failed: int | None = Field(None, ge=0)
    total: int | None = Field(None, ge=0)


class Renewed(BaseModel):
    """The lease goes on. `cancel`: the worker is to stop."""

    cancel: bool
    credential: str | None


class ItemsBody(WorkerBody):
    """How many items a worker takes. `in_hand`: those that it holds; others of this run went with a lost answer."""

    count: int = Field(ge=1, le=_MOST_ITEMS)
    in_hand: list[int] | None = Field(None, max_length=_MOST_IN_HAND)


class Recorded(BaseModel):
    """Results were taken. `cancel`: the worker is to stop."""

    cancel: bool


class FinishError(WorkerBody):
    """Why a job has failed."""

    message: str = Field(max_length=10_000)
    code: str | None = Field(None, max_length=64)


class RunResult(WorkerBody):
    """What came of an item; `line` is what the user reads."""

    index: int = Field(ge=0)
    ok: bool
    line: Any
    usage: dict[str, Any] | None = None


class FinishBody(WorkerBody):
    """How a run has ended. `retry`: another one may succeed."""

    run: str = Field(max_length=128)
    state: Literal["succeeded", "failed"]
    result: dict[str, Any] | None = None
    error: FinishError | None = None
    retry: bool = False
    results: list[RunResult] = Field([], max_length=_MOST_ITEMS)
    """The last results, which nobody has handed in yet."""


@router.post("/hello", name="worker_hello", response_model=HelloAnswer)
@requires(Scope.WORKER)
async def hello(body: HelloBody, request: Request, queue: TheQueue, schedules: TheSchedules) -> Response:
    """A worker begins, or says that it is still there."""
    note(request.scope, **{UNLOGGED: True})
    jobs = (await queue.open()).jobs
    if jobs.dispatcher.workers.heard(body.worker, body.concurrency, tuple(body.queues), body.version):
        jobs.dispatcher.wake()
    return reply(
        {
            "lease_seconds": jobs.store.lease_seconds,
            "item_concurrency": queue.settings.item_concurrency,
            "schedules": await schedules.view(),
        }
    )


@router.post("/goodbye", name="worker_goodbye", status_code=204, response_class=Response)
@requires(Scope.WORKER)
async def goodbye(body: GoodbyeBody, queue: TheQueue) -> Response:
    """A worker ends. What it had goes to others at once."""
    await (await queue.open()).jobs.worker_gone(body.worker, in_order=True)
    return Response(status_code=204)


@router.post("/lost", name="worker_lost", status_code=204, response_class=Response)
@requires(Scope.WORKER)
async def lost(body: LostBody, queue: TheQueue) -> Response:
    """The process of a job has died. Another one gets the job at once, unless that has happened too often."""
    await (await queue.open()).jobs.run_lost(body.id, body.worker)
    return Response(status_code=204)


@router.post("/claim", name="worker_claim", response_model=Claimed)
@requires(Scope.WORKER)
async def claim(body: ClaimBody, request: Request, queue: TheQueue) -> Response:
    """A worker takes the job of a message. 409 means that there is nothing to do: it was done, cancelled or taken."""
    return await claim_job(body, request, queue)


async def claim_job(body: ClaimBody, request: Request, queue: Queue) -> Response:
    """See :func:`claim`."""
    opened = await queue.open()
    delivery = await opened.deliveries.claim(body.id, body.signature, body.worker)
    job, line = delivery.claim.job, delivery.claim.line
    note(request.scope, job=job.id)
    return reply(
        {
            "run": delivery.claim.run,
            "id": job.id,
            "kind": job.kind,
            "params": delivery.claim.params,
            "total": job.total,
            "has_items": job.has_items,
            "credential": delivery.credential,
            "lease_seconds": opened.jobs.store.lease_seconds,
            "time_limit": job.time_limit,
            "deliveries": job.deliveries,
            "line": None if line is None else orjson.Fragment(line),
        }
    )


@router.post("/runs/{run}/renew", name="worker_renew", response_model=Renewed)
@requires(Scope.WORKER)
async def renew(run: str, body: RenewBody, request: Request, queue: TheQueue) -> Response:
    """Keeps the job with its worker for another `lease_seconds`."""
    note(request.scope, **{UNLOGGED: True})
    cancel, credential = await (await queue.open()).deliveries.renew(run, body.done, body.failed, body.total)
    return reply({"cancel": cancel, "credential": credential})


@router.post("/runs/{run}/items", name="worker_items", response_class=Response)
@requires(Scope.WORKER)
@max_body(_ITEMS_BODY)
async def take_items(run: str, body: ItemsBody, queue: TheQueue) -> Response:
    """The next items: `{"items": [{"index", "body"}], "more"}`. None with `more` means: others have the rest."""
    lease = await (await queue.open()).deliveries.items(run, body.count, body.in_hand)
    items = b",".join(b'{"index":%d,"body":%s}' % (item.index, item.body) for item in lease.items)
    content = b'{"items":[%s],"more":%s}' % (items, b"true" if lease.more else b"false")
    return Response(content, media_type="application/json")


@router.post("/runs/{run}/results", name="worker_record", response_model=Recorded)
@requires(Scope.WORKER)
@max_body(None)
async def record(run: str, request: Request, queue: TheQueue) -> Response:
    """Takes results, one JSON object a line: `{"index", "ok", "line", "usage"}`. The first result of an item counts."""
    cancel = await (await queue.open()).deliveries.record(run, await read_body(request.receive))
    return reply({"cancel": cancel})


@router.get("/runs/{run}/results", name="worker_results", response_class=Response)
@requires(Scope.WORKER)
async def results(run: str, queue: TheQueue) -> Response:
    """All results of the job so far, in the order of its items, as they were handed in."""
    return StreamingResponse(await (await queue.open()).deliveries.results(run), media_type=NDJSON)


@router.get("/runs/{run}/sources/{number}", name="worker_source", response_class=Response)
@requires(Scope.WORKER)
async def source(run: str, number: int, queue: TheQueue) -> Response:
    """The bytes of a file of this machine that the job's item of this number names."""
    item = await (await queue.open()).deliveries.item(run, number)
    file = await asyncio.to_thread(open_source, item, queue.settings.ingest)
    return StreamingResponse(_bytes_of(file), media_type=BYTES)


@router.post("/finish", name="worker_finish", status_code=204, response_class=Response)
@requires(Scope.WORKER)
@max_body(None)
async def finish(body: FinishBody, queue: TheQueue) -> Response:
    """Ends a run."""
    return await finish_run(body, queue)


async def finish_run(body: FinishBody, queue: Queue) -> Response:
    """See :func:`finish`."""
    error = body.error
    ending = JobEnd(
        body.state,
        body.result,
        None if error is None else error.message,
        None if error is None else error.code,
        body.retry,
    )
    lines = [ResultLine(one.index, one.ok, orjson.dumps(one.line), one.usage) for one in body.results]
    await (await queue.open()).deliveries.finish(body.run, ending, lines)
    return Response(status_code=204)


async def _bytes_of(file: BinaryIO) -> AsyncIterator[bytes]:
    with file:
        while piece := await asyncio.to_thread(file.read, _PIECE):
            yield piece
