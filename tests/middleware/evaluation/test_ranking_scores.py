"""Scores of rankings against formulas written down another way, as trec_eval defines them, and by hand."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sage.middleware.evaluation.ranking import (
    RANKING_METRICS,
    RankingMetric,
    average_precision,
    hit_rate,
    ndcg,
    precision,
    recall,
    reciprocal_rank,
)

IDS = [f"d{i}" for i in range(8)]
RANKINGS = st.permutations(IDS).flatmap(lambda ids: st.integers(0, len(ids)).map(lambda size: ids[:size]))
GRADES = st.dictionaries(st.sampled_from([*IDS, "gone"]), st.sampled_from([-1.0, 0.0, 1.0, 2.0, 0.5]))


def test_by_hand() -> None:
    ranking, grades = ["x", "a", "b", "y"], {"a": 1.0, "b": 3.0, "c": 1.0, "y": 0.0}
    gained = 1 / math.log2(3) + 3 / math.log2(4)
    best = 3 + 1 / math.log2(3) + 1 / math.log2(4)
    assert ndcg(ranking, grades) == pytest.approx(gained / best)
    assert recall(ranking, grades, 2) == pytest.approx(1 / 3)
    assert precision(ranking, grades, 2) == 0.5
    assert precision(ranking, grades, 10) == pytest.approx(0.2)
    assert reciprocal_rank(ranking, grades) == 0.5
    assert average_precision(ranking, grades) == pytest.approx((1 / 2 + 2 / 3) / 3)
    assert (hit_rate(ranking, grades, 1), hit_rate(ranking, grades, 2)) == (0, 1)


@given(RANKINGS, GRADES, st.integers(1, 9))
def test_against_the_definitions(ranking: list[str], grades: dict[str, float], depth: int) -> None:
    relevant = [document for document, grade in grades.items() if grade > 0]
    hits = [grades.get(document, 0) > 0 for document in ranking[:depth]]
    first = hits.index(True) + 1 if any(hits) else math.inf
    precisions = [sum(hits[: place + 1]) / (place + 1) for place, hit in enumerate(hits) if hit]
    gain = sum(max(grades.get(document, 0), 0) / math.log2(i + 2) for i, document in enumerate(ranking[:depth]))
    best = sum(grade / math.log2(i + 2) for i, grade in enumerate(sorted(grades[d] for d in relevant)[::-1][:depth]))
    assert precision(ranking, grades, depth) == pytest.approx(sum(hits) / depth)
    assert reciprocal_rank(ranking, grades, depth) == pytest.approx(1 / first)
    assert hit_rate(ranking, grades, depth) == float(any(hits))
    assert recall(ranking, grades, depth) == pytest.approx(sum(hits) / len(relevant) if relevant else 0)
    assert average_precision(ranking, grades, depth) == pytest.approx(sum(precisions) / max(1, len(relevant)))
    assert ndcg(ranking, grades, depth) == pytest.approx(gain / best if best else 0)


@given(RANKINGS, GRADES)
def test_the_best_order_is_the_best(ranking: list[str], grades: dict[str, float]) -> None:
    ideal = sorted(ranking, key=lambda document: -max(0.0, grades.get(document, 0.0)))
    for metric in RANKING_METRICS.values():
        assert metric(ideal, grades, 10) >= metric(ranking, grades, 10) - 1e-12
        assert 0 <= metric(ranking, grades, 10) <= 1 + 1e-12


def test_names_of_metrics() -> None:
    assert str(RankingMetric.read("ndcg")) == "ndcg@10"
    assert RankingMetric.read("recall@100") == RankingMetric("recall", 100)
    assert [RankingMetric.read(name) for name in ("ndcg@0", "f1", "ndcg@1001", "ndcg@", "", "ndcg@10@5")] == [None] * 6
