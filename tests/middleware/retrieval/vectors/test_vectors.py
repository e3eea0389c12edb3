"""A segment's vectors: every kind against a brute force, with filters, ties, odd numbers and a round trip of arrays."""

from __future__ import annotations

import os
from concurrent.futures import ThreadPoolExecutor
from functools import cache

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from sage.middleware.retrieval.vectors.exact import Matrix, exact_scores
from sage.middleware.retrieval.vectors.growing import GrowingVectors
from sage.middleware.retrieval.vectors.index import VectorIndex
from sage.middleware.settings.retrieval import Metric

pytestmark = pytest.mark.slow

KINDS = ["flat", "sq8", "rabitq", "ivf"]
FULL = bool(os.environ.get("SAGE_TEST_FULL"))


def with_metrics(values: list[str]) -> list[tuple[str, Metric]]:
    """Each value with each metric, or without full counts with one of them, in turn."""
    metrics = list(Metric)
    if FULL:
        return [(value, metric) for value in values for metric in metrics]
    return [(value, metrics[number % len(metrics)]) for number, value in enumerate(values)]


def clustered(count: int, width: int = 64, seed: int = 1, offset: float = 0.0) -> Matrix:
    """Topics in a space of few directions, as embeddings have, with noise in all of them."""
    chance = np.random.default_rng(seed)
    topics = chance.standard_normal((50, 16)) @ chance.standard_normal((16, width))
    own = topics[chance.integers(50, size=count)] + 0.7 * chance.standard_normal((count, 16)) @ chance.standard_normal(
        (16, width)
    )
    return (own + 0.7 * chance.standard_normal((count, width)) + offset).astype(np.float32)


@cache
def built(kind: str, count: int, metric: Metric) -> VectorIndex:
    return VectorIndex.build(clustered(count), None, metric, 0.98, kind=kind)


def nearest(
    query: Matrix, vectors: Matrix, metric: Metric, k: int, allowed: NDArray[np.bool_] | None = None
) -> list[int]:
    """The brute force, ties by place."""
    wide, wide_query = vectors.astype(np.float64), query.astype(np.float64)
    if metric is Metric.EUCLIDEAN:
        scores = -np.linalg.norm(wide - wide_query, axis=1)
    else:
        scores = wide @ wide_query
        if metric is Metric.COSINE:
            lengths = np.linalg.norm(wide, axis=1) * np.linalg.norm(wide_query)
            scores = np.where(lengths > 0, scores / np.where(lengths > 0, lengths, 1), 0)
    order = np.argsort(-scores, kind="stable")
    return [int(row) for row in order if allowed is None or allowed[row]][:k]


def recall(
    index: VectorIndex, vectors: Matrix, metric: Metric, k: int, allowed: NDArray[np.bool_] | None = None
) -> float:
    queries = clustered(20, vectors.shape[1], seed=1) + 0.5 * clustered(20, vectors.shape[1], seed=2)
    hits = wanted = 0
    for query in queries:
        expected = set(nearest(query, vectors, metric, k, allowed))
        ordinals, _ = index.candidates(query, k, allowed)
        assert allowed is None or allowed[ordinals].all()
        hits, wanted = hits + len(expected & set(ordinals.tolist())), wanted + len(expected)
    return hits / wanted


@pytest.mark.parametrize("metric", list(Metric))
@pytest.mark.parametrize("kind", KINDS)
def test_each_kind_reaches_its_recall_in_every_metric(kind: str, metric: Metric) -> None:
    vectors, index = clustered(6000), built(kind, 6000, metric)
    assert index.kind == kind
    assert recall(index, vectors, metric, 10) >= 0.97
    assert recall(index, vectors, metric, 100) >= 0.97


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("share", [0.001, 0.01, 0.1, 0.5, 0.95] if FULL else [0.001, 0.1, 0.95])
def test_filters_of_every_selectivity_keep_recall(kind: str, share: float) -> None:
    vectors, index = clustered(6000), built(kind, 6000, Metric.COSINE)
    chance = np.random.default_rng(3)
    assert recall(index, vectors, Metric.COSINE, 10, chance.random(len(vectors)) < share) >= 0.98
    # all allowed ones lie together, far from most queries
    along = vectors @ vectors[0]
    together = along >= np.quantile(along, 1 - share)
    assert recall(index, vectors, Metric.COSINE, 10, together) >= 0.98


