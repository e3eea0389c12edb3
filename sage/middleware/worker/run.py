"""One run of a job, as the code of its kind sees it: parameters, lines of input, results, progress, the gateway."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import orjson

from sage.errors import SageError
from sage.middleware.worker.job_client import JobClient
from sage.middleware.worker.lease import JobFailed, Lease, RunEnded

_GROUP = 32
"""Lines that are leased, or handed in, at a time."""
_MOST_WITH_END = 2**17
"""Bytes of a result that is handed in with the end of its job."""
_FLUSH_SECONDS = 0.5
_ASK_AGAIN_SECONDS = 0.25
_MOST_UNSENT = 256
"""Results that may wait; then whoever reports one waits too, as on a gateway whose disk is full."""
_MOST_BYTES = 2**20
"""Of the results that are handed in at a time, unless one alone has more."""


@dataclass(slots=True)
class JobItem:
    """A line of the input; ``index`` is its place there."""

    index: int
    body: dict[str, Any]


@dataclass(slots=True)
class ItemResult:
    """What has become of a line: what the user reads in ``line``, and what it used of a model."""

    index: int
    ok: bool
    line: dict[str, Any]
    usage: dict[str, Any] | None = None


@dataclass(slots=True)
class Outcome:
    """How a job has ended; ``result`` and ``error`` stand in its view, so they are small."""

    result: dict[str, Any] | None = None
    state: Literal["succeeded", "failed"] = "succeeded"
    error: dict[str, Any] | None = None


class ItemFailed(Exception):
    """One line fails with this error, and the job goes on."""

    def __init__(self, message: str, *, code: str = "item_failed", status: int | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.code = code
        self.status = status


@dataclass(slots=True)
class _Progress:
    done: int | None = None
    failed: int | None = None
    total: int | None = None

    def fields(self) -> dict[str, int]:
        """What is known."""
        values = {"done": self.done, "failed": self.failed, "total": self.total}
        return {name: value for name, value in values.items() if value is not None}


@dataclass(slots=True)
class _Unsent:
    """Results that the gateway has not got yet."""

    results: list[ItemResult] = field(default_factory=list)
    lock: asyncio.Lock = field(default_factory=asyncio.Lock)
    reported: asyncio.Event = field(default_factory=asyncio.Event)
    timer: asyncio.TimerHandle | None = None
    flushing: set[asyncio.Task[None]] = field(default_factory=set)


class Run:
    """Belongs to one event loop, which its kind never blocks for long: the lease is renewed on it each second."""

    def __init__(self, lease: Lease, client: JobClient, item_concurrency: int) -> None:
        grant = lease.grant
        self.id = grant.id
        self.kind = grant.kind
        self.params = grant.params
        self.total = grant.total
        self.deliveries = grant.deliveries
        self.item_concurrency = item_concurrency
        self.client = client
        self.is_cut_short = False
        """Whether :meth:`items` has ended early, since the worker stops; the rest goes back into the queue."""
        self._lease = lease
        self._progress = self._told = _Progress()
        self._unsent = _Unsent()
        self._is_read_again = False
        """Whether the kind has asked for the results, so that the gateway must have them before the end."""
        self._in_hand: set[int] = set()
        """Lines that were leased and whose results the gateway does not have yet."""

    @property
    def is_cancelled(self) -> bool:
        """Whether the job has been cancelled; the task of its kind is cancelled too."""
        return self._lease.is_cancelled

    @property
    def goes_back(self) -> bool:
        """Whether another worker goes on with the job: the lease has ended, or this worker stops."""
        return self._lease.is_over or self._lease.is_stopping

    def progress(self, done: int, failed: int = 0, total: int | None = None) -> None:
        """What the job's view shows, within a second or so. Jobs with lines need not say it: results are counted."""
        self._progress = _Progress(done, failed, total if total is not None else self._progress.total)

    def progress_fields(self) -> dict[str, int]:
        """What was said last."""
        return self._progress.fields()

    async def items(self) -> AsyncIterator[JobItem]:
        """Leases lines in their order, some ahead, and ends when all lines of the job are done, or are at work here."""
        if (only := self._lease.grant.line) is not None:
            yield JobItem(0, only)
            return
        leased_here = 0
        while self.total is None or leased_here < self.total:
            # What is in hand is said too: an answer that was lost on its way has leased lines that nobody knows of.
            wish = {"count": _GROUP, "in_hand": sorted(self._in_hand)}
            leased = (await self._lease.ask("/items", orjson.dumps(wish))).json()
            group = [JobItem(one["index"], one["body"]) for one in leased["items"] if one["index"] not in self._in_hand]
            self._in_hand |= {item.index for item in group}
            leased_here += len(group)
            for item in group:
                if self._lease.is_stopping:
                    self.is_cut_short = True
                    return
                yield item
            if not leased["more"]:
                return
            if not group:
                self._unsent.reported.clear()
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(_ASK_AGAIN_SECONDS):
                        await self._unsent.reported.wait()
                await self.flush()

    async def each(self, work: Callable[[JobItem], Awaitable[ItemResult]]) -> None:
        """Does ``work`` for every line, ``item_concurrency`` at a time, and hands the results in.

        A line whose work raises :class:`ItemFailed` or another error becomes a failed line; :class:`JobFailed` and a
        lost gateway end the run.
        """
        source, turn = self.items(), asyncio.Lock()

        async def lane() -> None:
            while True:
                async with turn:
                    item = await anext(source, None)
                if item is None:
                    return
                await self.report(await _attempt(work, item))

        try:
            async with asyncio.TaskGroup() as group:
                for _ in range(self.item_concurrency):
                    group.create_task(lane())
        except* (JobFailed, RunEnded, OSError) as failures:
            raise first_failure(failures) from None
        await self.flush()

    async def report(self, *results: ItemResult) -> None:
        """Takes results, which are handed in soon, in groups."""
        unsent = self._unsent
        unsent.results += results
        unsent.reported.set()
        if self.last_results:
            return
        if len(unsent.results) >= _MOST_UNSENT:
            await self.flush()
        elif len(unsent.results) >= _GROUP:
            self._flush_soon()
        elif unsent.timer is None:
            unsent.timer = asyncio.get_running_loop().call_later(_FLUSH_SECONDS, self._flush_soon)

    async def flush(self) -> None:
        """Returns once the gateway has all results, and the progress, that were reported. Raises :class:`RunEnded`."""
        unsent = self._unsent
        if self.last_results:
            return
        if unsent.timer is not None:
            unsent.timer.cancel()
            unsent.timer = None
        async with unsent.lock:
            while unsent.results:
                lines = _encoded(unsent.results)
                group = unsent.results[: len(lines)]
                try:
                    await self._lease.ask("/results", b"".join(lines), "application/x-ndjson")
                except JobFailed as exc:
                    if exc.code != "payload_too_large" or len(group) > 1 or not group[0].ok:
                        raise
                    unsent.results[0] = _too_large(group[0], exc.message)
                    continue
                del unsent.results[: len(group)]
                self._in_hand -= {result.index for result in group}
            if self._progress is not self._told:
                self._told = self._progress
                await self._lease.ask("/renew", orjson.dumps(self._told.fields()))

    @property
    def last_results(self) -> list[ItemResult]:
        """What is handed in with the end of the job: the result of its only line, unless it is large."""
        results = self._unsent.results
        if self._lease.grant.line is None or self._is_read_again or len(results) != 1:
            return []
        return results if len(orjson.dumps(results[0])) <= _MOST_WITH_END else []

    async def results(self) -> AsyncIterator[dict[str, Any]]:
        """All results of the job so far, in the order of the lines, as they were handed in."""
        self._is_read_again = True
        await self.flush()
        rest = b""
        async for part in self._lease.download("/results"):
            *lines, rest = (rest + part).split(b"\n")
            for line in lines:
                if line:
                    yield orjson.loads(line)
        if rest:
            yield orjson.loads(rest)

    def source(self, number: int) -> AsyncIterator[bytes]:
        """The bytes of the file on the gateway's machine that is the job's ``number``-th path."""
        return self._lease.download(f"/sources/{number}")

    def close(self) -> None:
        """Stops what still goes on in the background."""
        if self._unsent.timer is not None:
            self._unsent.timer.cancel()
        for task in self._unsent.flushing:
            task.cancel()

    def _flush_soon(self) -> None:
        self._unsent.timer = None
        task = asyncio.create_task(self._flush_quietly())
        self._unsent.flushing.add(task)
        task.add_done_callback(self._unsent.flushing.discard)

    async def _flush_quietly(self) -> None:
        with contextlib.suppress(RunEnded, OSError):  # the next call says so, and the renewals do
            await self.flush()


