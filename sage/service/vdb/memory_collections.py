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
        self._known: dict[tuple[str, str], Collection] = {}

    def names(self, tenant: str) -> list[str]:
        with self._lock:
            return sorted(name for owner, name in self._known if owner == tenant)

    def open(self, tenant: str, name: str) -> Collection:
        with self._lock:
            found = self._known.get((tenant, name))
        if found is None:
            raise NotFound(f"there is no collection '{name}'", param="collection", code="collection_not_found")
        return found

    def create_with(self, tenant: str, name: str, documents: Sequence[Mapping[str, Any]]) -> Written:
        """A new collection that holds ``documents`` from its first moment on. Raises :class:`Conflict` when it is
        there."""
        made = Collection(name, partial(new_store, None, name, self._options, self._models), self._models, self._limits)
        try:
            written = made.add(documents)
            with self._lock:
                if self._known.setdefault((tenant, name), made) is not made:
                    raise Conflict(f"collection '{name}' exists already", param="name", code=EXISTS)
        except BaseException:
            made.close()
            raise
        return written

    def delete(self, tenant: str, name: str) -> None:
        self.open(tenant, name)
        with self._lock:
            found = self._known.pop((tenant, name), None)
        if found is not None:
            found.close(f"collection '{name}' was deleted")

    def close(self) -> None:
        with self._lock:
            found = list(self._known.values())
            self._known.clear()
        for collection in found:
            collection.close()