@pytest.mark.parametrize("kind", ["rabitq", "ivf"])
@pytest.mark.parametrize("nearest_kept", [True, False])
def test_a_filter_that_is_correlated_with_the_query_keeps_recall(kind: str, nearest_kept: bool) -> None:
    count = 20_000 if FULL else 8000
    vectors, index = clustered(count), built(kind, count, Metric.COSINE)
    assert index.kind == kind
    likeness = exact_scores(vectors[7], vectors, Metric.COSINE)
    allowed = likeness > np.quantile(likeness, 0.7) if nearest_kept else likeness < np.quantile(likeness, 0.3)
    assert recall(index, vectors, Metric.COSINE, 10, allowed) >= 0.98
    assert recall(index, vectors, Metric.COSINE, 50, allowed) >= 0.98


@pytest.mark.parametrize("kind", KINDS)
def test_fewer_allowed_than_asked_for_are_all_returned(kind: str) -> None:
    vectors, index = clustered(6000), built(kind, 6000, Metric.DOT)
    allowed = np.zeros(6000, np.bool_)
    assert index.search(vectors[0], 10, allowed)[0].tolist() == []
    allowed[[5, 4000, 5999]] = True
    assert sorted(index.search(vectors[0], 10, allowed)[0].tolist()) == [5, 4000, 5999]
    assert index.count(allowed) == 3
    everything, scores = index.search(vectors[0], 10_000, None)
    assert sorted(everything.tolist()) == list(range(6000))
    assert (np.diff(scores) <= 0).all()


@pytest.mark.parametrize("kind", KINDS)
def test_arrays_give_the_same_index_and_the_same_vectors_the_same_arrays(kind: str) -> None:
    vectors, present = clustered(6000), np.ones(6000, np.bool_)
    present[::7] = False
    index = VectorIndex.build(vectors, present, Metric.COSINE, 0.98, kind=kind)
    again = VectorIndex.build(vectors, present, Metric.COSINE, 0.98, kind=kind)
    arrays = index.arrays()
    assert {name: array.tobytes() for name, array in arrays.items()} == {
        name: array.tobytes() for name, array in again.arrays().items()
    }
    for array in arrays.values():
        array.setflags(write=False)  # as a mapped file is
    opened = VectorIndex.from_arrays(arrays)
    assert (opened.kind, opened.size) == (kind, 6000)
    assert opened.present is not None
    assert (opened.present == present).all()
    for query in clustered(5, seed=4):
        for k, allowed in ((10, None), (100, present & (np.arange(6000) % 2 == 0))):
            ordinals, scores = index.search(query, k, allowed)
            other, other_scores = opened.search(query, k, allowed)
            assert ordinals.tolist() == other.tolist()
            assert scores.tolist() == other_scores.tolist()
            assert present[ordinals].all()
            np.testing.assert_allclose(opened.scores(query, ordinals), scores, rtol=1e-5, atol=1e-6)
    assert np.isnan(opened.scores(vectors[1], np.array([0, 7]))).all()


@pytest.mark.parametrize(("kind", "metric"), with_metrics(KINDS))
def test_of_equal_vectors_the_oldest_come_first(kind: str, metric: Metric) -> None:
    vectors = np.tile(np.linspace(1, 2, 24, dtype=np.float32), (5000, 1))
    vectors[4000:4500] *= -1
    index = VectorIndex.build(vectors, None, metric, 0.98, kind=kind)
    ordinals, scores = index.search(vectors[0], 10, None)
    assert ordinals.tolist() == list(range(10))
    assert len(set(scores.tolist())) == 1


