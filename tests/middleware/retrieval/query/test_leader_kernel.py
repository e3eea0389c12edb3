"""The loops that numba compiles decide what numpy decides, to the last digit."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sage.middleware.retrieval.query import estimates, leader_kernel
from sage.middleware.retrieval.query.estimates import Estimates, Leaders, leaders
from sage.middleware.retrieval.query.fusion import fit
from sage.middleware.retrieval.query.leader_kernel import DONE, LeaderKernels, kernels_of_process
from sage.middleware.retrieval.types.search import Fusion


class PlainKernels(LeaderKernels):
    """As they stand in the module."""

    def __init__(self) -> None:
        self.rounds = 0

    def round(self, *given: Any) -> Any:
        self.rounds += 1
        return leader_kernel._round(*given)


def candidates(seed: int, size: int, digits: int) -> tuple[Estimates, Any, Any]:
    """With few ``digits`` many scores are equal."""
    chance = np.random.default_rng(seed)
    true = np.round(chance.random(size), digits)
    errors = np.where(chance.random(size) < 0.8, chance.random(size) * 0.05, 0.0)
    is_near = chance.random(size) < 0.6
    scores = np.where((chance.random(size) < 0.1) & ~is_near, np.nan, true + (chance.random(size) - 0.5) * errors)
    errors[np.isnan(scores)] = 0.0
    scores[errors == 0] = np.where(np.isnan(scores), np.nan, true)[errors == 0]
    keywords = np.where(chance.random(size) < 0.4, np.nan, np.round(chance.random(size) * 9 - 1, digits))
    is_hit = ~is_near | (chance.random(size) < 0.3)
    of_rows = Estimates(np.arange(size), scores, errors, is_near, size, lambda rows: true[rows])
    return of_rows, keywords, is_hit


def shown(found: Leaders | None) -> Any:
    return found if found is None else (found.places.tolist(), found.dense, found.keywords)


@given(st.data())
def test_leaders_are_those_that_numpy_finds(data: st.DataObject) -> None:
    given_numbers = data.draw(st.integers(0, 99_999)), data.draw(st.integers(1, 40)), data.draw(st.sampled_from([1, 9]))
    k, count = data.draw(st.integers(1, 20)), data.draw(st.integers(1, 12))
    alpha = data.draw(st.sampled_from([0.0, 0.25, 0.5, 1.0]))
    found, settled = [], []
    for kernels in (None, PlainKernels()):
        of_rows, keywords, is_hit = candidates(*given_numbers)
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(estimates, "leader_kernels", lambda is_worth, kernels=kernels: kernels)
            found.append(shown(leaders(of_rows, keywords, is_hit, k, count, (alpha, 1 - alpha))))
        settled.append(of_rows.errors.tolist())
        assert kernels is None or kernels.rounds > 0
    assert found[0] == found[1]
    assert settled[0] == settled[1]  # and the same vectors were read


@given(st.lists(st.sampled_from([np.nan, -2.0, 0.0, 0.5, 0.7, 1e-200, np.inf, 3e300]), max_size=6), st.booleans())
def test_a_scale_is_that_of_fusion_or_left_to_it(scores: list[float], has_floor: bool) -> None:
    scale, array = np.empty(3), np.array(scores, np.float64)
    if leader_kernel._fit(array, np.ones(len(array), np.bool_), has_floor, scale):
        expected = fit(Fusion.MINMAX, array, floor=0.0 if has_floor else None)
        assert scale.tolist() == [expected.low, expected.span, expected.missing]
    else:
        assert np.isinf(array).any() or np.ptp(array[~np.isnan(array)]) < 1e-99


@pytest.mark.slow
def test_compiled_it_decides_the_same() -> None:
    pytest.importorskip("numba")
    compilation = kernels_of_process()
    assert compilation is not None
    compilation.wait()
    assert compilation.kernels is not None
    for seed in range(50):
        of_rows, keywords, is_hit = candidates(seed, 30, 3)
        results = []
        for a_round in (compilation.kernels.round, leader_kernel._round):
            masks, scales = np.empty((2, 30), np.bool_), np.empty((2, 3))
            outcome = a_round(
                of_rows.scores, of_rows.errors, of_rows.is_near, is_hit, keywords, 12, 5, 0.5, 0.5, *masks, *scales
            )
            results.append((outcome, *((masks.tolist(), scales.tolist()) if outcome == DONE else ())))
        assert results[0] == results[1]
