"""A filter that lets few documents through: they are scored directly, with the scores of every other search."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

from sage.middleware.retrieval import VectorStore

WORDS = [f"word{number}" for number in range(30)]


@pytest.fixture(scope="module")
def store() -> Iterator[VectorStore]:
    rng = np.random.default_rng(3)
    with VectorStore(embedder=None) as store:
        store.add_documents(
            [" ".join(rng.choice(WORDS, 6)) for _ in range(600)],
            ids=[f"d{number}" for number in range(600)],
            vectors=rng.standard_normal((600, 16)).astype(np.float32),
            metadatas=[{"block": number // 100, "half": number // 300} for number in range(600)],
        )
        yield store


def by_id(results: list[Any]) -> dict[str, Any]:
    return {result.id: result.scores for result in results}


@pytest.mark.parametrize("mode", ["hybrid", "dense", "bm25"])
def test_scores_are_those_of_a_search_among_many(store: VectorStore, mode: str) -> None:
    vector = np.random.default_rng(8).standard_normal(16).astype(np.float32)
    options: dict[str, Any] = {"vector": vector, "mode": mode, "exact": True}
    many = by_id(store.search("word1 word2 word3", top_k=300, filter={"half": 0}, **options))
    few = store.search("word1 word2 word3", top_k=100, filter={"block": 1}, **options)
    assert {result.id for result in few} == {id for id in many if 100 <= int(id[1:]) < 200}
    for result in few:
        assert result.scores == pytest.approx(many[result.id])
    assert [result.score for result in few] == sorted((result.score for result in few), reverse=True)


def test_pages_of_few_documents_are_slices_of_one_list(store: VectorStore) -> None:
    vector = np.random.default_rng(9).standard_normal(16).astype(np.float32)
    whole = store.search("word4 word5", vector=vector, top_k=100, filter={"block": 2})
    pages = [
        store.search("word4 word5", vector=vector, top_k=20, offset=offset, filter={"block": 2})
        for offset in range(0, 100, 20)
    ]
    assert [result.id for page in pages for result in page] == [result.id for result in whole]
