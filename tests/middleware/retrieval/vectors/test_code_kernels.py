"""The kernels that numba compiles over the codes of vectors, against FAISS and a brute force."""

from __future__ import annotations

import functools
import threading
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sage.middleware.retrieval.machine_code.compilation import Compilation
from sage.middleware.retrieval.vectors import bit_kernels, code_kernels, compiled_codes
from sage.middleware.retrieval.vectors.coded import Coded
from sage.middleware.retrieval.vectors.compiled_codes import BitLists, CodeKernels
from sage.middleware.retrieval.vectors.exact import Matrix, best, exact_scores
from sage.middleware.retrieval.vectors.kinds import build_scan
from sage.middleware.retrieval.vectors.scan import Scan
from sage.middleware.retrieval.vectors.staged import Staged
from sage.middleware.settings.retrieval import Metric

every_metric = pytest.mark.parametrize("metric", list(Metric))


@given(st.lists(st.integers(0, 255), min_size=1, max_size=40), st.integers(1, 12), st.booleans())
def test_the_best_by_their_codes(numbers: list[int], k: int, is_distance: bool) -> None:
    """As the plain Python that is compiled."""
    codes = np.array(numbers, np.uint8)[:, np.newaxis]
    steps, lowest = np.array([0.5], np.float32), np.array([20.0], np.float32)
    rows, scores = np.empty(k, np.int64), np.empty(k, np.float32)
    count = code_kernels._best_codes(codes, np.empty(0, np.int64), steps, lowest, is_distance, rows, scores)
    true = -((20.0 - codes[:, 0] * 0.5) ** 2) if is_distance else codes[:, 0] * 0.5
    assert rows[:count].tolist() == best(true, k).tolist()
    assert scores[:count].tolist() == true[rows[:count]].tolist()
    backwards = np.arange(len(codes))[::-1].copy()
    again = np.empty(k, np.int64)
    assert code_kernels._best_codes(codes, backwards, steps, lowest, is_distance, again, scores) == count
    assert again[:count].tolist() == rows[:count].tolist()


class PlainKernels(CodeKernels):
    """The plain Python that is compiled."""

    def __init__(self) -> None:
        self.score, self.best = code_kernels._score_codes, code_kernels._best_codes
        self.scan, self.find = bit_kernels.scan_bits, bit_kernels.find_candidates
        self._buffers = threading.local()


@pytest.mark.parametrize("dimension", [3, 44, 64, 130])
def test_estimates_are_those_of_the_formula(dimension: int) -> None:
    """``q·c + base + factor * s·(q - c)``, of two lists and an empty one."""
    chance = np.random.default_rng(dimension)
    width, sizes = -(-dimension // 8), [5, 0, 9]
    signs = chance.random((14, dimension)) < 0.5
    pairs = chance.standard_normal((14, 2)).astype(np.float32)
    bits = np.packbits(signs, axis=1, bitorder="little")
    bits[:, -1] |= 0xFF << dimension % 8 & 0xFF if dimension % 8 else 0  # what is beyond the dimensions does not count
    blob = np.concatenate([bits, pairs.view(np.uint8)], axis=1).ravel()
    address, ids = blob.ctypes.data, chance.permutation(14).astype(np.int64)
    ends = np.cumsum(sizes)
    lists: list[tuple[int, Any, int]] = [
        (address + (end - size) * (width + 8), ids[end - size : end], size)
        for end, size in zip(ends.tolist(), sizes, strict=True)
    ]
    centres = chance.standard_normal((3, dimension)).astype(np.float32)
    plain = PlainKernels()
    made = BitLists.of(plain, blob, centres, lists, Metric.EUCLIDEAN)
    assert made is not None
    query = chance.standard_normal(dimension).astype(np.float32)
    centre_of = np.repeat(centres, sizes, axis=0)
    signed = np.vecdot(np.where(signs, 1, -1), query - centre_of)
    true = np.vecdot(centre_of, query) - np.vecdot(centre_of, centre_of) / 2
    true += pairs[:, 0] / -2 + pairs[:, 1] / np.sqrt(dimension) * signed
    masks: list[tuple[Any, Any]] = [
        (None, np.arange(14))
    ]  # and one that lets most through, one for so few that they are looked at one by one
    for kept in (np.delete(np.arange(14), 2), np.array([1, 6, 13])):
        masks.append((np.isin(np.arange(14), ids[kept]), kept))
    for mask, kept in masks:
        assert sorted(made.candidates(query, 14, 3, mask).tolist()) == sorted(ids[kept].tolist())
        found, scores, _ = plain.buffers(14)
        by_id = dict(zip(found[: len(kept)].tolist(), scores[: len(kept)].tolist(), strict=True))
        error = np.abs(pairs[kept, 1]) * np.ptp(query) / 63 * np.sqrt(dimension)  # half a step each, and no luck
        assert np.all(np.abs([by_id[id] for id in ids[kept].tolist()] - true[kept]) <= error + 1e-4)
        highest = sorted(by_id, key=lambda id: -by_id[id])
        for count in range(len(kept)):
            assert sorted(made.candidates(query, count, 3, mask).tolist()) == sorted(highest[:count])


@given(st.lists(st.integers(0, 9), min_size=1, max_size=30), st.data())
def test_the_highest_are_selected(numbers: list[int], data: st.DataObject) -> None:
    scores, wanted = np.array(numbers, np.float32), data.draw(st.integers(0, len(numbers) + 2))
    places = bit_kernels._highest_places(scores, wanted)
    assert sorted(scores[places].tolist()) == sorted(numbers)[len(numbers) - min(wanted, len(numbers)) :]
    assert places.tolist() == sorted(set(places.tolist()))
    found = np.arange(len(numbers))
    count = bit_kernels._keep_highest(found, scores, np.int64(len(numbers)), wanted, np.empty_like(scores))
    assert found[:count].tolist() == places.tolist()


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["rabitq", "ivf"])
def test_bits_are_copied_for_a_mask_that_comes_again(kind: str, by_kernels: None) -> None:
    scan = built(kind, Metric.COSINE)
    assert isinstance(scan, Staged)
    bits = scan._bit_lists()
    assert bits is not None
    mask, query = np.arange(len(vectors())) % 7 == 0, scan.codes.prepared(vectors()[11] * np.float32(0.9))
    found = [sorted(bits.candidates(query, 60, 3, mask).tolist())]
    assert bits._among(mask) is None  # it may be changed
    mask.flags.writeable = False
    for _ in range(3):
        found.append(sorted(bits.candidates(query, 60, 3, mask).tolist()))
    assert found == found[:1] * 4
    among = bits._among(mask)
    assert among is not None
    assert sorted(among.ids.tolist()) == np.flatnonzero(mask).tolist()
    assert bits._among(mask) is among
    most = ~mask
    most.flags.writeable = False
    assert [bits._among(most), bits._among(most)] == [None, None]


