"""Jobs that make all vectors of a collection again. The gateway does it; the job starts it, shows how far it is, and
stops it when it is cancelled. Delivered again, it joins the run, or goes on where that was."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from typing import Any
from urllib.parse import quote

import orjson

from sage.middleware.worker.job_client import AnswerStream
from sage.middleware.worker.kinds.patience import patient_stream
from sage.middleware.worker.lease import JobFailed
from sage.middleware.worker.run import Outcome, Run

_STOP_SECONDS = 4.0
_INTERRUPTED = ("shutting_down",)
"""Codes of a gateway that ends: the run goes on when it is back."""


async def run(run: Run) -> Outcome:
    """The result has the number of documents."""
    path = f"/collections/{quote(run.params['collection'], safe='')}/reembed"
    done = 0
    try:
        async with patient_stream(run.client, "POST", path, json={"embedder": run.params["embedder"]}) as answer:
            async for event in _events(answer):
                done = event["completed"]
                run.progress(done, total=event["total"])
    except asyncio.CancelledError:
        if not run.goes_back:
            with contextlib.suppress(OSError):
                await run.client.delete(path, timeout=_STOP_SECONDS)
        raise
    return Outcome({"documents": done, "embedder": run.params["embedder"]})


async def _events(answer: AnswerStream) -> AsyncIterator[dict[str, Any]]:
    """The steps until the end. Raises :class:`JobFailed` for one that says what failed, and :class:`ConnectionError`
    where the end is missing."""
    rest = b""
    async for piece in answer.chunks():
        *lines, rest = (rest + piece).split(b"\n")
        for line in lines:
            data = line.removeprefix(b"data:").strip()
            if data == b"[DONE]":
                return
            if line.startswith(b"data:"):
                event = orjson.loads(data)
                _check(event.get("error"))
                yield event
    raise ConnectionError("the gateway broke off")


def _check(error: Any) -> None:
    if isinstance(error, dict):
        code = str(error.get("code") or "reembed_failed")
        if code in _INTERRUPTED:
            raise ConnectionError(str(error.get("message")))
        raise JobFailed(str(error.get("message")), code=code)
