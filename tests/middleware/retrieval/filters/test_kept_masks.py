"""The mask of a filter is made once while the same documents are live."""

from __future__ import annotations

import numpy as np
import orjson
import pytest

from sage.middleware.retrieval.filters.index import FilterIndex
from sage.middleware.retrieval.filters.language import Filter, parse_filter


def filter_of(raw: dict[str, object]) -> Filter:
    parsed = parse_filter(raw)
    assert parsed is not None
    return parsed


def test_the_same_filter_gives_the_same_mask_while_the_same_documents_are_live() -> None:
    index = FilterIndex.build([orjson.dumps({"n": number % 3}) for number in range(9)])
    one, live = filter_of({"n": 1}), np.arange(9) != 4
    mask = index.passing(one, None)
    assert np.flatnonzero(mask).tolist() == [1, 4, 7]
    assert index.passing(filter_of({"n": 1}), None) is mask
    assert np.flatnonzero(index.passing(one, live)).tolist() == [1, 7]
    assert index.passing(one, live) is index.passing(one, live)
    assert np.flatnonzero(index.passing(one, np.arange(9) != 7)).tolist() == [1, 4]
    with pytest.raises(ValueError, match="read-only"):
        mask[0] = True


def test_what_python_takes_for_equal_are_different_filters() -> None:
    index = FilterIndex.build([orjson.dumps({"n": value}) for value in (1, True, 1.0, "1")])
    found = [np.flatnonzero(index.passing(filter_of({"n": value}), None)).tolist() for value in (1, True, "1", 1.0)]
    assert found == [[0, 2], [1], [3], [0, 2]]


def test_masks_that_were_not_used_for_long_are_made_anew() -> None:
    index = FilterIndex.build([orjson.dumps({"n": number}) for number in range(40)])
    masks = [index.passing(filter_of({"n": number}), None) for number in range(40)]
    assert index.passing(filter_of({"n": 39}), None) is masks[39]
    assert index.passing(filter_of({"n": 0}), None) is not masks[0]
