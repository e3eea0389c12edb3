"""The searches that a front answers itself. A collection is one directory, which several processes may have open: what
was acknowledged anywhere is found by the next search here.
"""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from sage.errors import NotFound, SageError, Unavailable
from sage.middleware.app.workers.elsewhere import OfTheOwner
from sage.middleware.auth.principal import Principal
from sage.middleware.gateway.collections.bounded_pool import BoundedPool
from sage.middleware.gateway.collections.requests import SearchRequest
from sage.middleware.gateway.collections.searches import Searches
from sage.middleware.gateway.elsewhere import Elsewhere
from sage.middleware.gateway.metrics import RetrievalMetrics
from sage.middleware.settings.retrieval import Retrieval

if TYPE_CHECKING:  # what searches is loaded by the first search
    from sage.middleware.retrieval.collection import Collection
    from sage.middleware.retrieval.collections import Collections
    from sage.middleware.retrieval.embedding.protocols import Embedder, Reranker
    from sage.middleware.retrieval.types.search import SearchAnswer

_LOOKS_EVERY = 2.0
"""Seconds between two looks at whether open collections were deleted."""


class BuiltinModels:
    """The :class:`~sage.middleware.retrieval.embedding.protocols.Models` of a front: models of the registry, which have
    prices, limits and budgets, are asked by the owner."""

    def embedder(self, name: str) -> Embedder | None:
        from sage.middleware.retrieval.embedding.builtin import builtin_embedder, is_builtin

        if not is_builtin(name):
            raise Elsewhere(name)
        return builtin_embedder(name)

    def reranker(self, name: str) -> Reranker:
        raise Elsewhere(name)


class FrontCollections(OfTheOwner):
    """Searches in collections of one store whose queries can be embedded here. The owner does all else, and says what
    is not there."""

    def __init__(self, root: Path, settings: Retrieval, metrics: RetrievalMetrics) -> None:
        self.limits = settings.limits
        self._root = root
        self._settings = settings
        self._threads = BoundedPool("searches", 8, 256)
        self._searches = Searches(self._open, self._threads, self.limits, metrics)
        self._lock = threading.Lock()
        self._opened: Collections | None = None
        self._closed = False

    @property
    def collections(self) -> FrontCollections:
        """Itself, as the endpoints of searches look for it in a gateway."""
        return self

    async def search(self, principal: Principal, searches: Sequence[SearchRequest]) -> list[SearchAnswer]:
        """Raises :class:`Elsewhere` for what is the owner's."""
        if any(search.rerank is not None for search in searches):
            raise Elsewhere("rerank")
        return await self._searches.run(principal, searches)

    def _open(self, principal: Principal, name: str) -> Collection:
        try:
            return self._collections().open(principal.tenant, name)
        except NotFound:  # it may also be sharded
            raise Elsewhere(name) from None

    def _collections(self) -> Collections:
        with self._lock:
            if self._closed:
                raise Unavailable("the gateway is shutting down; try again soon", code="shutting_down")
            if self._opened is None:
                from sage.middleware.retrieval.collections import Collections

                self._opened = Collections(self._root, self._settings, BuiltinModels())
            return self._opened

    async def let_go_of_deleted(self) -> None:
        """Closes collections that were deleted, until it is cancelled: until then their files take room on the disk."""
        while True:
            await asyncio.sleep(_LOOKS_EVERY)
            if self._opened is not None:
                with contextlib.suppress(SageError):  # too busy, or a fault of its disk: next time
                    await self._threads.run(self._opened.let_go_of_deleted)

    async def close(self) -> None:
        """Waits for what runs, and closes every collection."""
        await asyncio.to_thread(self._close)

    def _close(self) -> None:
        if self._opened is not None:
            self._opened.stop_work()
        self._threads.close()
        with self._lock:
            self._closed = True
            opened, self._opened = self._opened, None
        if opened is not None:
            opened.close()
