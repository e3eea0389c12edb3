"""Whatever is sent to ``/search`` and ``/collections``: an answer, or an error that is the caller's."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from running_gateway import Running, run_gateway

from sage.middleware.settings.settings import Settings

pytestmark = pytest.mark.slow  # made examples

NUMBERS = st.sampled_from([0, 1, -1, 2**63, 2**64 - 1, -(2**63), 0.5, 1e308, 3e38, -3e38, 1e-45, -0.0])
TEXTS = st.sampled_from(
    ["", " ", "\x00", "word", "文档", '"word', '+word -"a b" 「」', "-word", "\U0001f600", "x" * 20_000]
)
FIELDS = st.sampled_from(["a", "", "a.b", "$and", "$or", "$not", "$eq", "$ne", "$in", "$nin", "$gt", "$lte", "$exists"])
JUNK: st.SearchStrategy[Any] = st.recursive(
    st.none() | st.booleans() | NUMBERS | TEXTS,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(FIELDS | TEXTS, inner, max_size=3),
    max_leaves=6,
)
VECTORS = st.lists(NUMBERS, min_size=2, max_size=2)
SEARCHES = st.fixed_dictionaries(
    {"query": TEXTS},
    optional={
        "vector": VECTORS | JUNK,
        "mode": st.sampled_from(["dense", "bm25", "hybrid"]) | JUNK,
        "fusion": st.sampled_from(["rrf", "dbsf", "zscore"]) | JUNK,
        "filter": st.dictionaries(FIELDS, JUNK, max_size=2) | JUNK,
        "top_k": NUMBERS | JUNK,
        "offset": NUMBERS | JUNK,
        "alpha": NUMBERS | JUNK,
        "rerank": JUNK,
        "exact": st.booleans() | JUNK,
        "explain": st.booleans(),
        "highlight": st.booleans(),
        "collection": st.sampled_from(["junk", "euclid", "none"]) | JUNK,
    },
)
DOCUMENTS = st.fixed_dictionaries(
    {"text": TEXTS},
    optional={
        "id": TEXTS | JUNK,
        "metadata": st.dictionaries(FIELDS, JUNK, max_size=3) | JUNK,
        "vector": VECTORS | JUNK,
    },
)
OPTIONS = st.dictionaries(
    st.sampled_from(["dimension", "metric", "target_recall", "keywords", "analysis", "embedder", "zz"]),
    JUNK | st.dictionaries(st.sampled_from(["k1", "variant", "chinese", "engine"]), JUNK, max_size=2),
    max_size=2,
)
FEW = settings(suppress_health_check=[HealthCheck.too_slow], deadline=None)


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    sections = {
        "data_dir": tmp_path_factory.mktemp("data"),
        "api": {"port": 0, "access_log": False},
        "retrieval": {"defaults": {"embedder": "none"}},
    }
    with run_gateway(Settings.model_validate(sections)) as started:
        started.post("/collections", {"name": "junk"})
        started.post("/collections", {"name": "euclid", "metric": "euclidean"})
        yield started


def tells(running: Running, path: str, body: Any) -> None:
    answer = running.post(path, body)
    assert answer.status_code < 500, (path, body, answer.text)
    if answer.status_code >= 400:
        assert answer.json()["error"]["message"]


@FEW
@given(document=DOCUMENTS, search=SEARCHES)
def test_documents_and_searches(running: Running, document: Any, search: Any) -> None:
    for name in ("junk", "euclid"):
        tells(running, f"/collections/{name}/documents", {"documents": [document]})
        tells(running, "/search", {"collection": name, **search})
    tells(running, "/search/batch", {"searches": [search, {"query": "word", "collection": "junk"}]})


@FEW
@given(options=OPTIONS, condition=st.dictionaries(FIELDS, JUNK, max_size=2) | JUNK)
def test_collections_and_deletions(running: Running, options: Any, condition: Any) -> None:
    tells(running, "/collections", {"name": "made", **options})
    tells(running, "/collections/made/documents/delete", {"filter": condition})
    tells(running, "/collections/made/documents/delete", {"ids": condition})
    deleted = running.get("/collections/made")
    assert deleted.status_code in (200, 404)
