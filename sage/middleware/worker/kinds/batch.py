"""The kind ``batch``: each line of OpenAI's batch goes to its endpoint through the gateway, with the asker's rights."""

from __future__ import annotations

from sage.middleware.queue.batch_lines import answered_line, failed_line
from sage.middleware.worker.retries import PatientCalls
from sage.middleware.worker.run import ItemResult, JobItem, Outcome, Run


async def run(run: Run) -> Outcome:
    """Answers all lines. A line that fails is a line of the error file, and no failure of the batch."""
    calls = PatientCalls(run.client)

    async def answer(item: JobItem) -> ItemResult:
        asked = await calls.post(run.params["endpoint"], item.body["body"])
        custom_id, answer = item.body["custom_id"], asked.answer
        try:
            body = answer.json()
        except ValueError:
            message = f"the gateway answered with status {answer.status} and no JSON"
            line = failed_line(run.id, item.index, custom_id, "invalid_answer", message)
            return ItemResult(item.index, False, line)
        request_id = answer.headers.get("x-request-id", "")
        line = answered_line(run.id, item.index, custom_id, answer.status, request_id, body)
        usage = None if asked.made is None else asked.made.get("usage")
        return ItemResult(item.index, answer.ok, line, usage)

    await run.each(answer)
    return Outcome()
