"""``/tasks``: jobs that are accepted at once and done by workers."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Annotated, Any, Literal

import orjson
from fastapi import Query, Request
from fastapi.responses import Response, StreamingResponse
from pydantic import BaseModel, Field

from sage.errors import InvalidRequest, SageError
from sage.middleware.auth.principal import Principal, Scope
from sage.middleware.gateway.jobs.collection_jobs import IngestJobRequest, ReembedJobRequest, SnapshotJobRequest
from sage.middleware.gateway.jobs.embed_request import EmbedJobRequest
from sage.middleware.gateway.jobs.evaluate_request import EvaluateJobRequest
from sage.middleware.gateway.jobs.events import View
from sage.middleware.gateway.jobs.generate_request import GenerateJobRequest
from sage.middleware.gateway.jobs.opening import Queue
from sage.middleware.gateway.jobs.options import query_fields
from sage.middleware.gateway.jobs.requests import LINES
from sage.middleware.gateway.jobs.submission import JobRequest, Submission
from sage.middleware.queue.records import StoredJob
from sage.middleware.queue.states import STATES
from sage.middleware.routers.http.asgi import note, read_json
from sage.middleware.routers.http.deps import Caller, TheQueue, TheSubmission
from sage.middleware.routers.http.guard import guarded_router, max_body, requires
from sage.middleware.routers.http.openapi_bodies import EVENTS, NDJSON, json_body, media_type
from sage.middleware.routers.items import reply

router = guarded_router("Jobs", prefix="/tasks")

_KEY_HEADER = "Idempotency-Key"


class JobProgress(BaseModel):
    """How far a job is. `total` is null while nobody knows it. `failed` of its items have failed; the job goes on."""

    total: int | None
    done: int
    failed: int
    rate: float | None = Field(description="Items a second, lately.")
    seconds_left: float | None


class JobError(BaseModel):
    """Why a job has failed."""

    message: str
    code: str | None


class JobView(BaseModel):
    """A job. Times are Unix seconds. `state` is queued, running, cancelling, or one of the ends: succeeded (also when
    some of its items have failed), failed, dead (given up after three deliveries without progress), cancelled."""

    id: str
    kind: str
    state: Literal["queued", "running", "cancelling", "succeeded", "failed", "dead", "cancelled"]
    user: str
    priority: Literal["high", "normal", "low"]
    queue: str
    metadata: dict[str, str]
    created_at: float
    started_at: float | None
    finished_at: float | None
    expires_at: float | None = Field(description="When the job and its results are forgotten.")
    deliveries: int = Field(description="How often a worker has got it.")
    retries: int
    progress: JobProgress
    result: dict[str, Any] | None
    output_file_id: str | None
    error_file_id: str | None
    error: JobError | None
    status_url: str


class JobPage(BaseModel):
    """Jobs of the tenant, the newest first. `next` goes into `after` for the next page; null at the last."""

    tasks: list[JobView]
    next: str | None


_CANCELLED: dict[int | str, dict[str, Any]] = {
    202: {"model": JobView, "description": "It is cancelled, not forgotten."}
}


async def submit_job(
    kind: str, request: Request, principal: Principal, queue: Queue, submission: Submission
) -> Response:
    """Accepts a job: 202, or 200 for one that was submitted before under the same ``Idempotency-Key``."""
    key = request.headers.get(_KEY_HEADER)
    if kind in LINES and media_type(request) == NDJSON:
        wanted = JobRequest(kind, query_fields(request.query_params), request.stream(), key)
    else:
        wanted = JobRequest(kind, await read_json(request.receive, request.scope), None, key)
    job, is_new = await submission.submit(principal, wanted)
    note(request.scope, job=job.id)
    return await _answer(queue, job, 202 if is_new else 200)


def _kind(name: str, model: type[BaseModel], example: dict[str, Any], description: str) -> None:
    """Adds the route of a kind of job."""

    @router.post(
        f"/{name}",
        name=f"tasks_{name}",
        status_code=202,
        response_model=JobView,
        openapi_extra=json_body(model, example, others=(NDJSON,) if name in LINES else ()),
        summary=f"A job: {name}",
        description=description,
    )
    @requires(Scope.TASKS)
    @max_body(None)
    async def submit(request: Request, principal: Caller, queue: TheQueue, submission: TheSubmission) -> Response:
        return await submit_job(name, request, principal, queue, submission)


_kind(
    "generate",
    GenerateJobRequest,
    {"model": "gemma-3-270m", "requests": [{"prompt": "The capital of France?"}, {"prompt": "Of Italy?"}]},
    "Answers to one question or to thousands: `requests` in a JSON object, one request a line as "
    "`application/x-ndjson` (with what they have in common in the query string), or the lines of an uploaded file.",
)
_kind(
    "embed",
    EmbedJobRequest,
    {"model": "local", "input": ["This is document 1", "This is document 2"]},
    "The vectors of many texts.",
)
_kind(
    "evaluate",
    EvaluateJobRequest,
    {"models": ["gemma-3-270m"], "questions": [{"question": "The capital of France?", "expected": "Paris"}]},
    "Asks questions of models and collections, and scores the answers and what was found.",
)
_kind(
    "ingest",
    IngestJobRequest,
    {"collection": "notes", "file_ids": ["file-…"]},
    "Reads uploaded files, files of the gateway's machine or web pages into a collection.",
)
_kind(
    "reembed",
    ReembedJobRequest,
    {"collection": "notes", "embedder": "local-multilingual"},
    "Makes the vectors of a collection anew, with another embedder.",
)
_kind(
    "snapshot",
    SnapshotJobRequest,
    {"collection": "notes"},
    "Writes a collection into a stored file.",
)


@router.get("", name="tasks_list", response_model=JobPage)
@requires(Scope.TASKS)
async def list_jobs(
    principal: Caller,
    queue: TheQueue,
    kind: Annotated[str | None, Query(max_length=32)] = None,
    state: Annotated[str | None, Query(json_schema_extra={"enum": [*STATES]})] = None,
    user: Annotated[str | None, Query(max_length=64)] = None,
    limit: Annotated[int, Query(ge=1, le=1000)] = 100,
    after: Annotated[str | None, Query(max_length=64)] = None,
) -> Response:
    """The jobs of the tenant, the newest first."""
    if state is not None and state not in STATES:
        raise InvalidRequest(f"there is no state '{state[:32]}'; there are {', '.join(STATES)}", param="state")
    jobs = (await queue.open()).jobs
    page, following = await jobs.store.list(
        principal.tenant, kind=kind, state=state, user=user, limit=limit, after=after
    )
    return reply({"tasks": [jobs.view(job) for job in page], "next": following})


@router.get("/{id}", name="tasks_show", response_model=JobView)
@requires(Scope.TASKS)
async def show_job(id: str, principal: Caller, queue: TheQueue) -> Response:
    """One job."""
    return await _answer(queue, await (await queue.open()).jobs.store.get(principal.tenant, id))


@router.get("/{id}/results", name="tasks_results", response_class=Response)
@requires(Scope.TASKS)
async def job_results(id: str, principal: Caller, queue: TheQueue) -> Response:
    """The results of a job so far, one JSON object a line, in the order of its input. Lines of items that have failed
    have an `error`."""
    store = (await queue.open()).jobs.store
    return StreamingResponse(await store.results(await store.get(principal.tenant, id)), media_type=NDJSON)


@router.get("/{id}/events", name="tasks_events", response_class=Response)
@requires(Scope.TASKS)
async def job_events(id: str, principal: Caller, queue: TheQueue) -> Response:
    """A stream of server-sent events: `progress` with the job whenever it has changed, `end` when it has ended."""
    jobs = (await queue.open()).jobs
    await jobs.store.get(principal.tenant, id)
    headers = {"cache-control": "no-store", "x-accel-buffering": "no"}
    return StreamingResponse(_events(jobs.follow(principal.tenant, id)), media_type=EVENTS, headers=headers)


@router.post("/{id}/cancel", name="tasks_cancel", response_model=JobView)
@requires(Scope.TASKS)
async def cancel_job(id: str, principal: Caller, queue: TheQueue) -> Response:
    """Cancels a job. One that runs is `cancelling` until its worker has stopped; what is done by then is kept."""
    return await _answer(queue, await (await queue.open()).jobs.store.cancel(principal.tenant, id))


@router.post("/{id}/retry", name="tasks_retry", status_code=202, response_model=JobView)
@requires(Scope.TASKS)
async def retry_job(id: str, principal: Caller, queue: TheQueue) -> Response:
    """Queues a job again that has failed or was cancelled; of a job of many, the items that are not done."""
    jobs = (await queue.open()).jobs
    job = await jobs.store.get(principal.tenant, id)
    jobs.may_submit(principal, job.kind)
    return await _answer(queue, await jobs.store.retry(principal.tenant, id), 202)


@router.delete("/{id}", name="tasks_delete", status_code=204, response_class=Response, responses=_CANCELLED)
@requires(Scope.TASKS)
async def delete_job(id: str, principal: Caller, queue: TheQueue) -> Response:
    """Forgets a job that has ended, with its results and files. One that has not is cancelled instead, and stays."""
    store = (await queue.open()).jobs.store
    job = await store.get(principal.tenant, id)
    if job.finished_at is None:
        return await _answer(queue, await store.cancel(principal.tenant, id), 202)
    await store.forget(principal.tenant, id)
    return Response(status_code=204)


async def _answer(queue: Queue, job: StoredJob, status: int = 200) -> Response:
    view = (await queue.open()).jobs.view(job)
    response = reply(view)
    response.status_code = status
    if status == 202:
        response.headers["location"] = view["status_url"]
    return response


async def _events(views: AsyncIterator[View | None]) -> AsyncIterator[bytes]:
    try:
        async for view in views:
            if view is None:
                yield b": the job goes on\n\n"
                continue
            name = b"progress" if view["finished_at"] is None else b"end"
            yield b"event: %s\ndata: %s\n\n" % (name, orjson.dumps(view))
    except SageError as error:  # it was forgotten meanwhile
        yield b"event: error\ndata: %s\n\n" % orjson.dumps(error.envelope())
