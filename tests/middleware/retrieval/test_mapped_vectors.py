"""A collection whose exact vectors are in a mapped file answers as one that reads them from its database."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from sage.errors import InvalidRequest
from sage.middleware.retrieval import VectorStore

pytestmark = pytest.mark.slow  # builds indexes

COUNT, WIDTH = 4_400, 24
"""More than are kept as they are anyhow."""


def filled(directory: Path, vectors: str) -> VectorStore:
    store = VectorStore(directory, embedder=None, dimension=WIDTH, vectors=vectors)
    chance = np.random.default_rng(7)
    made = chance.standard_normal((COUNT, WIDTH)).astype(np.float32)
    texts = [f"word{number % 50} other{number % 7}" for number in range(COUNT)]
    ids = [str(number) for number in range(COUNT)]
    store.add_documents(texts, ids=ids, metadatas=[{"n": number % 9} for number in range(COUNT)], vectors=made)
    store.optimize()
    store.delete([str(number) for number in range(0, COUNT, 11)])
    return store


def answers(store: VectorStore) -> list[Any]:
    chance = np.random.default_rng(8)
    found = []
    for number in range(12):
        vector = chance.standard_normal(WIDTH).astype(np.float32)
        for mode in ("dense", "hybrid"):
            for condition in (None, {"n": {"$lt": 3}}, {"n": 1}):
                page = store.search(f"word{number} other3", 7, mode, condition, vector=vector)
                found.append([(result.id, result.score, result.scores) for result in page])
    return found


def test_answers_are_the_same_to_the_last_digit_also_when_opened_again(tmp_path: Path) -> None:
    expected = {}
    for vectors in ("stored", "mapped"):
        with filled(tmp_path / vectors, vectors) as store:
            assert store.collection.describe()["options"]["vectors"] == vectors
            expected[vectors] = answers(store)
    assert expected["mapped"] == expected["stored"]
    with VectorStore(tmp_path / "mapped", embedder=None) as store:
        assert answers(store) == expected["stored"]
    (stored, mapped) = (
        sum(path.stat().st_size for path in (tmp_path / name).rglob("*.vec")) for name in ("stored", "mapped")
    )
    assert mapped - stored >= COUNT * WIDTH * 4


def test_a_damaged_file_is_made_anew(tmp_path: Path) -> None:
    with filled(tmp_path / "c", "mapped") as store:
        expected = answers(store)
    (path,) = (tmp_path / "c").rglob("*.vec")
    content = bytearray(path.read_bytes())
    content[-COUNT * WIDTH * 2] ^= 1  # among the vectors
    path.unlink()
    path.write_bytes(content)
    with VectorStore(tmp_path / "c", embedder=None) as store:
        assert "checksum" in store.collection.describe()["index"]["problems"][0]
        assert answers(store) == expected
        store.optimize()
        assert answers(store) == expected
        assert store.collection.describe()["index"]["rebuilding"] is False


def test_another_choice_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InvalidRequest, match="vectors"):
        VectorStore(tmp_path / "c", embedder=None, vectors="remembered")
