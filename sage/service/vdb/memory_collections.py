"""Collections of tenants in memory: as :class:`sage.middleware.retrieval.collections.Collections`, without files."""

from __future__ import annotations

import threading
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

from sage.errors import Conflict, NotFound
from sage.middleware.retrieval.collection import Collection
from sage.middleware.retrieval.collections import EXISTS, new_store
from sage.middleware.retrieval.embedding.protocols import Models
from sage.middleware.retrieval.types.documents import Written
from sage.middleware.settings.retrieval import CollectionOptions, RetrievalLimits


class InMemoryCollections:
    """Safe to call from several threads; gone with :meth:`close`."""

    def __init__(self, options: CollectionOptions, models: Models, limits: RetrievalLimits) -> None:
        self._options = options
        self._models = models
        self._limits = limits
        self._lock = threading.Lock()
        self._collections: dict[tuple[str, str], Collection] = {}

    def names(self, tenant: str) -> list[str]:
        with self._lock:
            return sorted(name for owner, name in self._collections if owner == tenant)

    def open(self, tenant: str, name: str) -> Collection:
        with self._lock:
            collection = self._collections.get((tenant, name))
        if collection is None:
            raise NotFound(f"there is no collection '{name}'", param="collection", code="collection_not_found")
        return collection

    def create_with(self, tenant: str, name: str, documents: Sequence[Mapping[str, Any]]) -> Written:
        """A new collection that holds ``documents`` from its first moment on. Raises :class:`Conflict` when the
        name is taken."""
        created = Collection(
            name, partial(new_store, None, name, self._options, self._models), self._models, self._limits
        )
        try:
            written = created.add(documents)
            with self._lock:
                if self._collections.setdefault((tenant, name), created) is not created:
                    raise Conflict(f"collection '{name}' exists already", param="name", code=EXISTS)
        except BaseException:
            created.close()
            raise
        return written

    def delete(self, tenant: str, name: str) -> None:
        self.open(tenant, name)
        with self._lock:
            collection = self._collections.pop((tenant, name), None)
        if collection is not None:
            collection.close(f"collection '{name}' was deleted")

    def close(self) -> None:
        with self._lock:
            remaining = list(self._collections.values())
            self._collections.clear()
        for collection in remaining:
            collection.close()
