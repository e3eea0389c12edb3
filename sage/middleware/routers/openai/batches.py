"""OpenAI's ``/v1/batches``: many requests in a file, answered by our own workers behind live traffic."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from fastapi import Depends, Header, Query
from pydantic import BaseModel, ConfigDict, Field
from starlette.responses import Response

from sage.middleware.auth.principal import Scope
from sage.middleware.gateway.jobs.batches.batches import ENDPOINTS, Batches, RequestedBatch
from sage.middleware.gateway.jobs.batches.views import batch_object
from sage.middleware.gateway.jobs.options import Note, NoteName
from sage.middleware.routers.http.deps import Caller, TheQueue
from sage.middleware.routers.http.guard import guarded_router, requires
from sage.middleware.routers.items import reply
from sage.middleware.routers.openai.uploads import MAX_EXPIRY, MIN_EXPIRY

router = guarded_router("OpenAI")

_MOST_LISTED = 100


class OutputExpiry(BaseModel):
    """When the output and the error file of a batch expire."""

    model_config = ConfigDict(extra="forbid", strict=True)

    anchor: Literal["created_at"]
    seconds: int = Field(ge=MIN_EXPIRY, le=MAX_EXPIRY)


class NewBatch(BaseModel):
    """A batch to be made."""

    model_config = ConfigDict(extra="forbid", strict=True)

    input_file_id: str = Field(min_length=1, max_length=64, description="A file uploaded for the purpose `batch`.")
    endpoint: str = Field(max_length=64, json_schema_extra={"enum": list(ENDPOINTS)})
    completion_window: str = Field(
        max_length=32,
        examples=["24h"],
        description="The time after which what is not done expires: `24h`, or another such as `30m`, up to `30d`.",
    )
    metadata: dict[NoteName, Note] | None = Field(None, max_length=16)
    output_expires_after: OutputExpiry | None = None


class BatchError(BaseModel):
    """What is wrong with the input of a batch. `line` is the number of the line, from 1."""

    code: str | None
    message: str | None
    param: str | None
    line: int | None


class BatchErrors(BaseModel):
    """The first hundred errors."""

    object: Literal["list"] = "list"
    data: list[BatchError]


class BatchCounts(BaseModel):
    """How many requests there are, have an answer, and have failed."""

    total: int
    completed: int
    failed: int


class Batch(BaseModel):
    """A batch. Times are Unix seconds. It is a job, too: `/tasks` shows it as `job_…`."""

    model_config = ConfigDict(extra="allow")

    id: str
    object: Literal["batch"] = "batch"
    endpoint: str
    model: str | None
    errors: BatchErrors | None
    input_file_id: str
    completion_window: str
    status: Literal[
        "validating", "failed", "in_progress", "finalizing", "completed", "expired", "cancelling", "cancelled"
    ]
    output_file_id: str | None
    error_file_id: str | None
    created_at: int
    in_progress_at: int | None
    expires_at: int | None
    finalizing_at: int | None
    completed_at: int | None
    failed_at: int | None
    expired_at: int | None
    cancelling_at: int | None
    cancelled_at: int | None
    request_counts: BatchCounts
    usage: dict[str, Any]
    metadata: dict[str, str] | None


class BatchList(BaseModel):
    """Some batches, the newest first, and whether there are more."""

    object: Literal["list"] = "list"
    data: list[Batch]
    first_id: str | None
    last_id: str | None
    has_more: bool


async def _batches(queue: TheQueue) -> Batches:
    return (await queue.open()).batches


TheBatches = Annotated[Batches, Depends(_batches)]


@router.post("/v1/batches", name="batches_create", response_model=Batch)
@requires(Scope.TASKS)
async def create_batch(
    wanted: NewBatch,
    who: Caller,
    batches: TheBatches,
    idempotency_key: Annotated[str | None, Header(min_length=1, max_length=255)] = None,
) -> Response:
    """Begins a batch: the lines of an uploaded file, each a request to `endpoint`.

    The file is checked first (`validating`); a line that is not valid fails the batch, and `errors` says which. Then
    every line is answered by any model of this gateway, behind live traffic.
    """
    expiry = wanted.output_expires_after
    request = RequestedBatch(
        input_file_id=wanted.input_file_id,
        endpoint=wanted.endpoint,
        completion_window=wanted.completion_window,
        metadata=dict(wanted.metadata or {}),
        output_expires_after=None if expiry is None else expiry.seconds,
        idempotency_key=idempotency_key,
    )
    return reply(batch_object(await batches.create(who, request)))


@router.get("/v1/batches", name="batches_list", response_model=BatchList)
@requires(Scope.TASKS)
async def list_batches(
    who: Caller,
    batches: TheBatches,
    limit: Annotated[int, Query(ge=1, le=_MOST_LISTED)] = 20,
    after: Annotated[str | None, Query(max_length=64)] = None,
) -> Response:
    """The batches of the caller's tenant, the newest first. `after` is the id of the last one of the page before."""
    page, has_more = await batches.page(who, limit, after)
    data = [batch_object(job) for job in page]
    ids = [batch["id"] for batch in data] or [None]
    return reply({"object": "list", "data": data, "first_id": ids[0], "last_id": ids[-1], "has_more": has_more})


@router.get("/v1/batches/{batch_id}", name="batches_get", response_model=Batch)
@requires(Scope.TASKS)
async def get_batch(batch_id: str, who: Caller, batches: TheBatches) -> Response:
    """One batch."""
    return reply(batch_object(await batches.get(who, batch_id)))


@router.post("/v1/batches/{batch_id}/cancel", name="batches_cancel", response_model=Batch)
@requires(Scope.TASKS)
async def cancel_batch(batch_id: str, who: Caller, batches: TheBatches) -> Response:
    """Cancels a batch. Answers that there are by then are in its output file; calls that run are broken off."""
    return reply(batch_object(await batches.cancel(who, batch_id)))
