"""Which moments of a schedule have made a job: the newest of each, durable."""

from __future__ import annotations

import time

from sqlalchemy import delete, func, select

from sage.middleware.database.database import Database
from sage.middleware.database.statements import insert_into
from sage.middleware.queue.models import schedule_runs

_s = schedule_runs.c


class ScheduleRuns:
    """The table of schedules. Its methods block."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def last(self, name: str, first: int) -> int:
        """The newest moment of the schedule that was done. One that was never seen before begins after ``first``."""
        with self._database.reading() as connection:
            found = connection.scalar(select(func.max(_s.due_at)).where(_s.name == name))
        if found is not None:
            return int(found)
        self.done(name, first, None)
        return first

    def newest(self) -> dict[str, tuple[int, str | None]]:
        """Of each schedule that was ever due: the newest moment that was done, and its job."""
        with self._database.reading() as connection:
            rows = connection.execute(select(_s.name, _s.due_at, _s.job_id).order_by(_s.due_at)).all()
        return {row.name: (int(row.due_at), row.job_id) for row in rows}

    def done(self, name: str, due: int, job_id: str | None) -> None:
        """Notes that a moment has been done, with the job that it made. Forgets those before it."""
        row = {"name": name, "due_at": float(due), "job_id": job_id, "created_at": time.time()}
        with self._database.writing() as connection:
            connection.execute(insert_into(connection, schedule_runs).values(row).on_conflict_do_nothing())
            connection.execute(delete(schedule_runs).where(_s.name == name, _s.due_at < due))
