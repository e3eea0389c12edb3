"""A store whose index an earlier release wrote, with other terms of the same texts, answers like a new one.

``terms_of_format_1.tar.gz`` was made by that release: texts of the kinds that its analyzer took apart in another way,
in one merged segment. Each document has a unit vector of its own.
"""

from __future__ import annotations

import tarfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from waiting import wait_until

from sage.middleware.retrieval import VectorStore

MADE = Path(__file__).with_name("terms_of_format_1.tar.gz")
FOUND = {
    "1.2.3": ["version"],
    "v1.2.3": ["version"],
    "user": ["code"],
    "RTX4090": ["code", "node"],
    '+"rtx 4090"': ["code", "node"],
    "+nodejs": ["node"],
    "123": ["arabic"],
    "phd": ["phd"],
    "+node.js -runs": [],
}


@pytest.fixture
def path(tmp_path: Path) -> Path:
    with tarfile.open(MADE) as archive:
        archive.extractall(tmp_path / "store", filter="data")
    return tmp_path / "store"


def found(store: VectorStore) -> dict[str, list[str]]:
    return {query: sorted(result.id for result in store.search(query, mode="bm25", syntax="query")) for query in FOUND}


def index_of(store: VectorStore) -> dict[str, Any]:
    return dict(store.collection.describe()["index"])


@pytest.mark.parametrize("deleted", [[], ["gone"]])
def test_older_terms_are_made_anew_and_vectors_stay(path: Path, deleted: list[str]) -> None:
    with VectorStore(path, embedder=None) as older:
        assert found(older) == FOUND
        assert len(index_of(older)["problems"]) == 1
        assert "its format is 1, not 2" in index_of(older)["problems"][0]
        older.delete(deleted)
        nearest = older.search(vector=np.eye(7, 8)[1], mode="dense", top_k=1)
        assert [(result.id, round(result.score, 3)) for result in nearest] == [("code", 1.0)]
        (first,) = older.search("user", highlight=True, mode="bm25")
        assert first.highlights == ["call get<em>User</em>ById(1) with RTX4090"]
        wait_until(lambda: not index_of(older)["rebuilding"])
        assert found(older) == FOUND
        older.add_documents(["v1.2.3 in memory"], ids=["new"])
        assert found(older)["1.2.3"] == ["new", "version"]
        older.delete(["new"])
    with VectorStore(path, embedder=None) as repaired:
        assert (found(repaired), index_of(repaired)["problems"]) == (FOUND, [])
        nearest = repaired.search(vector=np.eye(7, 8)[2], mode="dense", top_k=1)
        assert [result.id for result in nearest] == ["node"]
    files = [file.suffix for file in (path / "segments").iterdir() if file.suffix]
    assert sorted(files) == [".seg", ".vec"]
