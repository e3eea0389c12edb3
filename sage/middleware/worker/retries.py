"""Calls of models from inside a job: tried again while that may help, and no longer."""

from __future__ import annotations

import asyncio
import random
import time
from dataclasses import dataclass
from typing import Any, Protocol

from sage.middleware.worker.job_client import Answer

TRIES = {401: 4, 408: 3, 502: 4, 504: 3}
"""How often a call is made that is answered with such a status: a credential that is being renewed, an upstream that
fails. Every status that is not here or in :data:`PATIENCE` is final."""
PATIENCE = {429: 3600.0, 503: 600.0}
"""Seconds during which a call is made again that is answered with such a status: limits and queues that are full."""
_LOST_TRIES = 4
"""How often a call is made whose connection is lost."""
_WORN_TRIES = 2
"""How often a call is made after another one was given up, until one succeeds."""
_FIRST_WAIT, _LONGEST_WAIT = 0.5, 30.0  # seconds
_LONGEST_RETRY_AFTER = 300.0
"""Seconds. What may not be tried again before that has failed, as where a budget is spent."""


class JsonPoster(Protocol):
    """What calls are made with: a :class:`sage.middleware.worker.job_client.JobClient`."""

    async def post(self, path: str, json: Any = None) -> Answer: ...


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


class PatientCalls:
    """The calls of one run. Once patience with one has ended, the next ones of its model get less of it, until one
    succeeds: a model that is gone for good does not hold up each of thousands of lines."""

    def __init__(self, client: JsonPoster) -> None:
        self._client = client
        self._worn: set[tuple[str, Any]] = set()
        """The paths and models with which patience has ended."""

    async def post(self, path: str, body: dict[str, Any], *, most_tries: int = 10_000) -> PatientAnswer:
        """Posts ``body`` until there is an answer that is final. Raises :class:`OSError` when the gateway does not
        answer at all, time after time: that is no fault of the line, and the job goes back."""
        clock, tries = asyncio.get_running_loop().time, 0
        begun, model = clock(), (path, body.get("model"))
        while True:
            tries += 1
            started, retry_after = time.perf_counter(), 0.0
            try:
                answer = await self._client.post(path, body)
            except OSError:
                if tries >= _LOST_TRIES:
                    raise
            else:
                retry_after = answer.retry_after or 0.0
                most = min(most_tries, _WORN_TRIES) if model in self._worn else most_tries
                waited = clock() - begun
                if retry_after > _LONGEST_RETRY_AFTER or not _is_passing(answer.status, tries, waited, most):
                    is_gone = answer.status in PATIENCE or answer.status in TRIES
                    (self._worn.add if is_gone else self._worn.discard)(model)
                    return PatientAnswer(answer, time.perf_counter() - started)
            wait = max(retry_after, min(_LONGEST_WAIT, _FIRST_WAIT * 2 ** min(tries - 1, 10)))
            await asyncio.sleep(wait * random.uniform(1.0, 1.25))  # noqa: S311 (so that not all come at once)


def _is_passing(status: int, tries: int, waited: float, most_tries: int) -> bool:
    """Whether another try may help after so many ``tries`` and ``waited`` seconds."""
    if tries >= most_tries:
        return False
    return waited < PATIENCE[status] if status in PATIENCE else tries < TRIES.get(status, 0)
