"""Groups and orders from the index alone, against a look at every document."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sage.middleware.retrieval import VectorStore
from sage.middleware.retrieval.columns import Group, NumberOrder

METADATA = st.fixed_dictionaries(
    {},
    optional={
        "session": st.sampled_from(["a", "b", "é", ""]),
        "created": st.sampled_from([0, 1, 1.5, -2, 2**60, 2**60 + 2**10, 1.7e9]),
        "open": st.booleans(),
    },
)


@pytest.mark.slow
@given(st.lists(METADATA, min_size=1, max_size=12), st.data())
def test_they_are_as_a_look_at_every_document_says(metadatas: list[dict[str, Any]], data: st.DataObject) -> None:
    ids = [str(number) for number in range(len(metadatas))]
    with VectorStore(embedder=None) as store:
        cut = data.draw(st.integers(0, len(ids)))
        for part in (slice(0, cut), slice(cut, None)):
            store.add_documents(ids[part], ids[part], metadatas[part])
            if data.draw(st.booleans()):
                store.optimize()
        deleted = data.draw(st.sets(st.sampled_from(ids)))
        store.delete(sorted(deleted))
        alive = {id: metadata for id, metadata in zip(ids, metadatas, strict=True) if id not in deleted}

        filter = data.draw(st.sampled_from([None, {"open": True}]))
        passing = {id: m for id, m in alive.items() if filter is None or m.get("open") is True}
        numbers: dict[str, list[float]] = {}
        for metadata in passing.values():
            if "session" in metadata and "created" in metadata:
                numbers.setdefault(metadata["session"], []).append(float(metadata["created"]))
        expected = {name: Group(len(some), min(some), max(some)) for name, some in numbers.items()}
        assert store.collection.groups("session", "created", filter) == expected

        descending = data.draw(st.booleans())
        after = data.draw(st.sampled_from([None, 1, 1.7e9]))
        limit = data.draw(st.integers(1, 5))
        ordered = [(float(m["created"]), int(id)) for id, m in passing.items() if "created" in m]
        ordered.sort(key=lambda entry: (-entry[0] if descending else entry[0], entry[1]))
        beyond = [(t, n) for t, n in ordered if after is None or (t < after if descending else t > after)]
        page = store.collection.page_by(NumberOrder("created", after, descending), limit, filter)
        assert [document.id for document in page] == [str(number) for _, number in beyond[:limit]]


def test_fields_that_no_document_has() -> None:
    with VectorStore(embedder=None) as store:
        store.add_documents(["a"], metadatas=[{"x": 1}])
        for _ in range(2):
            assert store.collection.groups("session", "x") == {}
            assert store.collection.page_by(NumberOrder("created"), 10) == []
            store.optimize()


def test_many_are_read_at_once_in_the_order_that_was_asked_for() -> None:
    with VectorStore(embedder=None) as store:
        store.add_documents(["a", "b"], ids=["1", "2"], vectors=[[1.0], [2.0]])
        found = store.collection.get_many(["2", "nowhere", "1"], vectors=True)
        assert [(one.id, one.vector.tolist() if one.vector is not None else None) for one in found] == [
            ("2", [2.0]),
            ("1", [1.0]),
        ]
