"""The dense leg over the segments of a view, against a brute force over all vectors."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from itertools import pairwise
from typing import Any, cast

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from sage.middleware.retrieval.index.view import Segment
from sage.middleware.retrieval.query.dense import DenseLeg
from sage.middleware.retrieval.store.store import DocumentStore
from sage.middleware.retrieval.vectors.exact import Matrix, exact_scores
from sage.middleware.retrieval.vectors.growing import GrowingVectors
from sage.middleware.retrieval.vectors.index import VectorIndex
from sage.middleware.settings.retrieval import Metric

pytestmark = pytest.mark.slow

Mask = NDArray[np.bool_]


class Kept:
    """The vectors of a document store, by number, without its database."""

    def __init__(self, vectors: Matrix, has_vector: Mask) -> None:
        self.matrix, self.has_vector = vectors, has_vector.copy()

    @contextmanager
    def reading(self) -> Iterator[Kept]:
        yield self

    def vectors(self, numbers: NDArray[np.int64]) -> tuple[Matrix, Mask]:
        return self.matrix[numbers], self.has_vector[numbers]


def cut(
    vectors: Matrix, has_vector: Mask, live: Mask, sizes: Sequence[int], kinds: Sequence[str], metric: Metric
) -> list[Segment]:
    """Parts of these sizes; the number of a row is its place."""
    segments, start = [], 0
    for size, kind in zip(sizes, kinds, strict=True):
        rows = slice(start, start + size)
        index: VectorIndex | None = None
        if kind == "growing":
            growing = GrowingVectors(metric)
            for vector, present in zip(vectors[rows], has_vector[rows], strict=True):
                growing.append(vector if present else None)
            index = growing.at(size)
        elif kind != "missing":
            index = VectorIndex.build(vectors[rows], has_vector[rows], metric, 0.98, kind=kind)
        none = cast(Any, None)
        mask = None if live[rows].all() else live[rows]
        segments.append(Segment(np.arange(start, start + size, dtype=np.int64), mask, none, none, index))
        start += size
    return segments


def brute(query: Matrix, vectors: Matrix, metric: Metric, allowed: Mask) -> tuple[list[int], NDArray[np.float64]]:
    rows = np.flatnonzero(allowed)
    scores = exact_scores(query, vectors[rows], metric)
    order = np.argsort(-scores, kind="stable")
    return rows[order].tolist(), scores[order]


@given(st.data())
def test_top_and_scores_are_those_of_a_brute_force_however_parts_are_cut(data: st.DataObject) -> None:
    metric = data.draw(st.sampled_from(list(Metric)))
    sizes = data.draw(st.lists(st.integers(0, 60), min_size=1, max_size=4))
    kinds = [data.draw(st.sampled_from(["flat", "sq8", "growing", "missing"])) for _ in sizes]
    count = sum(sizes)
    chance = np.random.default_rng(data.draw(st.integers(0, 1000)))
    vectors = chance.standard_normal((count, 6)).astype(np.float32)
    has_vector, live, passing = (chance.random(count) < share for share in (0.9, 0.8, 0.7))
    vectors[~has_vector] = 0
    segments = cut(vectors, has_vector, live, sizes, kinds, metric)
    leg = DenseLeg(segments, cast(DocumentStore, Kept(vectors, has_vector)), metric)
    query, k = chance.standard_normal(6).astype(np.float32), data.draw(st.integers(1, 30))
    bounds = np.cumsum([0, *sizes])
    masks = [passing[a:b] & live[a:b] if number % 2 else None for number, (a, b) in enumerate(pairwise(bounds))]
    allowed = has_vector & live
    for number, (a, b) in enumerate(pairwise(bounds)):
        if number % 2:
            allowed[a:b] &= passing[a:b]
    expected, expected_scores = brute(query, vectors, metric, allowed)
    for exact in (False, True):
        rows, scores, total = leg.top(query, k, masks, exact=exact)
        assert total == len(expected)
        assert rows.tolist() == expected[:k]
        assert scores.tolist() == expected_scores[:k].tolist()
    everywhere = leg.scores(query, np.arange(count)[::-1])[::-1]
    assert np.isnan(everywhere).tolist() == (~has_vector).tolist()
    assert everywhere[has_vector].tolist() == exact_scores(query, vectors[has_vector], metric).tolist()


@pytest.fixture(scope="module")
def many() -> Matrix:
    chance = np.random.default_rng(0)
    return (chance.standard_normal((12_000, 20)) @ chance.standard_normal((20, 48))).astype(np.float32)


@pytest.mark.parametrize("kind", ["rabitq", "ivf"])
def test_pages_of_a_large_part_follow_each_other_without_gaps_or_repeats(many: Matrix, kind: str) -> None:
    every = np.ones(len(many), np.bool_)
    segments = cut(many, every, every, [8000, 3000, 1000], [kind, "sq8", "growing"], Metric.COSINE)
    leg = DenseLeg(segments, cast(DocumentStore, Kept(many, every)), Metric.COSINE)
    for query in many[:5] + many[6:11]:
        longest, scores, total = leg.top(query, 600, [None] * 3)
        assert total == len(many)
        assert len(set(longest.tolist())) == 600
        assert scores.tolist() == leg.scores(query, longest).tolist()
        for k in (1, 7, 10, 11, 30, 100, 101, 399, 500):
            assert leg.top(query, k, [None] * 3)[0].tolist() == longest[:k].tolist()
        assert len(set(longest[:100].tolist()) & set(brute(query, many, Metric.COSINE, every)[0][:100])) >= 95
        one_look = leg.top(query, 100, [None] * 3, paged=False)
        assert (np.diff(one_look[1]) <= 0).all()


def test_what_left_the_truth_keeps_the_score_of_its_codes(many: Matrix) -> None:
    every = np.ones(len(many), np.bool_)
    segments = cut(many, every, every, [12_000], ["sq8"], Metric.EUCLIDEAN)
    stored = Kept(many, every)
    leg = DenseLeg(segments, cast(DocumentStore, stored), Metric.EUCLIDEAN)
    before, scores, _ = leg.top(many[3], 10, [None])
    stored.has_vector[before[4]] = False
    after, others, _ = leg.top(many[3], 10, [None])
    assert sorted(after.tolist()) == sorted(before.tolist())
    np.testing.assert_allclose(np.sort(others), np.sort(scores), rtol=0.05)


def test_the_nearest_come_with_the_scores_of_other_rows(many: Matrix) -> None:
    has_vector = np.arange(len(many)) % 7 != 0
    segments = cut(many, has_vector, np.ones(len(many), np.bool_), [len(many)], ["rabitq"], Metric.COSINE)
    leg = DenseLeg(segments, cast(DocumentStore, Kept(many, has_vector)), Metric.COSINE)
    rows, scores, total = leg.top(many[3], 10, [None])
    others = np.array([5000, 7, int(rows[0]), 14, 2], np.int64)
    result = leg.top_and(others, many[3], 10, [None], paged=True)
    assert (result[0].tolist(), result[1].tolist(), result[2]) == (rows.tolist(), scores.tolist(), total)
    assert np.array_equal(result[3], leg.scores(many[3], others), equal_nan=True)
    assert np.isnan(result[3]).tolist() == [False, True, False, True, False]


def test_vectors_of_another_dimension_in_the_truth_are_not_compared(many: Matrix) -> None:
    """All were embedded anew while the view was in use."""
    every = np.ones(len(many), np.bool_)
    segments = cut(many, every, every, [6000, 6000], ["sq8", "missing"], Metric.COSINE)
    leg = DenseLeg(segments, cast(DocumentStore, Kept(many[:, :32], every)), Metric.COSINE)
    rows, scores, total = leg.top(many[3], 10, [None, None])
    assert rows[0] == 3
    assert total == 6000
    assert np.isfinite(scores).all()


def test_a_view_without_parts() -> None:
    leg = DenseLeg([], cast(DocumentStore, Kept(np.empty((0, 3), np.float32), np.empty(0, np.bool_))), Metric.COSINE)
    rows, scores, total = leg.top(np.ones(3, np.float32), 10, [])
    assert (rows.tolist(), scores.tolist(), total) == ([], [], 0)
