"""What a process of the pool does with a message: claim the job, run its kind, say how it has ended."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import signal
from dataclasses import dataclass
from typing import Any

import aiohttp

from sage.errors import SageError
from sage.middleware.worker.control import ControlAnswer, ControlConnection
from sage.middleware.worker.job_client import JobClient, make_session
from sage.middleware.worker.kinds import find_kind
from sage.middleware.worker.lease import RENEW_SECONDS, ClaimedJob, JobFailed, Lease, RunEnded, StopFlag
from sage.middleware.worker.run import Outcome, Run

_log = logging.getLogger("sage.worker")
_CLAIM_SECONDS = 10.0
_FINISH_SECONDS = 60.0
_KILL_AFTER = 15.0
"""Seconds beyond its time limit after which the process of a job that does not stop is killed."""


@dataclass(slots=True)
class _Ending:
    """Why a run was stopped from outside; empty when it was not."""

    reason: str = ""


class Execution:
    """Belongs to one process of the pool, and runs one job at a time."""

    def __init__(self, url: str, credential: str, worker: str, item_concurrency: int, stop: StopFlag) -> None:
        self._url = url
        self._credential = credential
        self._worker = worker
        self._item_concurrency = item_concurrency
        self._stop = stop
        self._control = ControlConnection(url, credential)
        self._loop = asyncio.new_event_loop()
        self._session: aiohttp.ClientSession | None = None
        signal.signal(signal.SIGALRM, signal.SIG_DFL)

    def run(self, job_id: str, signature: str) -> None:
        """Runs a job that may be claimed; does nothing for another. Raises nothing: Celery's own process would end with
        an error such as :class:`MemoryError`."""
        try:
            self._run(job_id, signature)
        except Exception:
            _log.exception("job %s was left", job_id)

    def _run(self, job_id: str, signature: str) -> None:
        if self._stop:
            return
        grant = self._claim(job_id, signature)
        if grant is None:
            return
        if grant.time_limit:
            signal.setitimer(signal.ITIMER_REAL, grant.time_limit + _KILL_AFTER)
        try:
            report = self._loop.run_until_complete(self._work(grant))
        finally:
            signal.setitimer(signal.ITIMER_REAL, 0)
        if report is not None:
            self._finish(grant, report)

    def close(self) -> None:
        """Ends connections."""
        self._control.close()
        if self._session is not None:
            self._loop.run_until_complete(self._session.close())
        self._loop.close()

    def _claim(self, job_id: str, signature: str) -> ClaimedJob | None:
        body = {"id": job_id, "signature": signature, "worker": self._worker}
        answer = self._control.post_patiently("/worker/claim", body, _CLAIM_SECONDS)
        if answer is not None and answer.status == 200:
            with contextlib.suppress(KeyError):
                return ClaimedJob.read(answer.json())
        if answer is None or answer.status != 409:
            _log.error("job %s cannot be claimed: %s", job_id, _described(answer))
        return None

    def _finish(self, grant: ClaimedJob, report: dict[str, Any]) -> None:
        answer = self._control.post_patiently("/worker/finish", {"run": grant.run, **report}, _FINISH_SECONDS)
        if answer is None or answer.status not in (200, 204, 409):
            _log.error("the end of job %s cannot be handed in: %s", grant.id, _described(answer))

    async def _work(self, grant: ClaimedJob) -> dict[str, Any] | None:
        """What is said at the end; ``None`` means nothing, since the job is another's or goes back with the lease."""
        if self._session is None:
            self._session = make_session()
        lease = Lease(grant, JobClient(self._session, self._url, lambda: self._credential), self._stop)
        run = Run(
            lease,
            JobClient(self._session, self._url, lambda: lease.credential or self._credential),
            self._item_concurrency,
        )
        task, ending = asyncio.current_task(), _Ending()
        assert task is not None
        background: list[asyncio.Task[None]] = []

        def stop(reason: str) -> None:
            ending.reason = ending.reason or reason
            task.cancel()

        async def renew() -> None:
            await lease.renew(run.progress_fields)
            stop("cancelled" if lease.is_cancelled else "over")

        timers = [self._loop.call_later(RENEW_SECONDS, lambda: background.append(self._loop.create_task(renew())))]
        if grant.time_limit:
            timers.append(self._loop.call_later(grant.time_limit, stop, "time_limit"))
        try:
            report = await _report(run, ending)
            if report is not None and run.last_results:
                report["results"] = run.last_results
        finally:
            for timer in timers:
                timer.cancel()
            run.close()
            for one in background:
                one.cancel()
        return report


async def _report(run: Run, ending: _Ending) -> dict[str, Any] | None:
    try:
        outcome = await find_kind(run.kind)(run)
        await run.flush()
        return None if run.is_cut_short else _described_outcome(outcome)
    except asyncio.CancelledError:
        if not ending.reason:
            raise
        with contextlib.suppress(RunEnded, JobFailed, OSError):
            async with asyncio.timeout(_KILL_AFTER / 3):
                await run.flush()
        return _stopped(ending.reason)
    except RunEnded:
        return None
    except JobFailed as exc:
        return _failure(exc.message, exc.code, exc.retry)
    except SageError as exc:
        return _failure(exc.message, exc.code, False)
    except ConnectionError as exc:
        return _failure(f"the gateway was lost: {exc}", "gateway_lost", True)
    except Exception as exc:
        _log.exception("job %s failed", run.id)
        return _failure(f"{type(exc).__name__}: {exc}"[:1000], "internal_error", True)


def _stopped(reason: str) -> dict[str, Any] | None:
    if reason == "cancelled":
        return _failure("the job was cancelled", "cancelled", False)
    if reason == "time_limit":
        return _failure("the job ran longer than its time limit", "time_limit", False)
    return None


def _described_outcome(outcome: Outcome) -> dict[str, Any]:
    return {"state": outcome.state, "result": outcome.result, "error": outcome.error, "retry": False}


def _failure(message: str, code: str, retry: bool) -> dict[str, Any]:
    return {"state": "failed", "error": {"message": message, "code": code}, "retry": retry}


def _described(answer: ControlAnswer | None) -> str:
    if answer is None:
        return "the gateway does not answer"
    return f"the gateway answered with {answer.status} {answer.code}"
