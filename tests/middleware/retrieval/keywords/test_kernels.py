"""The keyword kernel that numba compiles, run here as the plain Python that it is, against numpy."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from sage.middleware.retrieval.keywords.bm25 import Curve
from sage.middleware.retrieval.keywords.compiled import _tables
from sage.middleware.retrieval.keywords.kernels import Slice, top_by_numpy
from sage.middleware.retrieval.keywords.numba_kernels import MOST_RESCORED, SPARSE, STEP, _top

CURVE = Curve(0.25, 0.05, 0.0, 1.5)
BLOCK = 8 * STEP


def check(postings: list[tuple[dict[int, int], float]], size: int, allowed: np.ndarray | None, k: int) -> None:
    """``postings``: of each word its frequency by ordinal, and its weight."""
    lengths = (np.arange(size, dtype=np.uint32) % 400) + 1
    slices = [
        Slice(
            np.array(sorted(frequencies), np.uint32),
            np.array([frequencies[ordinal] for ordinal in sorted(frequencies)], np.uint16),
            weight,
            0.0,
        )
        for frequencies, weight in postings
    ]
    starts = np.cumsum([0, *(len(each.ordinals) for each in slices)])
    words = [(start, end, each.weight, 0.0, 0.0) for start, end, each in zip(starts, starts[1:], slices, strict=False)]
    scores, matches = np.zeros(BLOCK), np.zeros(BLOCK, np.uint8)
    rows, best = np.zeros(k, np.int64), np.zeros(k)
    count, total = _top(
        np.concatenate([each.ordinals for each in slices]),
        np.concatenate([each.frequencies for each in slices]),
        lengths,
        np.array(words, np.float64),
        *_tables(CURVE),
        np.empty(0, np.bool_) if allowed is None else allowed,
        scores,
        matches,
        rows,
        best,
    )
    expected_rows, expected_scores, expected_total = top_by_numpy(slices, lengths, CURVE, allowed, k)
    assert rows[:count].tolist() == expected_rows.tolist()
    np.testing.assert_allclose(best[:count], expected_scores, rtol=1e-12, atol=0)
    assert total == expected_total
    assert not scores.any()
    assert not matches.any()


frequencies = st.dictionaries(st.integers(0, 199), st.integers(1, 40), min_size=1, max_size=200)
weights = st.sampled_from([0.001, 0.01, 0.5, 1.0, 8.0])


@given(
    st.lists(st.tuples(frequencies, weights), min_size=1, max_size=4),
    st.lists(st.booleans(), min_size=200, max_size=200) | st.none(),
    st.integers(0, 12),
)
def test_the_best_are_those_of_numpy(
    postings: list[tuple[dict[int, int], float]], allowed: list[bool] | None, k: int
) -> None:
    check(postings, 200, None if allowed is None else np.array(allowed, np.bool_), k)


def test_few_postings_are_merged_document_by_document() -> None:
    postings = [({7: 1, 900: 3}, 1.0), ({900: 1, 901: 2}, 2.0)]
    assert sum(len(word) for word, _ in postings) * SPARSE < 2000
    check(postings, 2000, None, 3)


def test_words_worth_little_are_left_out_and_scored_again() -> None:
    random = np.random.default_rng(1)
    rare = {int(ordinal): 5 for ordinal in random.choice(4000, 60, replace=False)}
    common = {ordinal: int(random.integers(1, 6)) for ordinal in range(4000)}
    check([(rare, 8.0), (common, 0.01)], 4000, None, 5)


def test_too_many_to_score_again_are_all_scored() -> None:
    assert BLOCK > MOST_RESCORED
    check([(dict.fromkeys(range(1000), 2), 1.0), (dict.fromkeys(range(1000), 1), 0.01)], 1000, None, 5)
