"""Collections whose vectors are being made again: one run each, which goes on when its client leaves."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator
from concurrent.futures import Future
from contextlib import suppress
from typing import TYPE_CHECKING, Any

from sage.errors import Conflict, SageError, Unavailable
from sage.middleware.auth.principal import Principal
from sage.middleware.gateway.collections.bounded_pool import BoundedPool
from sage.middleware.gateway.collections.on_behalf import on_behalf_of
from sage.middleware.providers.base import PullProgress

if TYPE_CHECKING:
    from sage.middleware.retrieval.collection import Collection

_PAUSE = 0.5
"""Seconds between two reports of progress."""
_BEGIN = 10.0
"""Seconds for a run to begin before its progress is reported; until then, its error has a status of its own."""
_SHUTTING_DOWN = "the gateway is shutting down; ask again to go on where it was"


class Reembedding:
    """One run: how far it is, in documents, and its end."""

    def __init__(self, collection: Collection, embedder: str) -> None:
        self.embedder = embedder
        self._collection = collection
        self._done = 0
        self._total = 0
        self._begun = False
        self._stopped: str | None = None
        self._failure: BaseException | None = None
        self._ended = asyncio.Event()

    def describe(self) -> dict[str, Any]:
        return {"embedder": self.embedder, "done": self._done, "total": self._total, "running": True}

    def stop(self, reason: str) -> None:
        """It ends after the current batch; the next run continues there."""
        self._stopped = reason

    def run(self) -> None:
        """Blocks until it is done."""
        self._check_stopped()
        self._collection.reembed(self.embedder, self._report)

    def _report(self, done: int, total: int) -> None:
        self._done, self._total, self._begun = done, total, True
        self._check_stopped()

    def _check_stopped(self) -> None:
        if self._stopped is not None:
            raise Unavailable(self._stopped, code="reembedding_stopped")

    def finish(self, work: Future[None]) -> None:
        """``work`` has ended; called once, on the event loop."""
        self._failure = Unavailable(_SHUTTING_DOWN, code="shutting_down") if work.cancelled() else work.exception()
        self._ended.set()

    async def progress(self) -> AsyncGenerator[PullProgress, None]:
        """Reports how far it is until it ends; raises its failure. The run goes on when the caller stops reading."""
        shown: PullProgress | None = None
        first = time.monotonic() + _BEGIN
        while not self._ended.is_set():
            with suppress(TimeoutError):
                async with asyncio.timeout(_PAUSE if shown is not None else 0.02):
                    await self._ended.wait()
                    break
            if not self._begun and time.monotonic() < first:
                continue
            now = PullProgress("embedding", self._done, self._total)
            if now != shown:
                shown = now
                yield now
        if self._failure is not None:
            raise self._failure
        yield PullProgress("done", self._done, self._total)


class Reembeddings:
    """The current runs, by tenant and collection."""

    def __init__(self, threads: BoundedPool) -> None:
        self._threads = threads
        self._running: dict[tuple[str, str], Reembedding] = {}

    def of(self, tenant: str, name: str) -> Reembedding | None:
        return self._running.get((tenant, name))

    def begin(self, principal: Principal, collection: Collection, embedder: str) -> Reembedding:
        """Starts a run, whose calls of models are the caller's, or joins the current one; raises :class:`Conflict` if
        that has another embedder."""
        key = principal.tenant, collection.name
        running = self._running.get(key)
        if running is not None:
            if running.embedder != embedder:
                raise Conflict(
                    f"collection '{collection.name}' is being embedded again with '{running.embedder}'; wait for it",
                    param="embedder",
                    code="reembedding_runs",
                )
            return running
        run = Reembedding(collection, embedder)
        self._running[key] = run
        try:
            work = self._threads.submit(on_behalf_of(principal, run.run), principal.tenant)
        except SageError:
            del self._running[key]
            raise
        loop = asyncio.get_running_loop()

        def finish() -> None:
            del self._running[key]
            run.finish(work)

        work.add_done_callback(lambda _: loop.call_soon_threadsafe(finish))
        return run

    def stop(self, tenant: str, name: str) -> None:
        running = self.of(tenant, name)
        if running is not None:
            running.stop(f"collection '{name}' is being deleted")

    def close(self) -> None:
        """Stops all runs; the next run of each collection continues where it was."""
        for running in list(self._running.values()):
            running.stop(_SHUTTING_DOWN)
