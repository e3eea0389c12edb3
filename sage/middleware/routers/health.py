"""``/health``: the process is alive. ``/ready``: whether it can serve. ``/metrics``: numbers for Prometheus."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from typing import Any, Literal

import orjson
from fastapi import Request, Response
from fastapi.responses import JSONResponse, StreamingResponse
from pydantic import BaseModel, Field

from sage.errors import SageError
from sage.middleware.auth.principal import Scope
from sage.middleware.gateway.job_metrics import QueueStatus
from sage.middleware.gateway.live_metrics import live_metrics
from sage.middleware.gateway.readiness import Readiness
from sage.middleware.routers.http.deps import TheGateway, TheQueue
from sage.middleware.routers.http.guard import credential, guarded_router, identify, public, requires
from sage.middleware.routers.http.openapi_bodies import EVENTS

router = guarded_router("Operation")

NO_BUFFERS = {"cache-control": "no-cache", "x-accel-buffering": "no"}


@router.get("/health", name="health")
@public
async def health() -> dict[str, str]:
    """The process is alive."""
    return {"status": "ok"}


class QueueReport(BaseModel):
    """How the queue of jobs stands. `oldest_seconds`: for how long the job waits that waits longest."""

    queued: int
    running: int
    oldest_seconds: float | None
    workers: int
    broker: Literal["up", "down"]


class DiskReport(BaseModel):
    """The disk of the data directory, in bytes."""

    free: int
    total: int


class ReadyReport(BaseModel):
    """Whether anything can serve; the details are for callers with a credential."""

    status: Literal["ready", "not_ready"]
    serves: list[str] | None = None
    cannot_serve: dict[str, str] | None = None
    queue: QueueReport | None = Field(None, description="Jobs; null while nobody has had any.")
    disk: DiskReport | None = None


@router.get(
    "/ready",
    name="ready",
    response_model=ReadyReport,
    responses={503: {"description": "Nothing can serve.", "model": ReadyReport}},
)
@public
async def ready(request: Request) -> JSONResponse:
    """Whether anything can serve; with a credential also what cannot, and why."""
    readiness: Readiness = request.app.state.readiness
    report = await readiness.report()
    body: dict[str, Any] = {"status": "ready" if report.ready else "not_ready"}
    authenticator = request.app.state.authenticator
    if authenticator is None or credential(request.scope) is not None:
        await identify(request.scope, authenticator)
        body |= {"serves": report.serves, "cannot_serve": report.cannot_serve, "queue": _queue_report(report.queue)}
        body["disk"] = {"free": report.disk[0], "total": report.disk[1]} if report.disk[1] else None
    return JSONResponse(body, status_code=200 if report.ready else 503)


def _queue_report(status: QueueStatus | None) -> dict[str, Any] | None:
    if status is None:
        return None
    oldest = status.oldest_seconds
    return {
        "queued": status.depth.queued,
        "running": status.depth.running + status.depth.cancelling,
        "oldest_seconds": None if oldest is None else round(oldest, 3),
        "workers": status.workers,
        "broker": "up" if status.broker_error is None else "down",
    }


@router.get(
    "/metrics",
    name="metrics",
    response_class=Response,
    responses={200: {"content": {"text/plain": {"schema": {"type": "string"}}}}},
)
@requires(Scope.METRICS)
async def metrics(gateway: TheGateway, queue: TheQueue) -> Response:
    """Requests, durations, time to first token, tokens and requests in flight, by model; searches, services, jobs."""
    with contextlib.suppress(SageError):  # of a database that cannot be read: the other numbers are worth having
        jobs = await queue.jobs()
        if jobs is not None:
            gateway.metrics.jobs = list(jobs.metrics.collect(await jobs.status()))
    await gateway.metrics.ask_others()
    # Here, since it brings prometheus_client, a fiftieth of the start.
    from sage.middleware.gateway.exposition import exposition

    return Response(exposition(gateway.metrics), media_type="text/plain; version=0.0.4; charset=utf-8")


@router.get(
    "/metrics/live",
    name="metrics_live",
    response_class=Response,
    responses={200: {"content": {EVENTS: {}}}},
)
@requires(Scope.METRICS)
async def metrics_live(gateway: TheGateway) -> Response:
    """What happens now, as one event a second, for as long as the client listens: `time` (Unix seconds) and `seconds`,
    how long it was; `requests` that ended in it and how many `failed` (a status from 400); those `in_flight`;
    `prompt_tokens` and `completion_tokens`; `p50` and `p95` of `duration` and of `first_token`, in seconds, null if
    none ended; and requests, failed and in flight by model in `models`."""
    return StreamingResponse(
        _seconds(live_metrics(gateway.metrics), gateway.ending), media_type=EVENTS, headers=NO_BUFFERS
    )


async def _seconds(seconds: AsyncIterator[dict[str, Any]], ending: asyncio.Event) -> AsyncIterator[bytes]:
    async for second in seconds:
        if ending.is_set():
            return
        yield b"data: " + orjson.dumps(second) + b"\n\n"
