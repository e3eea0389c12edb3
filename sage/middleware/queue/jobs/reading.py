"""What is read of the jobs, outside of any write."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Sequence
from typing import Any

from sqlalchemy import Select, bindparam, func, select

from sage.middleware.database.database import Database
from sage.middleware.queue.jobs.rows import BY_ID, VIEW, in_states, job_of, no_such_job
from sage.middleware.queue.models import jobs
from sage.middleware.queue.records import QueueDepth, StoredJob
from sage.middleware.queue.states import CANCELLING, PRIORITIES, QUEUED, RUNNING, UNFINISHED

_IDS_AT_ONCE = 500

_c = jobs.c
_IS_OPEN = (_c.state == QUEUED, _c.held.is_(False), _c.available_at <= bindparam("now"))
_NEXT_QUEUE = select(func.min(_c.queue)).where(_c.state == QUEUED, _c.queue > bindparam("after"))
_HAS_OPEN = select(_c.id).where(*_IS_OPEN, _c.queue == bindparam("of_queue")).limit(1)
_IN_QUEUE = (_c.state == QUEUED, _c.queue == bindparam("of_queue"), _c.priority == bindparam("of_priority"))
_NEXT_TENANT = select(func.min(_c.tenant)).where(*_IN_QUEUE, _c.tenant > bindparam("after"))
_OLDEST = (
    select(_c.id, _c.user)
    .where(*_IN_QUEUE, *_IS_OPEN[1:], _c.tenant == bindparam("of_tenant"))
    .order_by(_c.sequence)
    .limit(bindparam("most"))
)
_COUNTS = select(_c.state, func.count(), func.min(_c.sequence)).where(in_states(UNFINISHED)).group_by(_c.state)
_MADE_AT = select(_c.created_at).where(_c.sequence == bindparam("at"))
_UNFINISHED = select(func.count()).where(_c.tenant == bindparam("of_tenant"), in_states(UNFINISHED))
_LINE = select(_c.line).where(_c.sequence == bindparam("at"))
_EXPIRED = select(*VIEW).where(_c.expires_at <= bindparam("now")).order_by(_c.expires_at).limit(100)
"""Only jobs that have ended have the time at which they expire."""
_HELD = select(*VIEW).where(_c.state == QUEUED, _c.held.is_(True), _c.kind == bindparam("of_kind"))
_WEBHOOKS = select(*VIEW).where(_c.webhook_at <= bindparam("now")).order_by(_c.webhook_at).limit(bindparam("most"))


class JobReader:
    """Reads from ``database``; its methods block."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._last_turns: dict[str, int] = {}
        """When each tenant had its last turn, as a number that grows."""
        self._turn = 0

    def find(self, job_id: str) -> StoredJob | None:
        """The job of whatever tenant; ``None`` means that there is none."""
        found = self._jobs(BY_ID, job_id=job_id)
        return found[0] if found else None

    def get(self, tenant: str, job_id: str) -> StoredJob:
        """Raises :class:`sage.errors.NotFound`, also for a job of another tenant."""
        job = self.find(job_id)
        if job is None or job.tenant != tenant:
            raise no_such_job(job_id)
        return job

    def page(self, wanted: dict[str, Any], limit: int, after: str | None) -> list[StoredJob]:
        """Jobs with the columns that are ``wanted`` and not ``None``, the newest first, after the job ``after``."""
        statement = select(*VIEW).where(*(_c[name] == value for name, value in wanted.items() if value is not None))
        if after is not None:
            statement = statement.where(_c.sequence < self.get(wanted["tenant"], after).sequence)
        return self._jobs(statement.order_by(_c.sequence.desc()).limit(limit))

    def held(self, kind: str) -> list[StoredJob]:
        return self._jobs(_HELD, of_kind=kind)

    def due_webhooks(self, now: float, limit: int) -> list[StoredJob]:
        return self._jobs(_WEBHOOKS, now=now, most=limit)

    def expired(self, now: float) -> list[StoredJob]:
        """Some jobs whose results have expired."""
        return self._jobs(_EXPIRED, now=now)

    def unknown(self, ids: Sequence[str]) -> list[str]:
        """Those of ``ids`` that no job has."""
        known: set[str] = set()
        with self._database.reading() as connection:
            for start in range(0, len(ids), _IDS_AT_ONCE):
                known.update(connection.scalars(select(_c.id).where(_c.id.in_(ids[start : start + _IDS_AT_ONCE]))))
        return [job_id for job_id in ids if job_id not in known]

    def _jobs(self, statement: Select[Any], **bound: Any) -> list[StoredJob]:
        with self._database.reading() as connection:
            return [job_of(row) for row in connection.execute(statement, bound)]

    def ids(self, statement: Select[Any], **bound: Any) -> list[Sequence[Any]]:
        """The rows that ``statement`` finds."""
        with self._database.reading() as connection:
            return [tuple(row) for row in connection.execute(statement, bound)]

    def queues_with_work(self, now: float) -> list[str]:
        """The queues in which a job waits to be claimed."""
        found, last = [], ""
        with self._database.reading() as connection:
            while (queue := connection.scalar(_NEXT_QUEUE, {"after": last})) is not None:
                if connection.scalar(_HAS_OPEN, {"of_queue": queue, "now": now}) is not None:
                    found.append(queue)
                last = queue
        return found

    def next_queued(
        self, queue: str, limit: int, without: Collection[str], now: float, serves: Callable[[str, str], bool]
    ) -> list[str]:
        """The ids of up to ``limit`` jobs to be claimed next: by priority, then the tenants in turn, then by age; only
        those of users and tenants that ``serves`` accepts."""
        found: list[str] = []
        for priority in sorted(PRIORITIES.values()):
            if len(found) < limit:
                found += self._in_turn(queue, priority, limit - len(found), without, now, serves)
        return found

    def _in_turn(
        self,
        queue: str,
        priority: int,
        limit: int,
        without: Collection[str],
        now: float,
        serves: Callable[[str, str], bool],
    ) -> list[str]:
        waiting: dict[str, list[str]] = {}
        bound: dict[str, Any] = {"of_queue": queue, "of_priority": priority, "now": now}
        bound["most"] = limit + len(without)
        last = ""
        with self._database.reading() as connection:
            while (tenant := connection.scalar(_NEXT_TENANT, {**bound, "after": last})) is not None:
                rows = connection.execute(_OLDEST, {**bound, "of_tenant": tenant})
                ids = [job_id for job_id, user in rows if job_id not in without and serves(user, tenant)]
                waiting[tenant] = ids[::-1]
                last = tenant
        found: list[str] = []
        while len(found) < limit and (tenants := [tenant for tenant, ids in waiting.items() if ids]):
            tenant = min(tenants, key=lambda one: self._last_turns.get(one, 0))
            self._turn += 1
            self._last_turns[tenant] = self._turn
            found.append(waiting[tenant].pop())
        return found

    def still_queued(self, ids: Collection[str]) -> set[str]:
        statement = select(_c.id).where(_c.id.in_(ids), _c.state == QUEUED, _c.held.is_(False))
        with self._database.reading() as connection:
            return set(connection.scalars(statement))

    def line(self, job: StoredJob) -> Iterator[bytes]:
        """The result of a job's only item, with its line end."""
        with self._database.reading() as connection:
            line = connection.scalar(_LINE, {"at": job.sequence})
        if line is not None:
            yield line + b"\n"

    def count_unfinished(self, tenant: str) -> int:
        with self._database.reading() as connection:
            return int(connection.execute(_UNFINISHED, {"of_tenant": tenant}).scalar_one())

    def depth(self, ended: dict[str, int]) -> QueueDepth:
        with self._database.reading() as connection:
            rows = {row[0]: row for row in connection.execute(_COUNTS)}
            oldest = connection.scalar(_MADE_AT, {"at": rows[QUEUED][2]}) if QUEUED in rows else None
        counts = [rows[state][1] if state in rows else 0 for state in (QUEUED, RUNNING, CANCELLING)]
        return QueueDepth(counts[0], counts[1], counts[2], oldest, ended)
