"""Calls of models from inside a job: tried again while that may help, and no longer."""

from __future__ import annotations

import asyncio
import random
import time
from dataclasses import dataclass
from typing import Any

from sage.middleware.worker.job_client import Answer, JobClient

TRIES = {401: 4, 408: 3, 429: 12, 502: 4, 503: 12, 504: 3}
"""How often a call is made that is answered with such a status: a credential that is being renewed, an upstream that is
busy or failing. Every other status is final."""
_LOST_TRIES = 4
"""How often a call is made whose connection is lost."""
_FIRST_WAIT, _LONGEST_WAIT = 0.5, 30.0  # seconds
_LONGEST_RETRY_AFTER = 300.0
"""Seconds. What may not be tried again before that has failed, as where a budget is spent."""


@dataclass(frozen=True, slots=True)
class PatientAnswer:
    """The last answer to a call, and how many ``seconds`` its last try took."""

    answer: Answer
    seconds: float

    @property
    def status(self) -> int:
        return self.answer.status

    @property
    def made(self) -> dict[str, Any] | None:
        """The object that was asked for; ``None`` means that there is an :attr:`error`."""
        if not self.answer.ok:
            return None
        try:
            value = self.answer.json()
        except ValueError:
            return None
        return value if isinstance(value, dict) else None

    @property
    def error(self) -> dict[str, Any]:
        """``{message, code}`` of an answer that is not what was asked for."""
        if self.answer.ok:
            return {"message": "the gateway answered with something that is no object", "code": "invalid_answer"}
        error = self.answer.error
        return {"message": error.get("message"), "code": error.get("code")}


async def post_patiently(client: JobClient, path: str, body: dict[str, Any], *, most_tries: int = 100) -> PatientAnswer:
    """Posts ``body`` until there is an answer that is final. Raises :class:`OSError` when the gateway does not answer
    at all, time after time: that is no fault of the line, and the job goes back."""
    tries = 0
    while True:
        tries += 1
        started = time.perf_counter()
        retry_after = 0.0
        try:
            answer = await client.post(path, body)
        except OSError:
            if tries >= _LOST_TRIES:
                raise
        else:
            retry_after = answer.retry_after or 0.0
            if tries >= min(most_tries, TRIES.get(answer.status, 0)) or retry_after > _LONGEST_RETRY_AFTER:
                return PatientAnswer(answer, time.perf_counter() - started)
        wait = max(retry_after, min(_LONGEST_WAIT, _FIRST_WAIT * 2 ** (tries - 1)))
        await asyncio.sleep(wait * random.uniform(1.0, 1.25))  # noqa: S311 (so that not all come at once)
