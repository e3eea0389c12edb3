"""``/worker/schedules``: workers say that the moment of a schedule has come."""

from __future__ import annotations

from typing import Annotated

from fastapi import Depends, Path
from fastapi.responses import Response
from pydantic import BaseModel

from sage.middleware.auth.principal import Scope
from sage.middleware.gateway.jobs.schedules import Schedules
from sage.middleware.routers.http.deps import TheQueue, TheSubmission
from sage.middleware.routers.http.guard import guarded_router, requires
from sage.middleware.routers.items import reply

router = guarded_router("Workers", prefix="/worker")


def _schedules(queue: TheQueue, submission: TheSubmission) -> Schedules:
    return Schedules(queue, submission)


TheSchedules = Annotated[Schedules, Depends(_schedules)]


class Fired(BaseModel):
    """The job of a moment; null when it was done already, or cannot be done."""

    job: str | None


@router.post("/schedules/{name}/{due}", name="worker_schedule", response_model=Fired)
@requires(Scope.WORKER)
async def fire(
    name: Annotated[str, Path(max_length=64)],
    due: Annotated[int, Path(ge=0, le=2**40)],
    schedules: TheSchedules,
) -> Response:
    """The moment `due` (Unix seconds) of a schedule has come. It makes one job, however often it is told."""
    job = await schedules.fire(name, due)
    return reply({"job": None if job is None else job.id})
