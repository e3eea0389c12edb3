"""From the texts of searches to vectors, all embedded together."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from sage.errors import DeadlineExceeded, InvalidRequest, RateLimited, Unavailable, UpstreamFailed
from sage.middleware.retrieval.embedding.protocols import Embedder
from sage.middleware.retrieval.store.records import Identity
from sage.middleware.retrieval.text.analyzer import Analyzer
from sage.middleware.retrieval.text.languages import share_spoken
from sage.middleware.retrieval.text.query_syntax import parse_query
from sage.middleware.retrieval.types.documents import Vector
from sage.middleware.retrieval.types.search import Mode, Search

_TEMPORARY = (UpstreamFailed, Unavailable, DeadlineExceeded, RateLimited)
"""Failures of an embedder after which a hybrid search continues with keywords alone, and warns."""

EmbedderOf = Callable[[Identity], Embedder | None]


def query_vectors(
    searches: Sequence[Search], identity: Identity, embedder_of: EmbedderOf, analyzer: Analyzer
) -> list[tuple[Vector | None, float, list[str]]]:
    """For each search: the query's vector, the weight of the vectors in the query's language, and warnings."""
    result: list[tuple[Vector | None, float, list[str]]] = [(search.vector, 1.0, []) for search in searches]
    to_embed = [index for index, search in enumerate(searches) if _needs_embedding(search)]
    embedder = embedder_of(identity) if to_embed else None
    if embedder is None or identity.dimension is None:
        _refuse_dense([searches[index] for index in to_embed], identity)
        return result
    try:
        texts = [parse_query(searches[index].query, analyzer, searches[index].syntax).text for index in to_embed]
        vectors = embedder.embed(texts, query=True)
    except _TEMPORARY as exc:
        if any(searches[index].mode is Mode.DENSE for index in to_embed):
            raise
        warning = f"searched by words alone, since the query could not be embedded: {exc.message}"
        for index in to_embed:
            result[index] = (None, 0.0, [warning])
        return result
    if vectors.shape[1:] != (identity.dimension,):
        raise InvalidRequest(
            f"the embedder '{identity.embedder}' made a vector of {vectors.shape[-1]} dimensions, but those of "
            f"this collection have {identity.dimension}; it is not the one that made them",
            param="query",
            code="wrong_dimension",
        )
    for index, vector in zip(to_embed, vectors, strict=True):
        share = share_spoken(searches[index].query, identity.languages)
        result[index] = (np.asarray(vector, np.float32), share, [])
    return result


def _needs_embedding(search: Search) -> bool:
    return search.mode is not Mode.BM25 and search.vector is None and bool(search.query.strip())


def _refuse_dense(searches: Sequence[Search], identity: Identity) -> None:
    """Without an embedder a dense search must bring its vector; a hybrid one uses keywords alone."""
    if identity.embedder is None and any(search.mode is Mode.DENSE for search in searches):
        raise InvalidRequest(
            "this collection has no embedder, so a dense search must bring its 'vector'; or use mode bm25, or give it "
            "an embedder: sage collections reembed",
            param="mode",
        )
