"""Calls of the gateway that wait while it is too busy, as long as the job may run."""

from __future__ import annotations

import asyncio
import contextlib
import random
from collections.abc import AsyncIterator
from typing import Any

from sage.middleware.worker.job_client import Answer, AnswerStream, JobClient
from sage.middleware.worker.lease import JobFailed

_TEMPORARY = (429, 502, 503, 504, 507)
_PAUSE = 2.0


def must_wait(status: int) -> bool:
    """Whether the same call may succeed later."""
    return status in _TEMPORARY


async def wait(retry_after: float | None) -> None:
    """Waits as long as the gateway asked for, and not together with other jobs."""
    await asyncio.sleep((retry_after or _PAUSE) * random.uniform(0.8, 1.5))  # noqa: S311


@contextlib.asynccontextmanager
async def patient_stream(client: JobClient, method: str, path: str, *, json: Any = None) -> AsyncIterator[AnswerStream]:
    """The answer to a call, once it is one of success. Raises :class:`JobFailed` for a refusal."""
    while True:
        async with client.stream(method, path, json=json) as stream:
            if stream.ok:
                yield stream
                return
            answer = await stream.read()
        if not must_wait(answer.status):
            raise failure(answer)
        await wait(answer.retry_after)


def failure(answer: Answer) -> JobFailed:
    """The gateway's own error as that of the job."""
    error = answer.error
    return JobFailed(str(error.get("message")), code=str(error.get("code") or "job_failed"))
