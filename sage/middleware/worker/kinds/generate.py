"""The kind ``generate``: each line is a request of ``/generate``."""

from __future__ import annotations

from typing import Any

from sage.middleware.worker.kinds.tally import Tally, named_line
from sage.middleware.worker.retries import PatientAnswer, post_patiently
from sage.middleware.worker.run import ItemResult, JobItem, Outcome, Run


async def run(run: Run) -> Outcome:
    """Answers all lines. Where the job is one request of its own, its failure is the job's."""
    tally = Tally(run)
    errors: list[dict[str, Any]] = []

    async def answer(item: JobItem) -> ItemResult:
        request = {name: value for name, value in item.body.items() if name != "custom_id"}
        result = _result(item, await post_patiently(run.client, "/generate", request))
        if not result.ok:
            errors.append(result.line["error"])
        return tally.add(result)

    await run.each(answer)
    total = await tally.total()
    if run.params.get("single") and total["failed"]:
        return Outcome(total, "failed", errors[0] if errors else None)
    return Outcome(total)


def _result(item: JobItem, answer: PatientAnswer) -> ItemResult:
    response = answer.made
    if response is None:
        line = named_line(item.index, item.body, status=answer.status, error=answer.error)
        return ItemResult(item.index, False, line)
    line = named_line(item.index, item.body, status=answer.status, response=response)
    return ItemResult(item.index, True, line, response.get("usage"))
