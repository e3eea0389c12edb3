"""Searches of vector stores in OpenAI's shape.

A result is one chunk. Its ``score`` is its relevance, 0 to 1, which can be compared between questions and stores; the
results are in the order of the search itself, which weighs more than that.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from sage.errors import InvalidRequest
from sage.middleware.auth.principal import Principal
from sage.middleware.gateway.collections.requests import RerankOptions, SearchRequest
from sage.middleware.gateway.vector_stores.access import StoreAccess
from sage.middleware.gateway.vector_stores.attributes import FILE_ID, our_filter, shown_attributes
from sage.middleware.gateway.vector_stores.requests import SearchOptions
from sage.middleware.vector_stores.records import FileRecord, StoreKey, StoreRecord

if TYPE_CHECKING:  # it brings numpy, which a gateway without searches does not load
    from sage.middleware.retrieval.types.search import SearchResult

_RERANK_DEPTH = 50


@dataclass(frozen=True, slots=True)
class FoundChunk:
    """A chunk of a file, or a document of a collection that came otherwise; that one stands for its own file."""

    key: tuple[str, str]
    """Its collection and its id there."""
    file_id: str
    filename: str
    score: float
    attributes: dict[str, Any]
    text: str

    def shown(self) -> dict[str, Any]:
        """It as a result of ``/v1/vector_stores/{id}/search``."""
        return {
            "file_id": self.file_id,
            "filename": self.filename,
            "score": self.score,
            "attributes": self.attributes,
            "content": [{"type": "text", "text": self.text}],
        }


class StoreSearch:
    """Searches the stores of one gateway. Belongs to its event loop."""

    def __init__(self, access: StoreAccess) -> None:
        self.access = access

    async def find(self, principal: Principal, store: str) -> StoreRecord:
        """The caller's store. Raises as :meth:`StoreAccess.find` does."""
        return await self.access.find(principal, store)

    async def search(
        self, principal: Principal, stores: Sequence[StoreRecord], queries: Sequence[str], options: SearchOptions
    ) -> list[FoundChunk]:
        """The best chunks of all ``stores`` for all ``queries``, each once. Raises :class:`InvalidRequest` that names
        the field at fault, and what the search raises."""
        condition = checked_filter(options)
        ranked: list[list[FoundChunk]] = []
        for store in stores:
            searches = [_search(store.collection, query, condition, options) for query in queries]
            answers = await self.access.collections.search(principal, searches)
            ids = {
                str(result.metadata[FILE_ID])
                for answer in answers
                for result in answer.results
                if FILE_ID in result.metadata
            }
            files = await self._files(store.key, sorted(ids))
            ranked += [[_chunk(store.collection, result, files) for result in answer.results] for answer in answers]
            await self.access.touch(store)
        return merged(ranked)[: options.max_num_results]

    async def _files(self, key: StoreKey, ids: Sequence[str]) -> dict[str, FileRecord]:
        if not ids:
            return {}
        return await self.access.run(lambda rows: rows.files.get_many(key, ids), key.tenant)


def checked_filter(options: SearchOptions) -> dict[str, Any] | None:
    """The filter of ``options`` in our language. Raises :class:`InvalidRequest`."""
    if options.filters is None:
        return None
    from sage.middleware.retrieval.filters.language import parse_filter

    condition = our_filter(options.filters)
    try:
        parse_filter(condition)
    except InvalidRequest as exc:
        raise InvalidRequest(exc.message, param="filters") from None
    return condition


def merged(ranked: Sequence[Sequence[FoundChunk]]) -> list[FoundChunk]:
    """One list of several: its own order where there is one; else by the score, and each chunk once."""
    lists = [each for each in ranked if each]
    if len(lists) <= 1:
        return list(lists[0]) if lists else []
    best: dict[tuple[str, str], FoundChunk] = {}
    for chunk in (chunk for each in lists for chunk in each):
        if chunk.key not in best or chunk.score > best[chunk.key].score:
            best[chunk.key] = chunk
    return sorted(best.values(), key=lambda chunk: -chunk.score)


def _search(collection: str, query: str, condition: dict[str, Any] | None, options: SearchOptions) -> SearchRequest:
    ranking = options.ranking_options
    reranker = ranking.reranker if ranking is not None else None
    weights = ranking.hybrid_search if ranking is not None else None
    return SearchRequest(
        collection=collection,
        query=query,
        top_k=options.max_num_results,
        filter=condition,
        syntax="plain",
        alpha=weights.alpha if weights is not None else None,
        rerank=None if reranker is None else RerankOptions(model=reranker, depth=_RERANK_DEPTH),
        score_threshold=(ranking.score_threshold if ranking is not None else None) or 0.0,
    )


def _chunk(collection: str, result: SearchResult, files: dict[str, FileRecord]) -> FoundChunk:
    metadata = result.metadata
    record = files.get(str(metadata.get(FILE_ID)))
    relevance = (result.scores or {}).get("relevance")
    score = result.score if relevance is None else relevance
    name = metadata.get("path") or metadata.get("title") or metadata.get("source") or result.id
    return FoundChunk(
        (collection, result.id),
        str(metadata.get(FILE_ID) or metadata.get("source") or result.id),
        record.filename if record is not None else str(name),
        min(1.0, max(0.0, float(score))),
        record.attributes if record is not None else shown_attributes(metadata),
        result.text,
    )
