"""The first results of an order in the order of a reranker, whether of one collection or of its shards."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from sage.middleware.retrieval.embedding.protocols import Reranker
from sage.middleware.retrieval.query.searcher import Ranked
from sage.middleware.retrieval.types.documents import Row
from sage.middleware.retrieval.types.search import Search


def reranked(
    search: Search,
    reranker_of: Callable[[str], Reranker],
    rank: Callable[[Search], Ranked],
    fetch: Callable[[list[int]], Mapping[int, Row]],
) -> tuple[Ranked, list[float | None]]:
    """The page of ``search``, with the first ``rerank_depth`` of the whole order put in the reranker's; and the
    reranker's scores (``None`` for results behind that depth).

    ``reranker_of`` finds a reranker by its name, ``rank`` gives a page of the order, ``fetch`` the documents of a page
    that still exist.
    """
    assert search.rerank is not None
    depth = search.rerank_depth
    head = rank(replace(search, offset=0, top_k=depth, rerank=None))
    rows = fetch(head.numbers.tolist())
    present = [index for index, number in enumerate(head.numbers.tolist()) if number in rows]
    texts = [rows[int(head.numbers[index])].text for index in present]
    reranker_scores = reranker_of(search.rerank).rerank(search.query, texts) if texts else []
    order = sorted(range(len(present)), key=lambda index: (-reranker_scores[index], index))
    chosen = order[search.offset : search.offset + search.top_k]
    page = _take(head, [present[index] for index in chosen], [reranker_scores[index] for index in chosen])
    scores: list[float | None] = [reranker_scores[index] for index in chosen]
    missing = search.top_k - len(chosen)
    if missing and len(head.numbers) == depth:
        tail = rank(replace(search, offset=max(search.offset, depth), top_k=missing, rerank=None))
        lowest = min(reranker_scores) if reranker_scores else 0.0
        page = _joined(page, _take(tail, list(range(len(tail.numbers))), [lowest] * len(tail.numbers)))
        scores += [None] * len(tail.numbers)
    return page, scores


def _take(ranked: Ranked, indexes: Sequence[int], scores: Sequence[float]) -> Ranked:
    chosen = np.asarray(indexes, np.int64)
    return Ranked(
        ranked.numbers[chosen],
        np.asarray(scores, np.float64),
        None if ranked.dense is None else ranked.dense[chosen],
        None if ranked.bm25 is None else ranked.bm25[chosen],
        ranked.total,
        None if ranked.explanations is None else [ranked.explanations[index] for index in indexes],
        None if ranked.relevance is None else ranked.relevance[chosen],
        None if ranked.group is None else ranked.group[chosen],
        ranked.warnings,
    )


def _joined(head: Ranked, tail: Ranked) -> Ranked:
    def both(first: Any, second: Any) -> Any:
        return None if first is None or second is None else np.concatenate([first, second])

    explanations = None
    if head.explanations is not None and tail.explanations is not None:
        explanations = head.explanations + tail.explanations
    return Ranked(
        np.concatenate([head.numbers, tail.numbers]),
        np.concatenate([head.scores, tail.scores]),
        both(head.dense, tail.dense),
        both(head.bm25, tail.bm25),
        head.total,
        explanations,
        both(head.relevance, tail.relevance),
        both(head.group, tail.group),
        head.warnings,
    )
