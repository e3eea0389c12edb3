"""A threshold on relevance: the same for every question, mode, metric and number of shards."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from sage.errors import InvalidRequest
from sage.middleware.retrieval import VectorStore
from sage.middleware.retrieval.query.relevance import RelevanceScale
from sage.middleware.retrieval.types.search import Search
from sage.middleware.settings.retrieval import Metric
from sage.service import VDBService

TEXTS = {"fox": "the red fox", "owl": "an owl at night", "both": "fox and owl", "tax": "the tax office"}
AXES = ("fox", "owl", "tax")


def by_animal(texts: list[str]) -> NDArray[np.float32]:
    """Unit vectors: one axis a word, and one for all other texts."""
    rows = np.array([[*(float(axis in text) for axis in AXES), 0.0] for text in texts], np.float32)
    rows[~rows.any(axis=1), 3] = 1.0
    return rows / np.linalg.norm(rows, axis=1, keepdims=True)


@pytest.fixture
def store() -> Iterator[VectorStore]:
    with VectorStore(embedder=by_animal) as store:
        store.add_documents([*TEXTS.values()], ids=[*TEXTS])
        yield store


def relevances(results: Sequence[Any]) -> dict[str, float]:
    return {result.id: result.scores["relevance"] for result in results}


def test_nothing_in_common_is_0_and_the_same_is_1(store: VectorStore) -> None:
    assert relevances(store.search("the red fox", score_threshold=0)) == pytest.approx(
        {"fox": 1.0, "both": 2 / 3 * 0.5**0.5 + 1 / 3 * share(store, "the red fox", "both"), "owl": 0.0, "tax": 0.0}
    )
    assert [result.id for result in store.search("the red fox", score_threshold=0.9)] == ["fox"]
    assert store.search("quantum mechanics", score_threshold=0.01) == []
    assert len(store.search("quantum mechanics")) == 4


def share(store: VectorStore, query: str, id: str) -> float:
    result = next(result for result in store.search(query, explain=True) if result.id == id)
    assert result.explanation is not None
    return float(sum(result.explanation["bm25"]["terms"].values()))


@pytest.mark.parametrize("fusion", ["minmax", "rrf", "dbsf", "zscore"])
def test_no_fusion_changes_it(store: VectorStore, fusion: str) -> None:
    plain = relevances(store.search("fox", score_threshold=0.2))
    assert set(plain) == {"fox", "both"}
    assert relevances(store.search("fox", score_threshold=0.2, fusion=fusion)) == pytest.approx(plain)


def test_each_mode_goes_by_its_own_legs(store: VectorStore) -> None:
    dense = relevances(store.search("fox", mode="dense", score_threshold=0.1))
    assert dense == pytest.approx({"fox": 1.0, "both": 0.5**0.5})
    words = relevances(store.search("red fox", mode="bm25", score_threshold=0.1))
    assert words["fox"] == pytest.approx(1)
    assert 0.1 < words["both"] < 0.5


def test_order_and_scores_are_those_without_a_threshold_and_pages_have_no_gaps(store: VectorStore) -> None:
    store.add_documents([f"fox {number}" for number in range(120)], ids=[f"f{number}" for number in range(120)])
    every = [(r.id, r.score) for r in store.search("fox 7 tax", top_k=200)]
    passing = [(r.id, r.score) for r in store.search("fox 7 tax", top_k=200, score_threshold=0.4)]
    assert len(passing) > 60
    assert [entry for entry in every if entry in passing] == passing
    paged = [(r.id, r.score) for start in range(0, 200, 7)
             for r in store.search("fox 7 tax", top_k=7, offset=start, score_threshold=0.4)]  # fmt: skip
    assert paged == passing


def test_one_result_is_left_out_only_for_itself(store: VectorStore) -> None:
    (first, *_) = store.search("red tax owl", alpha=0.0)
    assert len(store.search("red tax owl", alpha=0.0, top_k=1, score_threshold=0.0)) == 1
    worst = min(relevances(store.search("red tax owl", alpha=0.0, score_threshold=0.0)).values())
    (result,) = store.search("red tax owl", alpha=0.0, top_k=1, score_threshold=worst + 1e-9)
    assert result.scores is not None
    assert result.scores["relevance"] > worst
    assert first.scores is not None
    assert "relevance" not in first.scores


def test_results_without_a_threshold_are_as_they_were(store: VectorStore) -> None:
    assert all(result.scores is not None and "relevance" not in result.scores for result in store.search("fox"))


@pytest.mark.parametrize("metric", ["cosine", "dot", "euclidean"])
def test_vectors_of_length_1_count_alike_under_every_metric(metric: str) -> None:
    with VectorStore(embedder=None, metric=metric) as store:
        store.add_documents(["a", "b", "c"], ids=["same", "near", "far"], vectors=[[1, 0], [0.8, 0.6], [0, 1]])
        found = relevances(store.search(vector=[1, 0], mode="dense", score_threshold=0.0))
        assert found == pytest.approx({"same": 1.0, "near": 0.8, "far": 0.0}, abs=1e-6)
        ranged = relevances(store.search(vector=[1, 0], mode="dense", score_threshold=0.1, cosine_range=(0.6, 0.9)))
        assert ranged == pytest.approx({"same": 1.0, "near": 2 / 3}, abs=1e-6)


def test_the_cosines_of_our_own_embedders_are_calibrated() -> None:
    scale = RelevanceScale.of(Metric.COSINE, "local/multilingual-e5-small-q4", Search())
    assert scale.of_meaning(np.array([0.7, 0.75, 0.835, 0.95])) == pytest.approx([0, 0, 0.5, 1])


def test_shards_answer_as_one_store(tmp_path: Path, store: VectorStore) -> None:
    with VDBService(persist_directory=str(tmp_path), shards=2, embedder=by_animal) as vdb:
        vdb.add([{"id": id, "text": text} for id, text in TEXTS.items()])
        for query, mode in (("the red fox", "hybrid"), ("red fox", "bm25"), ("fox", "dense")):
            found = vdb.search(text=query, mode=mode, score_threshold=0.1)
            expected = store.search(query, mode=mode, score_threshold=0.1)
            assert [result["id"] for result in found] == [result.id for result in expected]
            assert [result["scores"]["relevance"] for result in found] == pytest.approx(
                [*relevances(expected).values()]
            )


@pytest.mark.parametrize("threshold", [-0.1, 1.1, float("nan"), True, "0.5"])
def test_a_threshold_is_0_to_1(store: VectorStore, threshold: Any) -> None:
    with pytest.raises(InvalidRequest, match="score_threshold"):
        store.search("fox", score_threshold=threshold)


@pytest.mark.parametrize("cosines", [(0.5, 0.5), (0.9, 0.1), (-2, 1), (0.1,), "ab"])
def test_a_range_of_cosines_is_two_of_them(store: VectorStore, cosines: Any) -> None:
    with pytest.raises(InvalidRequest, match="cosine_range"):
        store.search("fox", score_threshold=0.5, cosine_range=cosines)
