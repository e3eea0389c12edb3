"""``/schedules``: jobs that the configuration starts again and again. ``/worker/schedules``: the moment of one has
come, workers say."""

from __future__ import annotations

from typing import Annotated, Any

from fastapi import Depends, Path
from fastapi.responses import Response
from pydantic import BaseModel, Field

from sage.middleware.auth.principal import Scope
from sage.middleware.gateway.jobs.schedules import Schedules
from sage.middleware.routers.http.deps import Caller, TheQueue, TheSubmission
from sage.middleware.routers.http.guard import guarded_router, requires
from sage.middleware.routers.items import reply
from sage.middleware.routers.tasks.tasks import JobView

router = guarded_router("Workers", prefix="/worker")
listing = guarded_router("Jobs", prefix="/schedules")


def _schedules(queue: TheQueue, submission: TheSubmission) -> Schedules:
    return Schedules(queue, submission)


TheSchedules = Annotated[Schedules, Depends(_schedules)]


class ScheduleShown(BaseModel):
    """A schedule of the configuration: `cron` or `every` (seconds). Times are Unix seconds. Secrets in `params` are
    hidden."""

    name: str
    task: str
    cron: str | None
    every: float | None
    timezone: str
    user: str = Field(description="Whose rights its jobs have.")
    tenant: str | None
    params: dict[str, Any]
    last: int | None = Field(description="The newest moment that made a job.")
    last_job: str | None
    next: int | None


class SchedulesShown(BaseModel):
    """Schedules, by name."""

    schedules: list[ScheduleShown]


@listing.get("", name="schedules_list", response_model=SchedulesShown)
@requires(Scope.TASKS)
async def list_schedules(caller: Caller, schedules: TheSchedules) -> Response:
    """The schedules of the configuration (`queue.schedules`): for admins all, for others those in their name."""
    return reply({"schedules": await schedules.listed(caller)})


@listing.post("/{name}/run", name="schedules_run", status_code=202, response_model=JobView)
@requires(Scope.TASKS)
async def run_schedule(
    name: Annotated[str, Path(max_length=64)], caller: Caller, queue: TheQueue, schedules: TheSchedules
) -> Response:
    """Starts the job of a schedule now, in its user's name. Its moments stay as they are."""
    job = await schedules.run_now(caller, name)
    response = reply((await queue.open()).jobs.view(job))
    response.status_code = 202
    return response


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
