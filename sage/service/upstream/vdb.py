"""The options and methods that the vector service of upstream SAGE has under other names."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from sage.errors import InvalidRequest
from sage.kernels.runtime.old_names import NewName, warn_of_old_name

OLD_OPTIONS: Mapping[str, NewName] = {
    "embedding_dimension": "dimension",
    "similarity_threshold": "score_threshold",
    "index_type": None,
    "max_vectors": None,
    "faiss_config": None,
}
OLD_OPTION_HINTS = {
    "index_type": "the index is chosen by size; of a type that names its metric (L2, IP), distance_metric is taken",
    "max_vectors": "a collection has no bound",
    "faiss_config": "the index is chosen, and set, by size",
}


def metric_of_index(index_type: Any) -> str | None:
    """The metric that the name of an index of FAISS says."""
    name = str(index_type or "")
    return "euclidean" if name.endswith("L2") else "dot" if name.endswith("IP") else None


class OldVectorMethods:
    """Part of a vector service. Each method calls the one of today, and warns."""

    def add_vectors(
        self: Any,
        documents: Sequence[Any] | None = None,
        ids: Sequence[str] | None = None,
        metadata: Sequence[Any] | None = None,
        *,
        vectors: Sequence[Any] | None = None,
        **target: Any,
    ) -> list[str]:
        """:meth:`add`, also of vectors with their ``ids`` and ``metadata`` in lists of their own."""
        _warn("add_vectors(…)", "add([{'id': …, 'vector': …, 'metadata': …}])")
        given = documents if documents is not None else vectors
        if given is None:
            raise InvalidRequest("give 'documents' or 'vectors'", param="vectors")
        added: list[str] = self.add(_items(given, ids, metadata), **target)
        return added

    def search_vectors(
        self: Any, query_vector: Sequence[float], top_k: int = 5, metadata_filter: Any = None, **more: Any
    ) -> list[dict[str, Any]]:
        """:meth:`search`. Of scores, higher is nearer."""
        _warn("search_vectors(query_vector, top_k, metadata_filter)", "search(vector, n_results, where)")
        found: list[dict[str, Any]] = self.search(query_vector, top_k, metadata_filter, **more)
        return found

    def get_vector(self: Any, doc_id: str, **target: Any) -> dict[str, Any] | None:
        """:meth:`get`, with the vector."""
        _warn("get_vector(id)", "get(id, vector=True)")
        item: dict[str, Any] | None = self.get(doc_id, vector=True, **target)
        return item

    def delete_vectors(self: Any, doc_ids: Sequence[str], **target: Any) -> int:
        """:meth:`delete`."""
        _warn("delete_vectors(ids)", "delete(ids)")
        return int(self.delete(doc_ids, **target))

    def update_vector(self: Any, doc_id: str, document: Mapping[str, Any], **target: Any) -> bool:
        """:meth:`update`; ``False`` when there is no such item."""
        _warn("update_vector(id, document)", "update(id, vector=…, metadata=…, text=…)")
        if self.get(doc_id, **target) is None:
            return False
        self.update(doc_id, **{name: value for name, value in document.items() if name != "id"}, **target)
        return True

    def list_vectors(self: Any, metadata_filter: Any = None, **target: Any) -> list[dict[str, Any]]:
        """All items of :meth:`list_items`, with their vectors."""
        _warn("list_vectors(metadata_filter)", "list_items(where, vectors=True), which gives pages")
        items: list[dict[str, Any]] = []
        cursor: str | None = None
        while True:
            page = self.list_items(metadata_filter, limit=1000, cursor=cursor, vectors=True, **target)
            items += page["items"]
            cursor = page["cursor"]
            if cursor is None:
                return items


def _items(given: Sequence[Any], ids: Sequence[str] | None, metadata: Sequence[Any] | None) -> list[Any]:
    if len(given) > 0 and isinstance(given[0], Mapping):
        return list(given)
    for name, values in (("ids", ids), ("metadata", metadata)):
        if values is not None and len(values) != len(given):
            raise InvalidRequest(f"there are {len(given)} vectors, and {len(values)} {name}", param=name)
    items: list[dict[str, Any]] = [{"vector": vector} for vector in given]
    for index, item in enumerate(items):
        if ids is not None:
            item["id"] = ids[index]
        if metadata is not None:
            item["metadata"] = metadata[index]
    return items


def _warn(old: str, new: str) -> None:
    warn_of_old_name(f"VDBService.{old} is an old name; write {new}", 3)
