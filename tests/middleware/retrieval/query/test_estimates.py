"""A hybrid page for which few vectors are read is the page for which all are."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, cast

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from sage.middleware.retrieval.index.view import Segment
from sage.middleware.retrieval.keywords.postings import KeywordIndex, Mask
from sage.middleware.retrieval.keywords.search import KeywordLeg
from sage.middleware.retrieval.query.dense import DenseLeg
from sage.middleware.retrieval.query.estimates import Estimates
from sage.middleware.retrieval.query.hybrid import Legs, RankedPage, fused
from sage.middleware.retrieval.store.store import DocumentStore
from sage.middleware.retrieval.text.query_syntax import KeywordQuery
from sage.middleware.retrieval.types.search import Fusion, Search
from sage.middleware.retrieval.vectors.exact import Matrix
from sage.middleware.retrieval.vectors.index import VectorIndex
from sage.middleware.settings.retrieval import KeywordOptions, Metric

pytestmark = pytest.mark.slow  # builds indexes


class CountedVectors:
    """The vectors of a document store, by number, and how many were read."""

    def __init__(self, vectors: Matrix, has_vector: Mask) -> None:
        self._vectors, self._has_vector, self.read = vectors, has_vector, 0

    @contextmanager
    def reading(self) -> Iterator[CountedVectors]:
        yield self

    def vectors(self, numbers: NDArray[np.int64]) -> tuple[Matrix, Mask]:
        self.read += len(numbers)
        return self._vectors[numbers], self._has_vector[numbers]


class WithoutEstimates(DenseLeg):
    """Reads all vectors."""

    def estimates(self, others: Any, vector: Matrix, k: int, allowed: Sequence[Mask | None]) -> Estimates | None:
        return None


class Corpus:
    """Documents of a few words, with vectors in segments of these sizes and kinds."""

    def __init__(self, seed: int, sizes: Sequence[int], kinds: Sequence[str], metric: Metric, width: int) -> None:
        chance, count = np.random.default_rng(seed), sum(sizes)
        self.metric, self.chance = metric, chance
        self.vectors = (chance.standard_normal((count, width)) + 0.5).astype(np.float32)
        self.vectors[: count // 10] = self.vectors[-1]  # equal ones
        self.has_vector = chance.random(count) < 0.95
        words = [f"w{word}" for word in range(30)]
        documents = [chance.choice(words, 6).tolist() for _ in range(count)]
        self.segments, start = [], 0
        for size, kind in zip(sizes, kinds, strict=True):
            rows = slice(start, start + size)
            own, present = self.vectors[rows], self.has_vector[rows]
            index = VectorIndex.build(
                own, present, metric, 0.5, kind=kind.removeprefix("mapped "), mapped=kind.startswith("mapped")
            )
            keywords = KeywordIndex.build(documents[rows])
            numbers = np.arange(start, start + size, dtype=np.int64)
            self.segments.append(Segment(numbers, None, keywords, cast(Any, None), index))
            start += size

    def page(self, kind: type[DenseLeg], query: tuple[str, ...], vector: Matrix, search: Search) -> tuple[Any, int]:
        """The page, and how many vectors were read."""
        store = CountedVectors(self.vectors, self.has_vector)
        dense = kind(self.segments, cast(DocumentStore, store), self.metric)
        keywords = KeywordLeg([(segment.keywords, None) for segment in self.segments], KeywordOptions())
        legs = Legs(keywords, dense, KeywordQuery(query), vector, [None] * len(self.segments), False)
        return shown(fused(legs, search, 1.0, lambda: None)), store.read


def shown(page: RankedPage) -> Any:
    assert page.dense is not None
    assert page.bm25 is not None
    columns = [
        page.rows.tolist(),
        page.scores.tolist(),
        page.dense.astype(str).tolist(),
        page.bm25.astype(str).tolist(),
    ]
    return columns, page.total, page.explanations


@given(st.data())
def test_the_page_is_the_same_to_the_last_digit(data: st.DataObject) -> None:
    metric = data.draw(st.sampled_from(list(Metric)))
    sizes = data.draw(st.lists(st.integers(1, 150), min_size=1, max_size=3))
    kinds = [data.draw(st.sampled_from(["flat", "sq8", "sq8", "mapped sq8"])) for _ in sizes]
    corpus = Corpus(data.draw(st.integers(0, 10_000)), sizes, kinds, metric, data.draw(st.sampled_from([2, 7, 24])))
    words = tuple(f"w{data.draw(st.integers(0, 32))}" for _ in range(data.draw(st.integers(1, 3))))
    search = Search(
        top_k=data.draw(st.integers(1, 60)),
        offset=data.draw(st.sampled_from([0, 0, 7])),
        fusion=data.draw(st.sampled_from([Fusion.MINMAX, Fusion.MINMAX, Fusion.ZSCORE])),
        alpha=data.draw(st.sampled_from([None, None, 0.0, 0.3, 1.0])),
        explain=True,
    )
    vector = corpus.vectors[0] + corpus.chance.standard_normal(corpus.vectors.shape[1]).astype(np.float32)
    expected, _ = corpus.page(WithoutEstimates, words, vector, search)
    assert corpus.page(DenseLeg, words, vector, search)[0] == expected


@pytest.mark.parametrize("metric", [Metric.COSINE, Metric.DOT])
def test_few_vectors_are_read(metric: Metric) -> None:
    corpus = Corpus(1, [3000], ["sq8"], metric, 64)
    reads, all_reads = 0, 0
    for number in range(20):
        words, vector = (f"w{number}", "w29"), corpus.vectors[-number - 2] * np.float32(1.5)
        page, read = corpus.page(DenseLeg, words, vector, Search())
        expected, read_all = corpus.page(WithoutEstimates, words, vector, Search())
        assert page == expected
        reads, all_reads = reads + read, all_reads + read_all
    assert reads < all_reads / 2


def test_mapped_vectors_are_not_read_from_the_store() -> None:
    corpora = [Corpus(1, [3000], [kind], Metric.COSINE, 64) for kind in ("sq8", "mapped sq8")]
    for number in range(5):
        words, vector = (f"w{number}", "w29"), corpora[0].vectors[-number - 2] * np.float32(1.5)
        (expected, _), (page, read) = (each.page(DenseLeg, words, vector, Search()) for each in corpora)
        assert (page, read) == (expected, 0)


def test_codes_of_older_files_have_no_bounds() -> None:
    corpus = Corpus(2, [500], ["sq8"], Metric.COSINE, 16)
    index = corpus.segments[0].vectors
    assert index is not None
    assert index.has_errors
    arrays = index.arrays()
    head = arrays.pop("residuals") is None, arrays["head"].tobytes()
    without = np.frombuffer(head[1].split(b',"residual"')[0] + b"}", np.uint8)
    older = VectorIndex.from_arrays({**arrays, "head": without})
    assert not older.has_errors
    ordinals = np.array([3, 99])
    assert older.scores(corpus.vectors[5], ordinals).tolist() == index.scores(corpus.vectors[5], ordinals).tolist()