@pytest.fixture(scope="module")
def kernels() -> Compilation[CodeKernels]:
    pytest.importorskip("numba")
    compilation = Compilation("compile-vectors", CodeKernels, code_kernels.kept_kernels)
    compilation.wait()
    assert compilation.kernels is not None
    return compilation


@pytest.fixture
def by_kernels(kernels: Compilation[CodeKernels], monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr(compiled_codes, "kernels_of_process", lambda: kernels)
    return iter(())


@functools.cache
def vectors() -> Matrix:
    chance = np.random.default_rng(3)
    return (chance.standard_normal((6000, 12)) @ chance.standard_normal((12, 44)) + 1).astype(np.float32)


@functools.cache
def built(kind: str, metric: Metric) -> Scan:
    return build_scan(vectors(), metric, 0.95, kind, lambda: None)


@pytest.mark.slow
@every_metric
def test_scores_by_code_are_those_of_faiss(
    metric: Metric, kernels: Compilation[CodeKernels], monkeypatch: pytest.MonkeyPatch
) -> None:
    scan, ordinals = built("sq8", metric), np.array([5, 3, 5999, 17])
    for query in vectors()[:5] * np.float32(1.1):
        monkeypatch.setattr(compiled_codes, "kernels_of_process", lambda: None)
        expected, best_expected = scan.scores(query, ordinals), scan.nearest(query, 20, None)
        monkeypatch.setattr(compiled_codes, "kernels_of_process", lambda: kernels)
        tolerance = 1e-4 * float(np.abs(best_expected[1]).max()) + 1e-5
        np.testing.assert_allclose(scan.scores(query, ordinals), expected, atol=100 * tolerance, rtol=1e-4)
        found, scores = scan.nearest(query, 20, None)
        assert len(set(found.tolist()) & set(best_expected[0].tolist())) >= len(found) - 1
        np.testing.assert_allclose(scores, best_expected[1], atol=100 * tolerance)


@pytest.mark.slow
@every_metric
@pytest.mark.parametrize("kind", ["rabitq", "ivf"])
def test_the_first_stage_estimates_what_faiss_estimates(
    kind: str, metric: Metric, kernels: Compilation[CodeKernels]
) -> None:
    scan = built(kind, metric)
    assert isinstance(scan, Staged)
    assert isinstance(kernels.kernels, CodeKernels)
    bits = BitLists.of(kernels.kernels, scan.blob, *scan._codes_by_list(), metric)
    assert bits is not None
    query = scan.codes.prepared(vectors()[11] * np.float32(0.9))
    true = exact_scores(query, vectors(), metric)
    few = bits.candidates(query, 300, scan.lists, None)
    assert len(few) == len(set(few.tolist())) == 300
    assert len(set(best(true, 10).tolist()) & set(few.tolist())) >= 9
    allowed = np.arange(len(vectors())) % 5 == 0
    assert sorted(bits.candidates(query, 10_000, scan.lists, allowed).tolist()) == np.flatnonzero(allowed).tolist()


@pytest.mark.slow
@every_metric
@pytest.mark.parametrize("kind", ["sq8", "rabitq", "ivf"])
@pytest.mark.parametrize("every", [1, 2, 40])
def test_compiled_finds_what_a_brute_force_finds(kind: str, metric: Metric, every: int, by_kernels: None) -> None:
    scan = built(kind, metric)
    allowed = None if every == 1 else np.arange(len(vectors())) % every == 0
    hits = 0
    for row in range(20):
        query = vectors()[row] + vectors()[row + 100] / 2
        scores = exact_scores(query, vectors(), metric)
        if allowed is not None:
            scores[~allowed] = -np.inf
        found, _ = scan.nearest(query, 10, allowed)
        assert allowed is None or allowed[found].all()
        hits += len(set(best(scores, 10).tolist()) & set(found.tolist()))
    assert hits / 200 >= 0.95


@pytest.mark.slow
def test_codes_of_16_bits_stay_with_faiss(by_kernels: None) -> None:
    wide = vectors().copy()
    wide[17] *= 1e6
    scan = build_scan(wide, Metric.EUCLIDEAN, 0.9, "sq8", lambda: None)
    assert isinstance(scan, Coded)
    assert scan.kind == "bf16"
    assert scan.kernels() is None
    assert scan.nearest(wide[3], 1, None)[0][0] == 3
