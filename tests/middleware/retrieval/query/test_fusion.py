"""Fusion: each kind against a slow reference, and what must hold of all of them."""

from __future__ import annotations

import math
import statistics

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

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


@given(st.floats(0, 1), st.floats(0, 1))
def test_weights_add_up(dense: float, coverage: float) -> None:
    assert sum(weights(None, dense, coverage)) == pytest.approx(1)


def test_weights_follow_what_the_query_allows() -> None:
    assert weights(0.3, 0.0, 0.0) == (0.3, 0.7)  # as it was asked for
    assert weights(None, 1.0, 1.0) == (0.5, 0.5)
    assert weights(None, 0.0, 1.0) == (0.0, 1.0)  # a language that the embedder does not speak
    dense, words = weights(None, 1.0, 0.05)  # hardly a word of it is there
    assert dense > 0.8 > words
