"""Scores of groups: all documents with one text under a field, scored as one long document."""

from __future__ import annotations

import math
import random
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from sage.errors import InvalidRequest
from sage.service import VDBService

WORDS = [f"word{number}" for number in range(12)]
K1, B = 1.5, 0.75


def documents(count: int, seed: int) -> list[dict[str, Any]]:
    rng = random.Random(seed)
    return [
        {
            "id": f"d{number}",
            "text": " ".join(rng.choices(WORDS, weights=range(len(WORDS), 0, -1), k=rng.randint(2, 9))),
            "metadata": {"session": f"s{rng.randrange(5)}", "user": rng.choice("ab")},
        }
        for number in range(count)
    ]


def expected(items: list[dict[str, Any]], user: str, query: list[str]) -> dict[str, float]:
    """BM25 (Lucene's) of every session of ``user``, with word weights from all single documents; the best is 1."""
    texts = [item["text"].split() for item in items]
    idf = {}
    for word in query:
        df = sum(word in text for text in texts)
        idf[word] = math.log1p((len(texts) - df + 0.5) / (df + 0.5)) if df else 0.0
    sessions: dict[str, Counter[str]] = {}
    for item, text in zip(items, texts, strict=True):
        if item["metadata"]["user"] == user:
            sessions.setdefault(item["metadata"]["session"], Counter()).update(text)
    mean = sum(counter.total() for counter in sessions.values()) / len(sessions)
    scores = {
        name: sum(
            idf[word] * counter[word] / (counter[word] + K1 * (1 - B + B * counter.total() / mean)) for word in query
        )
        for name, counter in sessions.items()
    }
    best = max(scores.values())
    return {name: score / best for name, score in scores.items()}


@pytest.mark.parametrize("seed", range(4))
def test_a_group_is_scored_as_one_document_of_those_that_pass(tmp_path: Path, seed: int) -> None:
    items = documents(120, seed)
    query = random.Random(seed).sample(WORDS, 3)
    with VDBService(persist_directory=str(tmp_path)) as store:
        store.add([*items, {"id": "gone", "text": " ".join(WORDS * 9), "metadata": {"session": "s0", "user": "a"}}])
        store.delete("gone")
        results = store.search(text=" ".join(query), n_results=200, where={"user": "a"}, options={"group": "session"})
    wanted = expected(items, "a", query)
    assert len(results) > 20
    for result in results:
        assert result["scores"]["group"] == pytest.approx(wanted[result["metadata"]["session"]])


def test_it_changes_no_order_and_is_left_out_without_a_field_or_words() -> None:
    items = documents(40, 9)
    with VDBService() as store:
        store.add(items)
        plain = store.search(text="word1 word2", n_results=40)
        grouped = store.search(text="word1 word2", n_results=40, options={"group": "session"})
        lacking = store.search(text="word1 word2", n_results=40, options={"group": "chapter"})
        with pytest.raises(InvalidRequest, match="'group' must be the name of a field"):
            store.search(text="word1", options={"group": 3})
    assert [(result["id"], result["score"]) for result in grouped] == [(r["id"], r["score"]) for r in plain]
    assert all("group" not in result["scores"] for result in plain)
    assert {result["scores"]["group"] for result in lacking} == {0.0}
