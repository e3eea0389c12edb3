"""Every kind of vector index brings what its file needs, and opens again from it."""

from __future__ import annotations

import functools

import numpy as np
import orjson
import pytest

from sage.middleware.retrieval.vectors.exact import Matrix, best, exact_scores
from sage.middleware.retrieval.vectors.index import VectorIndex
from sage.middleware.retrieval.vectors.kinds import KINDS, Kind, build_scan, kind_for, restore_scan
from sage.middleware.retrieval.vectors.scan import Scan
from sage.middleware.settings.retrieval import Metric

pytestmark = pytest.mark.slow  # builds every kind of index

FILES = {
    "flat": ({"tame"}, {"vectors", "lengths"}),
    "bf16": ({"coding"}, {"codes"}),
    "sq8": ({"coding"}, {"codes"}),
    "rabitq": ({"looks", "coding"}, {"base", "codes"}),
    "ivf": ({"looks", "coding"}, {"base", "codes"}),
}
"""The names in a head and of the arrays, as files of existing collections have them: they must not change."""
RESIDUALS = {"bf16", "sq8", "rabitq", "ivf"}
"""Kinds whose newer files say how far codes are from vectors; older ones do without."""
STAGED = {"rabitq", "ivf"}
"""Kinds whose newer files say how widely a search for fifty looks; with older ones it looks as for a hundred."""

every_kind = pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.name)


def vectors_for(kind: Kind) -> Matrix:
    chance = np.random.default_rng(1)
    vectors = (chance.standard_normal((3000, 8)) @ chance.standard_normal((8, 32))).astype(np.float32)
    if kind.name == "bf16":
        vectors[17] *= 1e6  # of the range that this gives, 8 bits are too few for all the others
    return vectors


@functools.cache
def built(kind: Kind, metric: Metric = Metric.EUCLIDEAN) -> Scan:
    first = "sq8" if kind.name == "bf16" else kind.name
    return build_scan(vectors_for(kind), metric, 0.9, first, lambda: None)


@every_kind
def test_a_kind_opens_again_from_its_head_and_arrays(kind: Kind) -> None:
    scan = built(kind)
    assert scan.kind == kind.name
    restored = restore_scan(kind.name, orjson.loads(orjson.dumps(scan.head())), scan.arrays(), Metric.EUCLIDEAN)
    assert (restored.kind, restored.count) == (scan.kind, scan.count) == (kind.name, 3000)
    assert (restored.exact, restored.staged) == (scan.exact, scan.staged)
    assert restored.head() == scan.head()
    assert {name: array.tobytes() for name, array in restored.arrays().items()} == {
        name: array.tobytes() for name, array in scan.arrays().items()
    }
    allowed = np.arange(3000) % 3 == 0
    for query in vectors_for(kind)[:5] + np.float32(0.1):
        for k, mask in ((10, None), (100, allowed)):
            ordinals, scores = scan.nearest(query, k, mask)
            again, again_scores = restored.nearest(query, k, mask)
            assert again.tolist() == ordinals.tolist()
            assert again_scores.tolist() == scores.tolist()
            assert restored.scores(query, ordinals).tolist() == scan.scores(query, ordinals).tolist()


@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind.name in FILES], ids=lambda kind: kind.name)
def test_the_format_of_files_stays(kind: Kind) -> None:
    scan = built(kind)
    heads, names = scan.head().keys(), scan.arrays().keys()
    if kind.name in RESIDUALS:
        heads, names = heads - {"residual"}, names - {"residuals"}
    if kind.name in STAGED:
        heads = heads - {"middle_look"}
    assert (heads, names) == FILES[kind.name]
    arrays = VectorIndex(3000, Metric.EUCLIDEAN, scan, None).arrays()
    head = orjson.loads(arrays["head"].tobytes())
    assert head == {"kind": kind.name, "metric": "euclidean", "size": 3000, **scan.head()}
    assert VectorIndex.from_arrays(arrays).kind == kind.name


@pytest.mark.parametrize("name", sorted(STAGED))
def test_a_file_without_a_middle_depth_is_searched_as_for_a_hundred(name: str) -> None:
    scan = built(next(kind for kind in KINDS if kind.name == name))
    head = orjson.loads(orjson.dumps(scan.head()))
    of_ten, of_hundred = head["looks"]
    del head["middle_look"]
    older = restore_scan(name, head, scan.arrays(), Metric.EUCLIDEAN)
    assert older.head()["looks"] == [of_ten, of_hundred]
    assert older.head()["middle_look"] == of_hundred


def test_no_kind_of_existing_files_is_dropped() -> None:
    assert FILES.keys() <= {kind.name for kind in KINDS}


@every_kind
@pytest.mark.parametrize("metric", list(Metric))
def test_a_kind_finds_what_a_brute_force_finds(kind: Kind, metric: Metric) -> None:
    vectors, scan = vectors_for(kind), built(kind, metric)
    hits = 0
    for row in range(20):
        query = vectors[row] + vectors[row + 100] / 2
        nearest = best(exact_scores(query, vectors, metric), 10)
        hits += len(set(nearest.tolist()) & set(scan.nearest(query, 10, None)[0].tolist()))
    assert hits / 200 >= 0.9


@every_kind
def test_only_an_exact_kind_has_the_vectors_as_they_are(kind: Kind) -> None:
    raw = built(kind).raw_vectors(np.array([5, 7]))
    assert (raw is not None) == built(kind).exact
    if raw is not None:
        assert raw.tolist() == vectors_for(kind)[[5, 7]].tolist()


def test_every_number_of_vectors_has_a_kind() -> None:
    assert {kind_for(count).name for count in (0, 1, 4_000)} == {"flat"}
    assert [kind_for(count).name for count in (4_001, 6_000, 6_001, 64_001, 10**9)] == [
        "sq8",
        "sq8",
        "rabitq",
        "ivf",
        "ivf",
    ]


def test_a_file_of_an_unknown_kind_is_refused() -> None:
    with pytest.raises(KeyError):
        restore_scan("newer", {}, {}, Metric.DOT)