@pytest.mark.parametrize("metric", list(Metric))
@pytest.mark.parametrize("count", [1, 2, 5, 40, 300])
@pytest.mark.parametrize("kind", KINDS)
def test_few_vectors_work(kind: str, count: int, metric: Metric, capfd: pytest.CaptureFixture[str]) -> None:
    vectors = clustered(count, 8)
    index = VectorIndex.build(vectors, None, metric, 0.98, kind=kind)
    for query in vectors[:5]:
        assert set(nearest(query, vectors, metric, 3)) <= set(index.candidates(query, 3, None)[0].tolist())
    assert capfd.readouterr().err == ""


@pytest.mark.parametrize("width", [1, 2, 3, 7, 65, 4096, 8192])
def test_every_dimension(width: int) -> None:
    vectors = np.random.default_rng(0).standard_normal((60, width)).astype(np.float32)
    for kind in KINDS:
        index = VectorIndex.build(vectors, None, Metric.EUCLIDEAN, 0.98, kind=kind)
        for query in vectors[:3]:
            assert set(nearest(query, vectors, Metric.EUCLIDEAN, 3)) <= set(
                index.candidates(query, 3, None)[0].tolist()
            )


def test_zeros_score_zero_by_cosine() -> None:
    vectors = np.array([[-1, 0], [0, 0], [1, 0], [0, 0]], np.float32)
    index = VectorIndex.build(vectors, None, Metric.COSINE, 0.98)
    ordinals, scores = index.search(np.array([2, 0], np.float32), 4, None)
    assert ordinals.tolist() == [2, 1, 3, 0]
    assert scores.tolist() == [1, 0, 0, -1]
    ordinals, scores = index.search(np.zeros(2, np.float32), 3, np.array([False, True, True, True]))
    assert (ordinals.tolist(), scores.tolist()) == ([1, 2, 3], [0, 0, 0])


@pytest.mark.parametrize(
    ("trouble", "metric"), with_metrics(["heavy tails", "a common offset", "one giant", "many norms"])
)
def test_difficult_vectors_get_a_kind_that_keeps_recall(trouble: str, metric: Metric) -> None:
    vectors = clustered(6000, 32, offset=100.0 if trouble == "a common offset" else 0.0)
    chance = np.random.default_rng(5)
    if trouble == "heavy tails":
        vectors *= chance.standard_cauchy(vectors.shape).astype(np.float32)
    elif trouble == "one giant":
        vectors[17] *= 1e6
    elif trouble == "many norms":
        vectors *= np.exp(2 * chance.standard_normal((len(vectors), 1))).astype(np.float32)
    index = VectorIndex.build(vectors, None, metric, 0.98, kind="ivf")
    hits = 0
    for row in range(100, 130):
        query = vectors[row] + (vectors[row + 1] - vectors[row + 2]) / 2
        expected = nearest(query, vectors, metric, 10)
        ordinals = index.candidates(query, 10, None)[0]
        threshold = exact_scores(query, vectors[expected], metric)[-1]
        hits += min(
            10, int((exact_scores(query, vectors[ordinals], metric) >= threshold - abs(threshold) * 1e-6).sum())
        )
    assert hits / 300 >= 0.97


@pytest.mark.parametrize("scale", [1e-30, 1e-20, 1e20, 3e37])
@pytest.mark.parametrize("metric", list(Metric))
def test_the_whole_range_of_float32_works(metric: Metric, scale: float) -> None:
    vectors = (clustered(500, 8) / 20 * scale).astype(np.float32)
    index = VectorIndex.build(vectors, None, metric, 0.98, kind="ivf")
    assert index.kind == "flat"
    if metric is Metric.COSINE:
        for query in vectors[:5]:
            ordinals, scores = index.search(query, 5, None)
            assert ordinals.tolist() == nearest(query / np.float32(scale), vectors / np.float32(scale), metric, 5)
            assert np.isfinite(scores).all()


