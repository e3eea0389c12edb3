"""Searches that compute take turns; those that wait for a model do not keep others from theirs."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path

import pytest

from sage.middleware.retrieval.collection import Collection
from sage.middleware.retrieval.collections import Collections
from sage.middleware.retrieval.embedding.protocols import Embedder, Reranker
from sage.middleware.retrieval.query.turns import turn
from sage.middleware.retrieval.types.search import Search
from sage.middleware.settings.retrieval import Retrieval
from sage.processors import available_processors

_MORE_THAN_TURNS = available_processors() + 1


class Together:
    """A reranker that answers once more searches ask it than there are turns."""

    def __init__(self) -> None:
        self.barrier = threading.Barrier(_MORE_THAN_TURNS)

    def embedder(self, name: str) -> Embedder | None:
        return None

    def reranker(self, name: str) -> Reranker:
        return self

    def rerank(self, query: str, texts: list[str]) -> list[float]:
        self.barrier.wait(30)
        return [1.0] * len(texts)


@pytest.fixture
def notes(tmp_path: Path) -> Iterator[Collection]:
    collections = Collections(tmp_path, Retrieval(), Together())
    notes = collections.create("t", "notes", {"embedder": "none"})
    notes.add([{"id": "1", "text": "a note"}])
    yield notes
    collections.close()


def test_a_search_waits_for_its_turn(notes: Collection) -> None:
    with ThreadPoolExecutor(1) as pool:
        with ExitStack() as taken:
            for _ in range(available_processors()):
                taken.enter_context(turn())
            waiting = pool.submit(notes.search, Search("note"))
            with pytest.raises(TimeoutError):
                waiting.result(0.2)
        assert [result.id for result in waiting.result(30).results] == ["1"]


def test_searches_that_wait_for_a_model_have_no_turn(notes: Collection) -> None:
    with ThreadPoolExecutor(_MORE_THAN_TURNS) as pool:
        searches = [pool.submit(notes.search, Search("note", rerank="any")) for _ in range(_MORE_THAN_TURNS)]
        assert [search.result(60).results[0].scores["rerank"] for search in searches] == [1.0] * _MORE_THAN_TURNS
    assert all(turn().acquire(blocking=False) for _ in range(available_processors()))
    for _ in range(available_processors()):
        turn().release()
