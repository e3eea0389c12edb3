"""The kind ``response``: a response in the background, which the gateway makes and keeps while this waits for it."""

from __future__ import annotations

from sage.middleware.worker.retries import PatientCalls
from sage.middleware.worker.run import Outcome, Run

_FAILED = b"event: response.failed\n"


async def run(run: Run) -> Outcome:
    """Asks until there is an answer that is final. What it says is kept by the gateway."""
    body = {**run.params["body"], "stream": True}
    asked = await PatientCalls(run.client).post("/v1/responses", body)
    result = {"response_id": body["id"]}
    if not asked.answer.ok:
        return Outcome(result, "failed", asked.error)
    if _FAILED in asked.answer.body:
        return Outcome(result, "failed", {"message": "the response failed: see it", "code": "response_failed"})
    return Outcome(result)
