"""Searches and their answers, the same for every surface."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from enum import StrEnum
from typing import Any

from sage.errors import InvalidRequest
from sage.middleware.retrieval.text.query_syntax import KeywordQuery, Syntax
from sage.middleware.retrieval.types.documents import Vector
from sage.middleware.settings.retrieval import MAX_QUERY


class Mode(StrEnum):
    """Which legs a search uses."""

    HYBRID = "hybrid"
    DENSE = "dense"
    BM25 = "bm25"


class Fusion(StrEnum):
    """How the scores of the two legs of a hybrid search are combined."""

    MINMAX = "minmax"
    """Every candidate is scored by both legs, then the scores of both are scaled to 0…1."""
    RRF = "rrf"
    DBSF = "dbsf"
    ZSCORE = "zscore"


@dataclass(frozen=True, slots=True)
class Search:
    """What to search for. ``vector`` replaces the query's embedding. The language of ``filter`` is described in
    :mod:`sage.middleware.retrieval.filters.language`."""

    query: str = ""
    vector: Vector | None = None
    syntax: Syntax = Syntax.AUTO
    mode: Mode = Mode.HYBRID
    top_k: int = 10
    offset: int = 0
    filter: Mapping[str, Any] | None = None
    fusion: Fusion = Fusion.MINMAX
    alpha: float | None = None
    """The weight of the dense leg, 0 to 1. ``None`` means that it follows from the query: 0.5, or less in a language
    that the embedder does not know, or more where few words of the query match."""
    exact: bool = False
    """Compare all vectors, one by one, in place of an approximate search."""
    rerank: str | None = None
    """The name of a model that puts the best candidates in a new order."""
    rerank_depth: int = 50
    explain: bool = False
    highlight: bool = False
    score_threshold: float | None = None
    """The least relevance of a result, 0 to 1: see :mod:`sage.middleware.retrieval.query.relevance`."""
    cosine_range: tuple[float, float] | None = None
    """For the relevance: the cosines of vectors that have nothing in common, and of those that say the same. ``None``
    means those of the embedder, or 0 and 1 where it is not one of ours."""
    group: str | None = None
    """A field of the metadata whose texts part the documents into groups, as turns into sessions. Each result then has
    ``scores["group"]``, 0 to 1: how well its whole group matches the words. It changes no order, and is left out where
    there are no words, or several shards."""


@dataclass(frozen=True, slots=True, repr=False)
class SearchResult:
    """One document of an answer. A higher ``score`` is better. ``scores`` are those of the legs (``dense``, ``bm25``;
    ``None`` where a leg has none for this document), after reranking ``rerank``, with a ``score_threshold``
    ``relevance``, and with a ``group`` ``group``. ``explanation`` comes with ``explain``: for each leg the raw score,
    the normalised score and its weight, and the terms that matched. ``highlights`` are passages of the text, with
    ``<em>`` around matches."""

    id: str
    score: float
    text: str
    metadata: dict[str, Any] = field(default_factory=dict)
    scores: dict[str, float | None] | None = None
    explanation: dict[str, Any] | None = None
    highlights: list[str] | None = None

    def __repr__(self) -> str:
        """Its fields, without those that are ``None``."""
        values = ((each.name, getattr(self, each.name)) for each in fields(self))
        return f"SearchResult({', '.join(f'{name}={value!r}' for name, value in values if value is not None)})"

    def shown(self) -> dict[str, Any]:
        """The result as JSON, the same for every surface; parts that were not requested are left out."""
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
    """``total`` is how many documents match in all. In dense and hybrid searches, every document that has a vector and
    passes the filter matches."""

    results: list[SearchResult]
    total: int
    warnings: list[str] = field(default_factory=list)


MAX_RERANK_DEPTH = 1000


def check_search(search: Search, *, dimension: int | None, max_results: int) -> None:
    """Raises :class:`InvalidRequest` that names the invalid field."""
    _check_integer("top_k", search.top_k, 1, max_results)
    _check_integer("offset", search.offset, 0, max_results)
    if search.offset + search.top_k > max_results:
        raise InvalidRequest(
            f"'offset' and 'top_k' together go to result {search.offset + search.top_k}, beyond {max_results} "
            "(retrieval.limits.max_results); narrow the search with a filter, or list the documents",
            param="offset",
        )
    _check_integer("rerank_depth", search.rerank_depth, 1, MAX_RERANK_DEPTH)
    if not isinstance(search.query, str) or len(search.query) > MAX_QUERY:
        raise InvalidRequest(f"'query' must be a text of up to {MAX_QUERY} characters", param="query")
    if not search.query.strip() and (search.vector is None or search.mode is Mode.BM25):
        raise InvalidRequest(
            "'query' is empty; say what to look for (to see documents by a filter alone, list them: "
            "GET /collections/{name}/documents)",
            param="query",
        )
    if search.alpha is not None and not _is_number(search.alpha, 0, 1):
        raise InvalidRequest("'alpha' must be 0 (words alone) to 1 (vectors alone)", param="alpha")
    if search.score_threshold is not None and not _is_number(search.score_threshold, 0, 1):
        raise InvalidRequest(
            "'score_threshold' must be 0 (nothing in common) to 1 (the same), of relevance", param="score_threshold"
        )
    if search.cosine_range is not None:
        _check_cosines(search.cosine_range)
    if search.group is not None and not isinstance(search.group, str):
        raise InvalidRequest("'group' must be the name of a field of the metadata", param="group")
    if search.vector is not None and dimension is not None and search.vector.size != dimension:
        raise InvalidRequest(
            f"'vector' has {search.vector.size} dimensions, but those of this collection have {dimension}",
            param="vector",
            code="wrong_dimension",
        )


def _check_cosines(given: Any) -> None:
    is_pair = isinstance(given, tuple | list) and len(given) == 2 and all(_is_number(each, -1, 1) for each in given)
    if not is_pair or given[0] >= given[1]:
        raise InvalidRequest("'cosine_range' must be two cosines, the lower one first", param="cosine_range")


def _is_number(given: Any, least: float, most: float) -> bool:
    return isinstance(given, int | float) and not isinstance(given, bool) and least <= given <= most


def mode_of(search: Search, query: KeywordQuery, has_vector: bool, dense_weight: float) -> Mode:
    """Which legs a search uses in the end. A hybrid search uses keywords alone when it has no vector, or when the
    embedder does not know its language; without words it uses vectors alone."""
    mode = search.mode
    if mode is Mode.HYBRID and (not has_vector or (dense_weight == 0 and search.alpha is None and query.terms)):
        mode = Mode.BM25
    if mode is Mode.HYBRID and not query.terms:
        mode = Mode.DENSE
    return mode


def _check_integer(name: str, value: Any, lowest: int, highest: int) -> None:
    if isinstance(value, bool) or not isinstance(value, int) or not lowest <= value <= highest:
        raise InvalidRequest(f"'{name}' must be a whole number, {lowest} to {highest}", param=name)
