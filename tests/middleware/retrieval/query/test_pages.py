"""Searches as a whole: pages, totals, weights and explanations, by the public door."""

from __future__ import annotations

import math
import random

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sage.middleware.retrieval import Fusion, Mode, VectorStore
from sage.middleware.retrieval.types.search import Search, SearchResult

pytestmark = pytest.mark.slow  # nearly each test starts a gateway, or has several threads

WORDS = ["red", "green", "blue", "apple", "sea", "sky", "wine", "grass"]


@pytest.fixture(scope="module")
def store() -> VectorStore:
    """1,500 documents of a few words; every tenth without a vector."""
    chance = random.Random(7)
    rng = np.random.default_rng(7)
    results = VectorStore(embedder=None)
    documents = [
        {
            "id": f"d{number}",
            "text": " ".join(chance.choices(WORDS, k=chance.randint(1, 6))),
            "metadata": {"n": number, "third": number % 3 == 0},
            "vector": None if number % 10 == 0 else rng.normal(size=8),
        }
        for number in range(1500)
    ]
    results.collection.add(documents)
    results.delete([f"d{number}" for number in range(5, 1500, 50)])
    return results


VECTOR = [1.0, 0.5, -0.3, 0.1, 0.0, 0.9, -1.0, 0.2]


def whole(store: VectorStore, **asked: object) -> list[SearchResult]:
    return store.search(**{"query": "red apple", "vector": VECTOR, "top_k": 1500, **asked})  # type: ignore[arg-type]


@pytest.mark.slow
@given(
    st.sampled_from(list(Mode)),
    st.sampled_from(list(Fusion)),
    st.lists(st.integers(1, 400), min_size=1, max_size=4),
    st.sampled_from([None, {"third": True}, {"n": {"$lt": 40}}]),
)
def test_pages_are_slices_of_one_list(
    store: VectorStore, mode: Mode, fusion: Fusion, sizes: list[int], condition: dict[str, object] | None
) -> None:
    everything = [result.id for result in whole(store, mode=mode, fusion=fusion, filter=condition)]
    assert len(everything) == len(set(everything))
    offset = 0
    for size in sizes:
        page = whole(store, mode=mode, fusion=fusion, filter=condition, offset=offset, top_k=size)
        assert [result.id for result in page] == everything[offset : offset + size]
        offset += size


@pytest.mark.parametrize("fusion", list(Fusion))
def test_scores_never_rise(store: VectorStore, fusion: Fusion) -> None:
    scores = [result.score for result in whole(store, fusion=fusion)]
    assert scores == sorted(scores, reverse=True)
    assert all(math.isfinite(score) for score in scores)


@pytest.mark.parametrize("condition", [None, {"third": True}, {"n": {"$gte": 1490}}])
def test_totals_are_what_a_whole_list_holds(store: VectorStore, condition: dict[str, object] | None) -> None:
    for mode in Mode:
        for offset in (0, 3, 700):
            asked = Search("red apple", vector=np.array(VECTOR, np.float32), mode=mode, filter=condition, offset=offset)
            total = store.collection.search(asked).total
            assert total == len(whole(store, mode=mode, filter=condition)), (mode, offset)


@pytest.mark.parametrize("fusion", list(Fusion))
def test_an_explanation_adds_up_to_the_score(store: VectorStore, fusion: Fusion) -> None:
    for rank, result in enumerate(whole(store, fusion=fusion, explain=True)):
        explanation = result.explanation
        assert explanation is not None
        added = sum(explanation[leg]["weight"] * explanation[leg]["normalised"] for leg in ("dense", "bm25"))
        assert min(added, explanation.get("ceiling", math.inf)) == pytest.approx(result.score)
        assert "ceiling" not in explanation or (rank >= 100 and explanation["ceiling"] < added)
        terms = set(explanation["bm25"]["terms"])
        assert terms == {term for term, word in (("red", "red"), ("appl", "apple")) if word in result.text.split()}
        assert (result.scores or {})["bm25"] == explanation["bm25"]["score"]


def test_scores_of_the_legs_are_those_of_the_legs_alone(store: VectorStore) -> None:
    words = {result.id: result.score for result in whole(store, mode="bm25")}
    near = {result.id: result.score for result in whole(store, mode="dense")}
    for result in whole(store, top_k=200):
        scores = result.scores or {}
        assert scores["bm25"] == (pytest.approx(words[result.id]) if result.id in words else None)
        assert scores["dense"] == (pytest.approx(near[result.id]) if result.id in near else None)


def test_alpha_leads_from_words_to_vectors(store: VectorStore) -> None:
    words = whole(store, mode="bm25", top_k=20)
    near = whole(store, mode="dense", top_k=20)
    assert [r.score for r in whole(store, alpha=0, top_k=1)] == [1.0]
    assert whole(store, alpha=1, top_k=1)[0].id == near[0].id
    assert {r.scores["bm25"] for r in whole(store, alpha=0, top_k=20) if r.scores} <= {
        r.scores["bm25"] for r in words if r.scores
    }


def test_required_and_excluded_words_hold_for_both_legs(store: VectorStore) -> None:
    for result in whole(store, query="+red -apple sea"):
        assert "red" in result.text.split()
        assert "apple" not in result.text.split()
    phrase = whole(store, query='"red apple"')
    assert phrase
    assert all("red apple" in result.text for result in phrase)


def test_without_a_vector_a_hybrid_search_goes_by_words(store: VectorStore) -> None:
    assert [r.id for r in store.search("red apple")] == [r.id for r in store.search("red apple", mode="bm25")]
    assert store.search("zebra") == []


def test_highlights_show_where_it_matched(store: VectorStore) -> None:
    results = store.search("apples", mode="bm25", top_k=1, highlight=True)[0]
    assert results.highlights
    assert "<em>apple</em>" in results.highlights[0]