async def _attempt(work: Callable[[JobItem], Awaitable[ItemResult]], item: JobItem) -> ItemResult:
    try:
        return await work(item)
    except (JobFailed, RunEnded, ConnectionError):
        raise
    except (ItemFailed, SageError) as exc:
        return _failed(item, exc.message, exc.code, exc.status)
    except TimeoutError:
        return _failed(item, "it took too long", "timeout", 504)
    except Exception as exc:
        logging.getLogger("sage.worker").exception("line %d failed", item.index)
        return _failed(item, f"{type(exc).__name__}: {exc}"[:500], "internal_error", 500)


def _failed(item: JobItem, message: str, code: str, status: int | None) -> ItemResult:
    line: dict[str, Any] = {"index": item.index, "error": {"message": message, "code": code}}
    if "custom_id" in item.body:
        line["custom_id"] = item.body["custom_id"]
    if status is not None:
        line["status"] = status
    return ItemResult(item.index, False, line)


def _encoded(results: Sequence[ItemResult]) -> list[bytes]:
    """The first of ``results`` as lines, as many as one body takes."""
    lines, size = list[bytes](), 0
    for result in results:
        lines.append(orjson.dumps(result) + b"\n")
        size += len(lines[-1])
        if size > _MOST_BYTES:
            return lines[:-1] or lines
    return lines


def _too_large(result: ItemResult, message: str) -> ItemResult:
    """What is handed in for a ``result`` that the gateway does not take."""
    line: dict[str, Any] = {name: result.line[name] for name in ("index", "custom_id") if name in result.line}
    error = {"message": f"the result is too large: {message}", "code": "payload_too_large"}
    return ItemResult(result.index, False, {**line, "status": 413, "error": error}, result.usage)


def first_failure(failures: BaseExceptionGroup[Any]) -> BaseException:
    """The first of the failures of a task group."""
    found: BaseException = failures
    while isinstance(found, BaseExceptionGroup):
        found = found.exceptions[0]
    return found
