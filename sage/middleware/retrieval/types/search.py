"""A search and its answer, as every surface states them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any

from sage.errors import InvalidRequest
from sage.middleware.retrieval.text.query_syntax import KeywordQuery
from sage.middleware.retrieval.types.documents import Vector
from sage.middleware.settings.retrieval import MAX_QUERY


class Mode(StrEnum):
    """Which legs a search goes on."""

    HYBRID = "hybrid"
    DENSE = "dense"
    BM25 = "bm25"


class Fusion(StrEnum):
    """How the two legs of a hybrid search become one order."""

    MINMAX = "minmax"
    """Completed min-max: every candidate is scored on both legs, then both are scaled to 0…1."""
    RRF = "rrf"
    DBSF = "dbsf"
    ZSCORE = "zscore"


@dataclass(frozen=True, slots=True)
class Search:
    """What is asked. ``filter`` is as in the contract; ``vector`` replaces the query's embedding."""

    query: str = ""
    vector: Vector | None = None
    mode: Mode = Mode.HYBRID
    top_k: int = 10
    offset: int = 0
    filter: Mapping[str, Any] | None = None
    fusion: Fusion = Fusion.MINMAX
    alpha: float | None = None
    """The weight of the dense leg, 0 to 1; none: 0.5, less where the words or the language call for it."""
    exact: bool = False
    """Vectors are compared exactly, one by one."""
    rerank: str | None = None
    """A model that puts the best candidates in order."""
    rerank_depth: int = 50
    explain: bool = False
    highlight: bool = False


@dataclass(frozen=True, slots=True)
class SearchResult:
    """One document found. Of ``score``, higher is better; ``scores`` are those of the legs (``dense``, ``bm25``;
    ``None``: that leg has none for this document, and after reranking ``rerank``). ``explanation`` comes with
    ``explain``: of each leg the raw and the normalised score and its weight, and the terms that matched.
    ``highlights``: passages of the text, with ``<em>`` around what matched."""

    id: str
    score: float
    text: str
    metadata: dict[str, Any] = field(default_factory=dict)
    scores: dict[str, float | None] | None = None
    explanation: dict[str, Any] | None = None
    highlights: list[str] | None = None

    def shown(self) -> dict[str, Any]:
        """As every surface answers with it; what was not asked for is left out."""
        shown: dict[str, Any] = {
            "id": self.id,
            "score": self.score,
            "text": self.text,
            "metadata": self.metadata,
            "scores": self.scores,
        }
        if self.explanation is not None:
            shown["explanation"] = self.explanation
        if self.highlights is not None:
            shown["highlights"] = self.highlights
        return shown


@dataclass(frozen=True, slots=True)
class SearchAnswer:
    """``total``: how many documents match in all; in dense and hybrid searches, every document with a vector that
    the filter lets through does."""

    results: list[SearchResult]
    total: int
    warnings: list[str] = field(default_factory=list)


MAX_RERANK_DEPTH = 1000


def check_search(search: Search, *, dimension: int | None, max_results: int) -> None:
    """Raises :class:`InvalidRequest` that names the field at fault."""
    _check_whole("top_k", search.top_k, 1, max_results)
    _check_whole("offset", search.offset, 0, max_results)
    if search.offset + search.top_k > max_results:
        raise InvalidRequest(
            f"'offset' and 'top_k' together go to result {search.offset + search.top_k}, beyond {max_results} "
            "(retrieval.limits.max_results); narrow the search with a filter, or list the documents",
            param="offset",
        )
    _check_whole("rerank_depth", search.rerank_depth, 1, MAX_RERANK_DEPTH)
    if not isinstance(search.query, str) or len(search.query) > MAX_QUERY:
        raise InvalidRequest(f"'query' must be a text of up to {MAX_QUERY} characters", param="query")
    if not search.query.strip() and (search.vector is None or search.mode is Mode.BM25):
        raise InvalidRequest(
            "'query' is empty; say what to look for (to see documents by a filter alone, list them: "
            "GET /collections/{name}/documents)",
            param="query",
        )
    alpha = search.alpha
    if alpha is not None and (isinstance(alpha, bool) or not isinstance(alpha, int | float) or not 0 <= alpha <= 1):
        raise InvalidRequest("'alpha' must be 0 (words alone) to 1 (vectors alone)", param="alpha")
    if search.vector is not None and dimension is not None and search.vector.size != dimension:
        raise InvalidRequest(
            f"'vector' has {search.vector.size} dimensions, but those of this collection have {dimension}",
            param="vector",
            code="wrong_dimension",
        )


def mode_of(search: Search, query: KeywordQuery, has_vector: bool, dense_weight: float) -> Mode:
    """On which legs it goes: a hybrid search without a vector, or in words that the embedder does not speak, goes by
    words alone, and one without words by vectors alone."""
    mode = search.mode
    if mode is Mode.HYBRID and (not has_vector or (dense_weight == 0 and search.alpha is None and query.terms)):
        mode = Mode.BM25
    if mode is Mode.HYBRID and not query.terms:
        mode = Mode.DENSE
    return mode


def _check_whole(name: str, value: Any, least: int, most: int) -> None:
    if isinstance(value, bool) or not isinstance(value, int) or not least <= value <= most:
        raise InvalidRequest(f"'{name}' must be a whole number, {least} to {most}", param=name)
