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

_PASSING = (UpstreamFailed, Unavailable, DeadlineExceeded, RateLimited)
"""Failures of an embedder under which a hybrid search goes on with words alone, and says so."""

EmbedderOf = Callable[[Identity], Embedder | None]


def query_vectors(
    searches: Sequence[Search], identity: Identity, embedder_of: EmbedderOf, analyzer: Analyzer
) -> list[tuple[Vector | None, float, list[str]]]:
    """Of each search the query's vector, the weight that its language allows that, and warnings."""
    found: list[tuple[Vector | None, float, list[str]]] = [(search.vector, 1.0, []) for search in searches]
    wanted = [place for place, search in enumerate(searches) if _to_embed(search)]
    embedder = embedder_of(identity) if wanted else None
    if embedder is None or identity.dimension is None:
        _refuse_dense([searches[place] for place in wanted], identity)
        return found
    try:
        texts = [parse_query(searches[place].query, analyzer).text for place in wanted]
        vectors = embedder.embed(texts, query=True)
    except _PASSING as exc:
        if any(searches[place].mode is Mode.DENSE for place in wanted):
            raise
        warning = f"searched by words alone, since the query could not be embedded: {exc.message}"
        for place in wanted:
            found[place] = (None, 0.0, [warning])
        return found
    if vectors.shape[1:] != (identity.dimension,):
        raise InvalidRequest(
            f"the embedder '{identity.embedder}' made a vector of {vectors.shape[-1]} dimensions, but those of "
            f"this collection have {identity.dimension}; it is not the one that made them",
            param="query",
            code="wrong_dimension",
        )
    for place, vector in zip(wanted, vectors, strict=True):
        spoken = share_spoken(searches[place].query, identity.languages)
        found[place] = (np.asarray(vector, np.float32), spoken, [])
    return found


def _to_embed(search: Search) -> bool:
    return search.mode is not Mode.BM25 and search.vector is None and bool(search.query.strip())


def _refuse_dense(searches: Sequence[Search], identity: Identity) -> None:
    """A dense search needs a vector from somewhere; a hybrid one then goes by words."""
    if identity.embedder is None and any(search.mode is Mode.DENSE for search in searches):
        raise InvalidRequest(
            "this collection has no embedder, so a dense search must bring its 'vector'; or use mode bm25, or give it "
            "an embedder: sage collections reembed",
            param="mode",
        )
