"""Fusion: each kind against a slow reference, and what must hold of all of them."""

from __future__ import annotations

import math
import statistics

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sage.middleware.retrieval import VectorStore
from sage.middleware.retrieval.query.fusion import Scale, fit, reciprocal_ranks, weights
from sage.middleware.retrieval.types.search import Fusion

SCORES = st.lists(
    st.one_of(st.just(math.nan), st.sampled_from([0.0, 1.0, -0.5]), st.floats(-100, 100)), min_size=1, max_size=12
)
LINEAR = [kind for kind in Fusion if kind is not Fusion.RRF]


def reference(kind: Fusion, scores: list[float], floor: float | None) -> list[float]:
    with_score = [score for score in scores if not math.isnan(score)]
    if not with_score:
        return [0.0] * len(scores)
    lowest = min(with_score) if floor is None else min(floor, *with_score)
    complete = [lowest if math.isnan(score) else score for score in scores]
    mean, deviation = statistics.fmean(complete), statistics.pstdev(complete)
    low, high = min(complete), max(complete)
    if high - low <= 1e-12 * max(abs(low), abs(high)):
        most = 0.0 if kind is Fusion.ZSCORE else 1.0
        return [0.0 if math.isnan(score) else most for score in scores]
    if kind is Fusion.MINMAX:
        return [(score - low) / (high - low) for score in complete]
    if kind is Fusion.ZSCORE:
        return [(score - mean) / deviation for score in complete]
    return [min(1.0, max(0.0, (score - mean + 3 * deviation) / (6 * deviation))) for score in complete]


@given(st.sampled_from(LINEAR), SCORES, st.sampled_from([None, 0.0]))
def test_each_kind_is_its_formula(kind: Fusion, scores: list[float], floor: float | None) -> None:
    spread = [score for score in scores if not math.isnan(score)] + ([0.0] if floor == 0.0 else [])
    tiny = bool(spread) and 0 < max(spread) - min(spread) < 1e-6  # where rounding is all there is
    scaled = fit(kind, np.array(scores), floor=floor)(np.array(scores))
    assert np.isfinite(scaled).all()
    if not tiny:
        assert scaled == pytest.approx(reference(kind, scores, floor), abs=1e-6)
    if kind is not Fusion.ZSCORE:
        assert (scaled >= -1e-9).all()
        assert (scaled <= 1 + 1e-9).all()


@given(st.sampled_from(LINEAR), SCORES)
def test_a_higher_score_is_never_worth_less(kind: Fusion, scores: list[float]) -> None:
    given_scores = np.array(scores)
    scaled = fit(kind, given_scores, floor=0.0)(given_scores)
    with_score = [index for index, score in enumerate(scores) if not math.isnan(score)]
    for first in with_score:
        for second in with_score:
            if scores[first] > scores[second]:
                assert scaled[first] >= scaled[second]


def test_equal_scores_do_not_divide_by_zero() -> None:
    scores = np.array([3.0, 3.0, math.nan])
    assert fit(Fusion.MINMAX, scores)(scores).tolist() == [1.0, 1.0, 0.0]
    assert fit(Fusion.MINMAX, np.full(2, math.nan))(np.full(2, math.nan)).tolist() == [0.0, 0.0]
    assert isinstance(fit(Fusion.DBSF, scores), Scale)


def test_a_word_that_matches_is_worth_more_than_none_though_its_score_is_negative() -> None:
    scores = np.array([-0.2, math.nan, -0.1])
    scaled = fit(Fusion.MINMAX, scores)(scores)
    assert scaled[2] > scaled[0] >= scaled[1]


def test_reciprocal_ranks_are_those_of_the_paper() -> None:
    scores = np.array([0.5, math.nan, 0.9, 0.5])
    scaled = reciprocal_ranks(scores, np.array([7, 1, 9, 3]))
    assert scaled == pytest.approx([61 / 63, 0.0, 1.0, 61 / 62])  # equal ones by row
    assert reciprocal_ranks(scores, np.array([7, 1, 9, 3]), 10)[2] == pytest.approx(61 / 71)


@given(st.floats(0, 1), st.floats(0, 1), st.floats(0, 1))
def test_weights_add_up(dense: float, coverage: float, known: float) -> None:
    found, unknown = weights(None, dense, coverage, 1.0), weights(None, dense, coverage, known)
    assert [sum(found), sum(unknown)] == pytest.approx([1, 1])
    assert unknown[1] <= found[1]


def test_weights_follow_what_the_query_allows() -> None:
    assert weights(0.3, 0.0, 0.0, 0.0) == (0.3, 0.7)  # as it was asked for
    assert weights(None, 1.0, 1.0, 1.0) == (0.5, 0.5)
    assert weights(None, 0.0, 1.0, 1.0) == (0.0, 1.0)  # a language that the embedder does not speak
    dense, words = weights(None, 1.0, 0.05, 1.0)  # hardly a word of it is there
    assert dense > 0.8 > words
    assert weights(None, 1.0, 0.25, 0.8) == (0.5, 0.5)
    assert weights(None, 1.0, 0.25, 0.5)[1] == pytest.approx((0.25 / 0.4) / (1 + 0.25 / 0.4))  # mostly unknown words
    assert weights(None, 1.0, 0.4, 0.0) == (0.5, 0.5)


def test_words_that_the_collection_mostly_does_not_know_weigh_less() -> None:
    """An English question to Chinese texts, of which one has an English name."""

    def weight_of_words(question: str) -> float:
        (result,) = store.search(question, 1, explain=True)
        assert result.explanation is not None
        return float(result.explanation["bm25"]["weight"])

    with VectorStore(embedder=lambda texts: np.ones((len(texts), 2)), embedder_name="ones") as store:
        store.add_documents([f"杭州的茶园{number}号" for number in range(30)] + ["Longjing 是杭州的绿茶"])
        assert weight_of_words("杭州的绿茶") == 0.5
        assert weight_of_words("Longjing") == 0.5
        mostly_unknown = weight_of_words("Longjing green tea plantation")
        assert 0.3 < mostly_unknown < 0.45
        store.add_documents(["a green plantation of tea"])
        assert weight_of_words("Longjing green tea plantation") == 0.5  # now it knows all of them
