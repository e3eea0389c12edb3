"""What workers do with jobs: claim them, renew their leases, take items, hand in results, and end them."""

from __future__ import annotations

from collections.abc import AsyncIterator, Collection, Sequence
from dataclasses import dataclass
from typing import Any

import orjson

from sage.errors import Conflict, InvalidRequest
from sage.middleware.auth.principal import Asker
from sage.middleware.gateway.jobs.jobs import Jobs
from sage.middleware.gateway.jobs.rights import RightsRevoked
from sage.middleware.queue.records import Claim, ItemLease, JobEnd, ResultLine, StoredJob
from sage.middleware.queue.signing import Signer
from sage.middleware.queue.states import CANCELLING, FAILED


@dataclass(frozen=True, slots=True)
class Delivery:
    """A claimed job, with the credential of its asker (``None``: none is needed)."""

    claim: Claim
    credential: str | None


class Deliveries:
    """The jobs as workers see them. A worker is trusted with the work of all tenants."""

    def __init__(self, jobs: Jobs, signer: Signer) -> None:
        self._jobs = jobs
        self._store = jobs.store
        self._signer = signer

    async def claim(self, job_id: str, signature: str, worker: str) -> Delivery:
        """Gives a job to ``worker``. Raises :class:`Conflict` (``not_claimable``) for a message that is not ours, for a
        job that is not queued, and for one whose asker may not have it done any more; that one fails."""
        if not self._signer.verify(job_id, signature):
            raise Conflict("this message was not signed by this gateway", code="not_claimable")
        claim = await self._store.claim(job_id, worker)
        if not self._jobs.rights.serves(claim.job.user, claim.job.tenant):  # an old message
            await self._store.put_back(job_id, claim.run)
            raise Conflict("the job waits for another gateway on this data directory", code="not_claimable")
        return Delivery(claim, await self._credential(claim.run, claim.job, "not_claimable"))

    async def renew(self, run: str, done: int | None, failed: int | None, total: int | None) -> tuple[bool, str | None]:
        """Renews the lease; returns whether the worker is to stop, and the job's next credential."""
        job = await self._store.renew(run, done=done, failed=failed, total=total)
        if job.state == CANCELLING:
            return True, None
        return False, await self._credential(run, job, "run_ended")

    async def items(self, run: str, count: int, in_hand: Collection[int] | None = None) -> ItemLease:
        """The next items of a run (:meth:`JobStore.lease_items`)."""
        return await self._store.lease_items(run, count, in_hand)

    async def record(self, run: str, body: bytes) -> bool:
        """Takes the results in ``body``, JSON lines; returns whether the worker is to stop."""
        lines = [_result_line(line) for line in body.split(b"\n") if line]
        await self._jobs.take(lines)
        job = await self._store.record(run, lines)
        return job.state == CANCELLING

    async def item(self, run: str, index: int) -> dict[str, Any]:
        """One item of a run's job, as it was submitted."""
        body: dict[str, Any] = orjson.loads(await self._store.item(run, index))
        return body

    async def results(self, run: str) -> AsyncIterator[bytes]:
        """All results of a run's job so far, in the order of its items, as JSON lines."""
        return await self._store.run_results(run)

    async def finish(self, run: str, ending: JobEnd, lines: Sequence[ResultLine] = ()) -> StoredJob:
        """Ends a run, with its last results."""
        await self._jobs.take(lines)
        return await self._store.finish(run, ending, lines)

    async def _credential(self, run: str, job: StoredJob, code: str) -> str | None:
        """The credential of a run. When its asker may not have it done any more, the job fails; raises
        :class:`Conflict` with ``code`` then."""
        asker = Asker(job.user, job.tenant, job.key_id)
        try:
            await self._jobs.rights.check(asker, job.kind)
        except RightsRevoked as exc:
            await self._store.finish(run, JobEnd(FAILED, error_message=exc.message, error_code=exc.code))
            raise Conflict(f"the job has ended: {exc.message}", code=code) from None
        return self._jobs.rights.credential(asker, job.id)


def _result_line(line: bytes) -> ResultLine:
    try:
        value: Any = orjson.loads(line)
        return ResultLine(int(value["index"]), bool(value["ok"]), orjson.dumps(value["line"]), value.get("usage"))
    except (orjson.JSONDecodeError, KeyError, TypeError, ValueError):
        raise InvalidRequest('a result is {"index": 0, "ok": true, "line": {…}, "usage": {…} or null}') from None
