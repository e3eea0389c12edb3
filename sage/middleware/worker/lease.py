"""A worker's lease on a job: renewed each second, and with it the credential of who asked for the job."""

from __future__ import annotations

import asyncio
import contextlib
import mmap
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from typing import Any

from sage.middleware.worker.job_client import Answer, JobClient

RENEW_SECONDS = 1.0
_STOP_GRACE = 3.0
"""Seconds that a run may still go on with what it is at, when its worker stops."""
_JSON = "application/json"


class JobFailed(Exception):
    """The job fails with this error; with ``retry`` it is put back, as one whose worker died."""

    def __init__(self, message: str, *, code: str = "job_failed", retry: bool = False) -> None:
        super().__init__(message)
        self.message = message
        self.code = code
        self.retry = retry


class RunEnded(Exception):
    """The job is not this worker's any more: its lease has ended, or another has it."""


@dataclass(slots=True)
class ClaimedJob:
    """What the gateway answers to a claim."""

    run: str
    id: str
    kind: str
    params: dict[str, Any]
    total: int | None
    credential: str
    """Empty where none is needed but the worker's."""
    lease_seconds: float
    time_limit: float | None
    deliveries: int
    line: dict[str, Any] | None = None
    """The item of a job that has one; ``None`` means that items are to be asked for."""

    @classmethod
    def read(cls, fields: dict[str, Any]) -> ClaimedJob:
        """Raises :class:`KeyError` for an answer that is none of a gateway of this version."""
        return cls(
            run=fields["run"],
            id=fields["id"],
            kind=fields["kind"],
            params=fields["params"],
            total=fields.get("total"),
            credential=fields.get("credential") or "",
            lease_seconds=float(fields.get("lease_seconds") or 6.0),
            time_limit=fields.get("time_limit"),
            deliveries=int(fields.get("deliveries") or 1),
            line=fields.get("line"),
        )


class StopFlag:
    """A flag that a process and its forks share: the worker stops."""

    def __init__(self) -> None:
        self._memory = mmap.mmap(-1, 1)

    def set(self) -> None:
        """Cannot be undone."""
        self._memory[0] = 1

    def __bool__(self) -> bool:
        return self._memory[0] == 1


class Lease:
    """Belongs to one event loop."""

    def __init__(self, grant: ClaimedJob, client: JobClient, stop: StopFlag) -> None:
        """``client`` has the worker's credential."""
        self.grant = grant
        self.credential = grant.credential
        self.is_cancelled = False
        self._client = client
        self._path = f"/worker/runs/{grant.run}"
        self._stop = stop
        self._ends_at = asyncio.get_running_loop().time() + grant.lease_seconds

    @property
    def is_stopping(self) -> bool:
        """Whether the worker takes no new work."""
        return bool(self._stop)

    @property
    def is_over(self) -> bool:
        """Whether nobody has renewed it in time; then another worker may have the job."""
        return asyncio.get_running_loop().time() > self._ends_at

    async def ask(self, path: str, body: bytes, content_type: str = _JSON) -> Answer:
        """Asks the gateway about this run, again and again while it cannot answer (it restarts, its disk is full).

        Raises :class:`RunEnded`, and :class:`JobFailed` for what it refuses.
        """
        pause = 0.1
        while True:
            answer = None
            with contextlib.suppress(ConnectionError, TimeoutError):
                answer = await self._client.request(
                    "POST", self._path + path, body=body, headers={"Content-Type": content_type}, timeout=30.0
                )
            if answer is not None and answer.status < 500:
                return self._checked(answer)
            if self.is_over:
                raise RunEnded
            await asyncio.sleep(pause)
            pause = min(2 * pause, 2.0)

    async def download(self, path: str) -> AsyncIterator[bytes]:
        """A body of this run as it comes. Raises as :meth:`ask`, and :class:`ConnectionError`."""
        async with self._client.stream("GET", self._path + path) as stream:
            if not stream.ok:
                self._checked(await stream.read())
                raise ConnectionError(f"the gateway answered with {stream.status}")
            async for part in stream.chunks():
                yield part

    async def renew(self, progress: Callable[[], dict[str, int]]) -> None:
        """Renews until the run must stop, and returns then: cancelled, ended, or the worker stops."""
        stopping_since: float | None = None
        loop = asyncio.get_running_loop()
        while not self.is_over:
            with contextlib.suppress(ConnectionError, TimeoutError):
                answer = await self._client.request(
                    "POST", self._path + "/renew", json=progress(), timeout=self.grant.lease_seconds / 2
                )
                if answer.ok:
                    self._renewed(answer.json())
                elif answer.status < 500:
                    self._ends_at = 0.0
                    return
            if self.is_cancelled:
                return
            if self.is_stopping:
                stopping_since = stopping_since or loop.time()
                if loop.time() - stopping_since > _STOP_GRACE:
                    return
            await asyncio.sleep(RENEW_SECONDS)

    def _renewed(self, fields: dict[str, Any]) -> None:
        self._ends_at = asyncio.get_running_loop().time() + self.grant.lease_seconds
        self.credential = fields.get("credential") or self.credential
        self.is_cancelled = bool(fields.get("cancel"))

    def _checked(self, answer: Answer) -> Answer:
        if answer.ok:
            return answer
        if answer.status == 409:
            self._ends_at = 0.0
            raise RunEnded
        error = answer.error
        raise JobFailed(str(error.get("message")), code=str(error.get("code") or "job_failed"))
