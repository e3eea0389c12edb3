"""The report of an evaluation: means, percentiles, and differences with their intervals."""

from __future__ import annotations

import math
import random
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sage.middleware.evaluation.report import EvaluationReport
from sage.middleware.evaluation.statistics import paired_interval, percentile


def line(system: int, question: str, f1: float | None, latency: float = 10.0, **extra: Any) -> dict[str, Any]:
    return {"system": system, "question_id": question, "scores": {"f1": f1}, "latency_ms": latency, **extra}


def test_a_report_by_hand() -> None:
    report = EvaluationReport([{"model": "a"}, {"model": "b"}], [{"collection": "c"}], seed=1)
    for one in (
        line(0, "1", 1.0, 10, usage={"prompt_tokens": 3, "total_tokens": 5}),
        line(0, "2", 0.0, 30, usage={"prompt_tokens": 4, "total_tokens": 4}, cost=0.1),
        line(0, "3", None, 20),
        line(1, "2", 0.5, 1, cost=0.1),
        line(1, "1", 1.0, 3, cost=0.2),
        {"system": 1, "question_id": "3", "error": {"message": "no", "code": "x"}},
        {"system": 2, "question_id": "1", "scores": {"ndcg@10": 0.25}, "latency_ms": 5},
        {"system": 9, "question_id": "1", "scores": {"f1": 1.0}},
    ):
        report.add(one)
    made = report.as_json()
    first, second = made["answers"]
    assert first["scores"] == {"f1": {"mean": 0.5, "count": 2, "missing": 1}}
    assert (first["model"], first["count"], first["failed"], first["seconds"]) == ("a", 3, 0, 0.06)
    assert first["latency_ms"] == {"p50": 20, "p95": 29}
    assert first["usage"] == {"prompt_tokens": 7, "total_tokens": 9}
    assert (first["cost"], first["priced"]) == (0.1, False)
    assert (second["cost"], second["priced"]) == (0.3, True)
    assert (second["count"], second["failed"], second["scores"]["f1"]["mean"]) == (3, 1, 0.75)
    assert made["searches"][0]["scores"] == {"ndcg@10": {"mean": 0.25, "count": 1, "missing": 0}}
    (comparison,) = made["comparisons"]
    assert (comparison["metric"], comparison["difference"], comparison["count"]) == ("f1", 0.25, 2)
    assert (comparison["baseline"], comparison["system"]) == ({"model": "a"}, {"model": "b"})
    assert (comparison["low"], comparison["high"]) == (0.0, 0.5)


def test_no_line_is_a_report_too() -> None:
    made = EvaluationReport([{"model": "a"}], [], seed=1).as_json()
    assert made["answers"][0]["latency_ms"] == {"p50": None, "p95": None}
    assert made["answers"][0]["scores"] == {}


def test_an_interval_is_the_same_again_and_near_the_normal_one() -> None:
    source = random.Random(5)
    values = [source.gauss(0.2, 1) for _ in range(400)]
    interval = paired_interval(values, seed=3)
    assert interval == paired_interval(values, seed=3)
    assert interval != paired_interval(values, seed=4)
    centre = sum(values) / len(values)
    deviation = math.sqrt(sum((value - centre) ** 2 for value in values) / (len(values) - 1))
    assert interval.mean == pytest.approx(centre)
    assert interval.low == pytest.approx(centre - 1.96 * deviation / 20, abs=0.02)
    assert interval.high == pytest.approx(centre + 1.96 * deviation / 20, abs=0.02)


def test_of_very_many_the_interval_is_the_normal_one() -> None:
    interval = paired_interval([0.0, 1.0] * 5000)
    assert (interval.mean, interval.low) == (0.5, pytest.approx(0.5 - 1.96 * 0.5 / 100, abs=1e-4))
    assert (paired_interval([0.3]).low, paired_interval([0.3]).mean) == (None, 0.3)


@given(st.lists(st.floats(-1e6, 1e6), min_size=1, max_size=20), st.floats(0, 1))
def test_percentiles_are_those_of_numpy(values: list[float], share: float) -> None:
    import numpy as np

    assert percentile(values, share) == pytest.approx(float(np.quantile(values, share)), abs=1e-6)
