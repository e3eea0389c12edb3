"""The engine behind a vector service: its protocol, and the errors that all engines share."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from sage.errors import NotFound
from sage.middleware.retrieval.columns import NumberOrder
from sage.middleware.retrieval.embedding.protocols import Models
from sage.middleware.retrieval.types.documents import NewDocument, StoredDocument
from sage.middleware.retrieval.types.search import Search, SearchResult
from sage.middleware.retrieval.updates import Revision
from sage.middleware.settings.retrieval import Metric


@dataclass(frozen=True, slots=True)
class CollectionDefaults:
    """How new collections are made."""

    dimension: int | None
    metric: Metric
    embedder: str
    """A name that ``models`` finds; ``none`` means that vectors come with the items."""
    models: Models
    vectors: str = "stored"
    """See :class:`sage.middleware.settings.retrieval.CollectionOptions`."""


class VectorBackend(Protocol):
    """Collections of tenants. All arguments are checked already; safe to call from several threads.

    Where the collection does not exist, everything but :meth:`add` and :meth:`collections` raises
    :class:`sage.errors.NotFound`.
    """

    keywords: bool
    """Whether it searches by words, too."""

    def add(self, tenant: str, collection: str, items: Sequence[NewDocument]) -> None: ...

    def search(self, tenant: str, collection: str, search: Search) -> list[SearchResult]: ...

    def get(self, tenant: str, collection: str, id: str, vector: bool) -> StoredDocument: ...

    def find(self, tenant: str, collection: str, ids: Sequence[str], vector: bool) -> list[StoredDocument]:
        """Those that exist."""

    def groups(
        self, tenant: str, collection: str, by: str, of: str, where: Mapping[str, Any] | None
    ) -> Mapping[str, tuple[int, float, float]]: ...

    def page_by(
        self, tenant: str, collection: str, order: NumberOrder, limit: int, where: Mapping[str, Any] | None
    ) -> list[StoredDocument]: ...

    def page(
        self,
        tenant: str,
        collection: str,
        where: Mapping[str, Any] | None,
        limit: int,
        cursor: str | None,
        vectors: bool,
    ) -> tuple[list[StoredDocument], str | None]: ...

    def update(self, tenant: str, collection: str, id: str, revision: Revision) -> None: ...

    def delete(
        self, tenant: str, collection: str, ids: Sequence[str] | None, where: Mapping[str, Any] | None
    ) -> int: ...

    def purge(self, tenant: str, collection: str) -> None: ...

    def count(self, tenant: str, collection: str, where: Mapping[str, Any] | None) -> int: ...

    def revision(self, tenant: str, collection: str) -> tuple[str, int]: ...

    def collections(self, tenant: str) -> list[str]: ...

    def drop(self, tenant: str, collection: str) -> None: ...

    def health(self) -> Mapping[str, Any]: ...

    def close(self) -> None: ...


def no_collection(collection: str, names: Sequence[str]) -> NotFound:
    hint = f"there are: {', '.join(names[:20])}" if names else "there are none yet"
    return NotFound(
        f"there is no collection '{collection}'; {hint} (adding items makes it)",
        param="collection",
        code="collection_not_found",
    )


def no_item(collection: str, id: str) -> NotFound:
    return NotFound(f"collection '{collection}' has no item '{id}'", param="id", code="item_not_found")
