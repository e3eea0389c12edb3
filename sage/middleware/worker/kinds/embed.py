"""The kind ``embed``: each line is a text; several go to the model in one call."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any

import orjson

from sage.middleware.worker.kinds.tally import Tally, named_line
from sage.middleware.worker.lease import JobFailed, RunEnded
from sage.middleware.worker.retries import PatientCalls
from sage.middleware.worker.run import ItemResult, JobItem, Outcome, Run, first_failure

_MOST_TEXTS = 32
_MOST_BYTES = 256 * 1024
"""Of the texts in one call."""
_MOST_LANES = 16
"""Calls at a time: each holds many lines, and a worker tells the gateway which it holds."""
_SAME_FOR_ALL = frozenset({401, 403, 404, 429})
"""With these, each text by itself would be refused as all of them are."""
_TRIES_OF_PARTS = 2


async def run(run: Run) -> Outcome:
    """Embeds all texts; one that the model refuses fails alone."""
    embedding = _Embedding(run)
    await embedding.all()
    return Outcome(await embedding.tally.total())


class _Embedding:
    """The texts of one run."""

    def __init__(self, run: Run) -> None:
        self.tally = Tally(run)
        self._run = run
        self._calls = PatientCalls(run.client)
        self._turn = asyncio.Lock()
        self._waiting: asyncio.Queue[JobItem | None] = asyncio.Queue(2 * _MOST_TEXTS)

    async def all(self) -> None:
        """Several groups at a time, each of what waits at that moment: no text waits for others to come."""
        lanes = min(self._run.item_concurrency, _MOST_LANES)

        async def feed() -> None:
            async for item in self._run.items():
                await self._waiting.put(item)
            for _ in range(lanes):
                await self._waiting.put(None)

        try:
            async with asyncio.TaskGroup() as group:
                group.create_task(feed())
                for _ in range(lanes):
                    group.create_task(self._lane())
        except* (JobFailed, RunEnded, OSError) as failures:
            raise first_failure(failures) from None
        await self._run.flush()

    async def _lane(self) -> None:
        while group := await self._group():
            for same in _alike(group):
                results = await self._embed(same)
                await self._run.report(*map(self.tally.add, results))

    async def _group(self) -> list[JobItem]:
        """What waits, as far as one call takes it; empty at the end."""
        async with self._turn:
            first = await self._waiting.get()
            if first is None:
                return []
            await asyncio.sleep(0)  # the feeder puts what it has behind it
            group, size = [first], len(first.body["input"])
            while len(group) < _MOST_TEXTS and size < _MOST_BYTES and not self._waiting.empty():
                item = self._waiting.get_nowait()
                if item is None:
                    self._waiting.put_nowait(None)  # it ends another lane, or this one
                    break
                group.append(item)
                size += len(item.body["input"])
            return group

    async def _embed(self, items: Sequence[JobItem], most_tries: int = 100) -> list[ItemResult]:
        body = {**_options(items[0]), "input": [item.body["input"] for item in items]}
        answer = await self._calls.post("/v1/embeddings", body, most_tries=most_tries)
        made = answer.made
        vectors = None if made is None else _vectors(made, len(items))
        if made is not None and vectors is not None:
            return _embedded(items, vectors, made.get("usage"))
        if len(items) > 1 and answer.status not in _SAME_FOR_ALL:
            half = len(items) // 2
            parts = [await self._embed(part, _TRIES_OF_PARTS) for part in (items[:half], items[half:])]
            return [*parts[0], *parts[1]]
        status, error = answer.status, answer.error
        if made is not None:
            status = 502
            error = {"message": "the model did not answer with one vector for each text", "code": "upstream_nonsense"}
        return [
            ItemResult(item.index, False, named_line(item.index, item.body, status=status, error=error))
            for item in items
        ]


def _options(item: JobItem) -> dict[str, Any]:
    """What goes to the model beside the text."""
    return {name: value for name, value in item.body.items() if name not in ("input", "custom_id")}


def _alike(items: Sequence[JobItem]) -> list[list[JobItem]]:
    """``items`` in groups of one model and options each."""
    groups: dict[bytes, list[JobItem]] = {}
    for item in items:
        groups.setdefault(orjson.dumps(_options(item), option=orjson.OPT_SORT_KEYS), []).append(item)
    return list(groups.values())


def _vectors(made: dict[str, Any], count: int) -> list[Any] | None:
    """The vectors in the order of the texts; ``None`` means that the answer is not one for each."""
    data = made.get("data")
    if not isinstance(data, list) or not all(isinstance(entry, dict) for entry in data):
        return None
    by_index = {entry.get("index"): entry.get("embedding") for entry in data}
    vectors = [by_index.get(index) for index in range(count)]
    good = len(data) == count and all(isinstance(vector, list | str) and vector for vector in vectors)
    return vectors if good else None


def _embedded(items: Sequence[JobItem], vectors: Sequence[Any], usage: Any) -> list[ItemResult]:
    """One result a text; what the call has used stands with the first, since the model does not divide it."""
    used = usage if isinstance(usage, dict) else None
    return [
        ItemResult(item.index, True, named_line(item.index, item.body, embedding=vector), used if place == 0 else None)
        for place, (item, vector) in enumerate(zip(items, vectors, strict=True))
    ]