def test_an_index_without_vectors_finds_nothing() -> None:
    for index in (
        VectorIndex.build(np.zeros((3, 4), np.float32), np.zeros(3, np.bool_), Metric.COSINE, 0.98),
        VectorIndex.build(np.empty((0, 4), np.float32), None, Metric.COSINE, 0.98),
        GrowingVectors(Metric.COSINE).at(0),
    ):
        opened = VectorIndex.from_arrays(index.arrays())
        assert (opened.kind, opened.size, opened.count(None)) == ("none", index.size, 0)
        assert opened.search(np.ones(4, np.float32), 5, None)[0].tolist() == []
        assert opened.present is not None
        assert not opened.present.any()
        assert np.isnan(opened.scores(np.ones(4, np.float32), np.arange(index.size))).all()


def test_the_kind_follows_from_the_number() -> None:
    vectors = clustered(70_000, 16)
    kinds = [VectorIndex.build(vectors[:n], None, Metric.COSINE, 0.9).kind for n in (4000, 4001, 20_000, 70_000)]
    assert kinds == ["flat", "sq8", "rabitq", "ivf"]


def test_an_abandoned_build_ends_at_its_next_checkpoint() -> None:
    class Unwanted(Exception):
        pass

    def checkpoint() -> None:
        raise Unwanted

    with pytest.raises(Unwanted):
        VectorIndex.build(clustered(5000), None, Metric.COSINE, 0.98, checkpoint=checkpoint)


@given(
    st.lists(st.one_of(st.none(), st.lists(st.integers(-3, 3), min_size=3, max_size=3)), max_size=200),
    st.lists(st.integers(-3, 3), min_size=3, max_size=3),
    st.sampled_from(list(Metric)),
    st.integers(1, 20),
)
def test_growing_vectors_are_a_fixed_view_that_answers_as_a_brute_force(
    given_vectors: list[list[int] | None], query: list[int], metric: Metric, k: int
) -> None:
    growing = GrowingVectors(metric)
    views: list[VectorIndex] = []
    for vector in given_vectors:
        growing.append(None if vector is None else np.array(vector, np.float32))
        views.append(growing.at(len(views) + 1))
    question = np.array(query, np.float32)
    for size, view in enumerate(views, 1):
        if size % 17 and size != len(views):
            continue
        with_vector = [row for row in range(size) if given_vectors[row] is not None]
        assert (view.size, view.count(None)) == (size, len(with_vector))
        matrix = np.array([given_vectors[row] for row in with_vector], np.float32).reshape(len(with_vector), 3)
        ordinals, scores = view.search(question, k, None)
        expected = exact_scores(question, matrix, metric)
        assert len(ordinals) == min(k, len(with_vector))
        np.testing.assert_allclose(scores, np.sort(expected)[::-1][:k], atol=1e-6)
        assert set(ordinals.tolist()) <= set(with_vector)
        assert all(a < b for a, b, s, t in zip(ordinals, ordinals[1:], scores, scores[1:], strict=False) if s == t)


@pytest.mark.parametrize("kind", KINDS)
def test_many_threads_get_the_answers_of_one(kind: str) -> None:
    vectors, index = clustered(6000), built(kind, 6000, Metric.COSINE)
    some = np.arange(6000) % 3 == 0
    questions = [(query, k, allowed) for query in vectors[:40] for k in (10, 100) for allowed in (None, some)]
    alone = [index.search(*question)[0].tolist() for question in questions]
    with ThreadPoolExecutor(8) as threads:
        together = threads.map(lambda question: index.search(*question)[0].tolist(), questions)
        assert list(together) == alone


def test_exact_scores_do_not_depend_on_neighbours() -> None:
    vectors, query = clustered(999, 385), clustered(1, 385, seed=9)[0]
    for metric in Metric:
        together = exact_scores(query, vectors, metric)
        alone = np.concatenate([exact_scores(query, vectors[row : row + 1], metric) for row in range(999)])
        assert together.tolist() == alone.tolist()
        assert together.argmax() == nearest(query, vectors, metric, 1)[0]
