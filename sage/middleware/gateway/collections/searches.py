"""Searches of collections: on threads, within the models that the caller reaches, and counted."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from functools import partial
from typing import TYPE_CHECKING

from sage.errors import SageError
from sage.middleware.auth.principal import Principal
from sage.middleware.gateway.collections.bounded_pool import BoundedPool
from sage.middleware.gateway.collections.model_access import require_embedder_access, require_model_access
from sage.middleware.gateway.collections.on_behalf import on_behalf_of
from sage.middleware.gateway.collections.requests import SearchRequest
from sage.middleware.gateway.elsewhere import Elsewhere
from sage.middleware.gateway.metrics import RetrievalMetrics
from sage.middleware.settings.retrieval import RetrievalLimits

if TYPE_CHECKING:  # what searches is loaded by the first search
    from sage.middleware.retrieval.types.search import SearchAnswer
    from sage.service.vdb.sharded.collections import AnyCollection


class Searches:
    """Belongs to one event loop."""

    def __init__(
        self,
        open: Callable[[Principal, str], AnyCollection],
        threads: BoundedPool,
        limits: RetrievalLimits,
        metrics: RetrievalMetrics,
    ) -> None:
        """``open`` finds a collection of the caller's tenant, on a thread."""
        self._open = open
        self._threads = threads
        self._limits = limits
        self._metrics = metrics

    async def run(self, principal: Principal, searches: Sequence[SearchRequest]) -> list[SearchAnswer]:
        """One answer a search; those of one collection on one state of it."""
        for search in searches:
            if search.rerank is not None:
                require_model_access(principal, search.rerank.model, "rerank")
        started = time.perf_counter()
        status: int | None = 200
        try:
            work = on_behalf_of(principal, partial(self._answers, principal, searches))
            return await self._threads.run(work, principal.tenant)
        except SageError as exc:
            status = exc.status
            raise
        except Elsewhere:
            status = None  # it is counted where it is answered
            raise
        except BaseException as exc:
            status = 500 if isinstance(exc, Exception) else 499
            raise
        finally:
            if status is not None:
                self._metrics.searched(status, time.perf_counter() - started, len(searches))

    def _answers(self, principal: Principal, searches: Sequence[SearchRequest]) -> list[SearchAnswer]:
        by_name: dict[str, list[int]] = {}
        for index, search in enumerate(searches):
            by_name.setdefault(search.collection, []).append(index)
        answers: dict[int, SearchAnswer] = {}
        for name, indexes in by_name.items():
            collection = self._open(principal, name)
            if any(searches[index].vector is None and searches[index].mode != "bm25" for index in indexes):
                require_embedder_access(principal, collection.options.embedder, "collection")
            results = collection.search_many([searches[index].search(self._limits) for index in indexes])
            answers.update(zip(indexes, results, strict=True))
        return [answers[index] for index in range(len(searches))]
