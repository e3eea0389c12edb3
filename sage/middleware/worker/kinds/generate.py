"""The kind ``generate``: each line is a request of ``/generate``."""

from __future__ import annotations

from typing import Any

import orjson

from sage.middleware.worker.kinds.tally import Tally, named_line
from sage.middleware.worker.retries import PatientAnswer, PatientCalls
from sage.middleware.worker.run import ItemResult, JobItem, Outcome, Run

_SMALL = 16 * 1024
"""Bytes of an answer that the view of its job shows."""
_NO_ERROR = {"message": "the request failed: see the results of the job", "code": "request_failed"}


async def run(run: Run) -> Outcome:
    """Answers all lines. Where the job is one request of its own, its answer and its failure are the job's."""
    tally, calls, lines = Tally(run), PatientCalls(run.client), list[dict[str, Any]]()

    async def answer(item: JobItem) -> ItemResult:
        request = {name: value for name, value in item.body.items() if name != "custom_id"}
        result = _result(item, await calls.post("/generate", request))
        if run.params.get("single"):
            lines.append(result.line)
        return tally.add(result)

    await run.each(answer)
    total = await tally.total()
    return _single(total, lines) if run.params.get("single") else Outcome(total)


def _single(total: dict[str, Any], lines: list[dict[str, Any]]) -> Outcome:
    """The outcome of a job of one request; ``lines`` are empty where another run has answered it."""
    line = lines[0] if lines else {}
    if total.get("failed"):
        return Outcome(total, "failed", line.get("error", _NO_ERROR))
    if "response" in line and len(orjson.dumps(line["response"])) <= _SMALL:
        total["response"] = line["response"]
    return Outcome(total)


def _result(item: JobItem, answer: PatientAnswer) -> ItemResult:
    response = answer.made
    if response is None:
        line = named_line(item.index, item.body, status=answer.status, error=answer.error)
        return ItemResult(item.index, False, line)
    line = named_line(item.index, item.body, status=answer.status, response=response)
    return ItemResult(item.index, True, line, response.get("usage"))
