"""Search as a library: collections of documents, searched by keywords and by meaning.

The names below are imported at their first use, so that a gateway that nobody searches loads nothing for them.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from sage.middleware.retrieval.types.search import Fusion, Mode, SearchResult
    from sage.middleware.retrieval.vector_store import VectorStore

__all__ = ["Fusion", "Mode", "SearchResult", "VectorStore"]


def __getattr__(name: str) -> Any:
    if name == "VectorStore":
        from sage.middleware.retrieval.vector_store import VectorStore

        return VectorStore
    if name in __all__:
        from sage.middleware.retrieval.types import search

        return getattr(search, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
