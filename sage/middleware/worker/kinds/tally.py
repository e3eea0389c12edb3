"""What the lines of a job come to: how many there are and failed, and what they have used of models."""

from __future__ import annotations

from collections import Counter
from typing import Any

from sage.middleware.worker.run import ItemResult, Run


class Tally:
    """Counts the results of this run, and those of others if there were any."""

    def __init__(self, run: Run) -> None:
        self._run = run
        self._lines = 0
        self._failed = 0
        self._usage: Counter[str] = Counter()

    def add(self, result: ItemResult) -> ItemResult:
        """Counts ``result``, and gives it back."""
        self._count(result.ok, result.usage)
        return result

    async def total(self) -> dict[str, Any]:
        """``{lines, failed, usage}`` of the whole job; to be called once all of its lines are done."""
        if self._run.is_cut_short:
            return {}  # nobody reads it: the rest of the job goes back into the queue
        if self._lines != self._run.total:  # another run did some of them, or did one again
            self._lines = self._failed = 0
            self._usage.clear()
            async for one in self._run.results():
                self._count(one["ok"], one.get("usage"))
        return {"lines": self._lines, "failed": self._failed, "usage": dict(self._usage)}

    def _count(self, ok: bool, usage: dict[str, Any] | None) -> None:
        self._lines += 1
        self._failed += not ok
        self._usage.update({name: count for name, count in (usage or {}).items() if type(count) is int})


def named_line(index: int, body: dict[str, Any], **fields: Any) -> dict[str, Any]:
    """A line of the results: its place, the caller's name for it if there is one, and ``fields``."""
    custom_id = body.get("custom_id")
    return {"index": index, **({} if custom_id is None else {"custom_id": custom_id}), **fields}
