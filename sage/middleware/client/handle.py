"""A job that was submitted, as a program holds it: :class:`JobHandle`."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncIterator, Generator, Iterator
from typing import Any, Protocol

from sage.errors import CallFailed, DeadlineExceeded, SageError

View = dict[str, Any]
ENDED = ("succeeded", "failed", "cancelled", "dead")
"""The states that a job ends in."""
_SHORTEST, _LONGEST = 0.02, 0.5
"""Seconds between two looks at a job that somebody waits for."""


class JobUnsuccessful(SageError):
    """The job has ended without success: ``code`` says why, ``job`` is its view."""

    default_code = "job_failed"

    def __init__(self, job: View) -> None:
        """``job`` is its view."""
        error = job.get("error") or {}
        reason = error.get("message") or f"it is {job['state']}"
        super().__init__(f"the job {job['id']} has not succeeded: {reason}", code=error.get("code") or job["state"])
        self.job = job


class JobCalls(Protocol):
    """What a handle asks of a gateway, for the job with this id."""

    def get(self, job: str) -> View: ...

    def cancel(self, job: str) -> View: ...

    def retry(self, job: str) -> View: ...

    def forget(self, job: str) -> None: ...

    def download(self, job: str) -> Iterator[bytes]: ...


class JobHandle:
    """A durable job. It goes on whether this object lives or not: ``JobsClient().job(id)`` finds it again.

    Methods that block have a twin to be awaited, whose name begins with ``a``; ``await job`` is its result. Waiting
    may be cancelled at any time, which does not cancel the job.
    """

    def __init__(self, calls: JobCalls, view: View) -> None:
        self._calls = calls
        self._view = view

    def __repr__(self) -> str:
        return f"<JobHandle {self.id}: {self._view.get('kind', 'job')}, {self._view.get('state', 'not asked yet')}>"

    @property
    def id(self) -> str:
        """Names the job at the gateway, and never changes."""
        return str(self._view["id"])

    @property
    def kind(self) -> str:
        """What is done: ``generate``, ``embed``, ``ingest``, …"""
        return str(self._known()["kind"])

    @property
    def state(self) -> str:
        """Now: ``queued``, ``running``, ``cancelling``, ``cancelled``, ``succeeded``, ``failed`` or ``dead``."""
        return str(self._latest()["state"])

    @property
    def progress(self) -> dict[str, Any]:
        """``{total, done, failed, rate, seconds_left}``, as it is now; ``rate`` is a second."""
        progress: dict[str, Any] = self._latest()["progress"]
        return progress

    @property
    def has_ended(self) -> bool:
        """Whether it has come to its end, however it did."""
        return self._latest()["state"] in ENDED

    def refresh(self) -> View:
        """Reads the job's view, as ``GET /tasks/{id}`` gives it."""
        self._view = self._calls.get(self.id)
        return self._view

    async def arefresh(self) -> View:
        """As :meth:`refresh`, to be awaited on any event loop."""
        return await asyncio.to_thread(self.refresh)

    def wait(self, timeout: float | None = None) -> View:
        """Returns the view of the job once it has ended, however it did. Raises :class:`DeadlineExceeded` when it runs
        longer than ``timeout`` seconds; it goes on then."""
        for pause in self._pauses(timeout):
            if self.has_ended:
                break
            time.sleep(pause)
        return self._view

    async def await_end(self, timeout: float | None = None) -> View:
        """As :meth:`wait`, to be awaited on any event loop."""
        for pause in self._pauses(timeout):
            if self._view.get("state") in ENDED or (await self.arefresh())["state"] in ENDED:
                break
            await asyncio.sleep(pause)
        return self._view

    def result(self, timeout: float | None = None) -> Any:
        """Waits, and returns the ``result`` of the job: of one request its answer (unless that is long: :meth:`results`
        has it then), of many a summary. Raises :class:`JobUnsuccessful` when it has not succeeded."""
        return _result(self.wait(timeout))

    async def aresult(self, timeout: float | None = None) -> Any:
        """As :meth:`result`, to be awaited on any event loop."""
        return _result(await self.await_end(timeout))

    def __await__(self) -> Generator[Any, None, Any]:
        return self.aresult().__await__()

    def results(self, timeout: float | None = None) -> Iterator[dict[str, Any]]:
        """Waits, and gives the result of each line of the input, in its order: also those that failed, whose
        ``status`` is not 200, and those of a job that was cancelled or failed later."""
        self.wait(timeout)
        rest = b""
        for part in self._calls.download(self.id):
            *lines, rest = (rest + part).split(b"\n")
            yield from (json.loads(line) for line in lines if line)
        if rest:
            yield json.loads(rest)

    async def aresults(self, timeout: float | None = None) -> AsyncIterator[dict[str, Any]]:
        """As :meth:`results`, for ``async for`` on any event loop."""
        await self.await_end(timeout)
        lines = self.results(timeout)
        while (line := await asyncio.to_thread(next, lines, None)) is not None:
            yield line

    def cancel(self) -> None:
        """Asks for its end: what runs is stopped, what is done is kept. Nothing happens when it has ended."""
        try:
            self._view = self._calls.cancel(self.id)
        except CallFailed as exc:
            if exc.answer_status != 409 or self.refresh()["state"] not in ENDED:
                raise

    async def acancel(self) -> None:
        """As :meth:`cancel`, to be awaited on any event loop."""
        await asyncio.to_thread(self.cancel)

    def retry(self) -> None:
        """Queues it again after it has failed or was cancelled: of many lines, those that failed or were not done."""
        self._view = self._calls.retry(self.id)

    async def aretry(self) -> None:
        """As :meth:`retry`, to be awaited on any event loop."""
        await asyncio.to_thread(self.retry)

    def forget(self) -> None:
        """Removes a job that has ended, with its files; one that has not is cancelled."""
        self._calls.forget(self.id)

    async def aforget(self) -> None:
        """As :meth:`forget`, to be awaited on any event loop."""
        await asyncio.to_thread(self.forget)

    def _known(self) -> View:
        return self._view if "kind" in self._view else self.refresh()

    def _latest(self) -> View:
        """The view: read anew, unless the job has ended."""
        return self._view if self._view.get("state") in ENDED else self.refresh()

    def _pauses(self, timeout: float | None) -> Iterator[float]:
        end, pause = None if timeout is None else time.monotonic() + timeout, _SHORTEST
        while True:
            left = pause if end is None else end - time.monotonic()
            yield min(pause, max(left, 0.0))
            if left <= 0:
                raise DeadlineExceeded(
                    f"the job {self.id} has not ended within {timeout:g} s; it is {self._view['state']}, and goes on",
                    code="wait_timeout",
                )
            pause = min(1.5 * pause, _LONGEST)


def _result(view: View) -> Any:
    if view["state"] != "succeeded":
        raise JobUnsuccessful(view)
    result = view["result"]
    return result["response"] if isinstance(result, dict) and "response" in result else result
