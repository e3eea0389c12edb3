"""Filters: what they mean, how they are refused, and that the index says the same of every document."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sage.errors import InvalidRequest
from sage.middleware.retrieval.filters.growing import GrowingFilters
from sage.middleware.retrieval.filters.index import FilterIndex
from sage.middleware.retrieval.filters.language import Filter, parse_filter

PLACE = {
    "lang": "zh",
    "year": 2020,
    "tags": ["a", "b"],
    "open": True,
    "gone": None,
    "author": {"name": "李白"},
    "e": [],
    "sizes": [1, 10, 2**60, "m"],
    "editions": [{"year": 1990}, {"year": 2010}],
}


def parsed(condition: Any) -> Filter:
    result = parse_filter(condition)
    assert result is not None
    return result


@pytest.mark.parametrize(
    ("condition", "passes"),
    [
        ({"lang": "zh"}, True),
        ({"lang": "en"}, False),
        ({"lang": {"$eq": "zh"}, "year": {"$gte": 2020}}, True),
        ({"lang": "zh", "year": {"$gt": 2020}}, False),
        ({"year": {"$gt": 2019, "$lt": 2021}}, True),
        ({"year": 2020.0}, True),
        ({"year": "2020"}, False),
        ({"year": {"$gt": "1"}}, False),
        ({"open": True}, True),
        ({"open": 1}, False),
        ({"tags": "b"}, True),
        ({"tags": {"$in": ["x", "a"]}}, True),
        ({"tags": {"$nin": ["x", "a"]}}, False),
        ({"tags": {"$ne": "c"}}, True),
        ({"nothing": {"$ne": "c"}}, True),
        ({"nothing": None}, False),
        ({"gone": None}, True),
        ({"gone": {"$exists": True}}, True),
        ({"e": {"$exists": True}}, True),
        ({"author": {"$exists": True}}, True),
        ({"nothing": {"$exists": False}}, True),
        ({"author.name": "李白"}, True),
        ({"$or": [{"lang": "en"}, {"year": 2020}]}, True),
        ({"$and": [{"lang": "zh"}, {"year": 2021}]}, False),
        ({"$not": {"lang": "en"}}, True),
        ({"year": {"$not": {"$gt": 2000}}}, False),
        ({"lang": {"$in": []}}, False),
        ({"lang": {"$lt": "zi"}}, True),
        ({"sizes": {"$gt": 2, "$lt": 9}}, False),
        ({"sizes": {"$gt": 2, "$lt": 11}}, True),
        ({"sizes": {"$gte": 1, "$lte": 1}}, True),
        ({"sizes": {"$gt": 10, "$lt": 2**60}}, False),
        ({"sizes": {"$gt": 10, "$gte": 2**60, "$lt": 2**61}}, True),
        ({"sizes": {"$gt": 2, "$lt": "z"}}, False),
        ({"sizes": {"$gt": "l", "$lt": "n"}}, True),
        ({"sizes": {"$in": [1, 5], "$gt": 2}}, False),
        ({"sizes": {"$in": [1, 10], "$gt": 2}}, True),
        ({"sizes": {"$eq": 10, "$in": [1]}}, False),
        ({"sizes": {"$gt": 2, "$ne": 1}}, False),
        ({"sizes": {"$gt": 2, "$exists": True, "$not": {"$eq": 5}}}, True),
        ({"sizes": {"$not": {"$gt": 2, "$lt": 9}}}, True),
        ({"$and": [{"sizes": {"$gt": 2}}, {"sizes": {"$lt": 9}}]}, True),
        ({"editions.year": {"$gt": 1995, "$lt": 2005}}, False),
        ({"editions.year": {"$gt": 1995, "$lt": 2015}}, True),
    ],
)
def test_what_filters_mean(condition: dict[str, Any], passes: bool) -> None:
    assert parsed(condition).matches(PLACE) is passes
    assert FilterIndex.build([orjson.dumps(PLACE), b"{}"]).mask(parsed(condition))[0] == passes


@pytest.mark.parametrize(
    ("condition", "path"),
    [
        ([], "'filter' must be an object"),
        ({"$near": 1}, r"'filter.\$near'"),
        ({"year": {"$near": 1}}, r"'filter.year.\$near' is no operator"),
        ({"year": {}}, "'filter.year' is empty"),
        ({"year": [1]}, r"\$in"),
        ({"year": {"$gt": True}}, r"'filter.year.\$gt' must be a number or a text"),
        ({"year": {"$gt": None}}, "must be a number or a text"),
        ({"year": {"$in": 3}}, "must be a list"),
        ({"year": {"$in": [[1]]}}, r"'filter.year.\$in\[0\]'"),
        ({"year": {"$exists": 1}}, "true or false"),
        ({"$or": []}, "one or more"),
        ({"$or": [{"a": 1}, 3]}, r"'filter.\$or\[1\]'"),
        ({"a": float("nan")}, "finite"),
        ({"a": 2**70}, "too large"),
        ({"a": {"$in": list(range(10001))}}, "10000"),
        ({"$and": [{"a": 1}] * 1001}, "1000 conditions"),
    ],
)
def test_what_is_wrong_is_named_with_its_place(condition: Any, path: str) -> None:
    with pytest.raises(InvalidRequest, match=path) as error:
        parse_filter(condition)
    assert error.value.param == "filter"


def test_depth_is_bounded() -> None:
    condition: dict[str, Any] = {"a": 1}
    for _ in range(50):
        condition = {"$not": condition}
    with pytest.raises(InvalidRequest, match="16 deep"):
        parse_filter(condition)


def test_none_and_empty_let_all_through() -> None:
    assert parse_filter(None) is None
    assert parse_filter({}) is None


KEYS = st.sampled_from(["a", "b", "a.b", "c"])
SCALARS = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-3, 3),
    st.sampled_from(
        [2**53, 2**53 + 1, 2**53 + 2, -(2**53) - 1, 2**63 - 1, 2**64 - 1, 0.5, -0.0, 1e300, 9007199254740993.0]
    ),
    st.sampled_from(["", "a", "b", "ab", "é", "中", "𠀀", "\uffff", "2020-01-02"]),
)
VALUES = st.recursive(
    SCALARS,
    lambda inner: st.one_of(st.lists(inner, max_size=3), st.dictionaries(KEYS, inner, max_size=2)),
    max_leaves=5,
)
METADATA = st.dictionaries(KEYS, VALUES, max_size=4)
ORDERED = st.one_of(
    st.integers(-3, 3), st.sampled_from([2**53, 2**53 + 1, -(2**53) - 1, 1e300, 0.5]), st.text("ab中𠀀", max_size=2)
)
FIELDS = st.one_of(
    SCALARS,
    st.fixed_dictionaries(
        {},
        optional={
            "$eq": SCALARS,
            "$ne": SCALARS,
            "$gt": ORDERED,
            "$gte": ORDERED,
            "$lt": ORDERED,
            "$lte": ORDERED,
            "$in": st.lists(SCALARS, max_size=3),
            "$nin": st.lists(SCALARS, max_size=3),
            "$exists": st.booleans(),
        },
    ).filter(bool),
)
PATHS = st.sampled_from(["a", "b", "a.b", "c", "b.c", "nowhere"])
FILTERS = st.recursive(
    st.dictionaries(PATHS, FIELDS, min_size=1, max_size=2),
    lambda inner: st.one_of(
        st.lists(inner, min_size=1, max_size=3).map(lambda result: {"$or": result}),
        st.lists(inner, min_size=1, max_size=3).map(lambda result: {"$and": result}),
        inner.map(lambda result: {"$not": result}),
    ),
    max_leaves=4,
)


@pytest.mark.slow
@given(st.lists(METADATA, min_size=1, max_size=8), FILTERS, st.data())
def test_the_index_says_of_each_document_what_the_filter_says(
    documents: list[dict[str, Any]], condition: dict[str, Any], data: st.DataObject
) -> None:
    encoded = [orjson.dumps(document) for document in documents]
    checked = parsed(condition)
    expected = [checked.matches(orjson.loads(document)) for document in encoded]
    index = FilterIndex.build(encoded)
    assert index.mask(checked).tolist() == expected, json.dumps(condition)
    reread = FilterIndex.from_arrays(index.arrays())
    assert reread.mask(checked).tolist() == expected
    growing = GrowingFilters()
    for document in encoded:
        growing.append(document)
    assert growing.at(len(encoded)).mask(checked).tolist() == expected
    assert growing.at(1).mask(checked).tolist() == expected[:1]

    cut = data.draw(st.integers(0, len(encoded)))
    live = np.array(data.draw(st.lists(st.booleans(), min_size=len(encoded), max_size=len(encoded))))
    merged = FilterIndex.merge(
        [
            (FilterIndex.build(encoded[:cut]), live[:cut]),
            (growing.at(len(encoded)), None),
            (FilterIndex.build(encoded[cut:]), live[cut:]),
        ]
    )
    remaining = [passes for passes, is_live in zip(expected, live, strict=True) if is_live]
    split = int(np.count_nonzero(live[:cut]))
    assert merged.mask(checked).tolist() == remaining[:split] + expected + remaining[split:]


@pytest.mark.parametrize(
    "condition",
    [
        {"session": "s3", "user": "", "expires": {"$gt": 5}},
        {"session": "s3", "user": "a", "day": {"$gte": 10, "$lt": 300}},
        {"$and": [{"session": "s3", "user": "a"}, {"tags": "x"}, {"$not": {"day": {"$in": [3, 43, 83]}}}]},
        {"session": "nowhere", "user": "a"},
        {"tags": {"$in": ["rare", "x"]}, "session": {"$in": ["s1", "s2"]}},
        {"expires": {"$gt": 5}, "user": {"$exists": True}},
        {"$or": [{"session": "s3", "day": {"$lt": 50}}, {"tags": "rare"}]},
    ],
)
def test_a_filter_that_begins_with_its_rarest_condition_lets_the_same_through(condition: dict[str, Any]) -> None:
    documents: list[dict[str, Any]] = [
        {
            "session": f"s{number % 20}",
            "user": "" if number % 3 else "a",
            "day": number,
            "expires": 1e18,
            "tags": ["x", "y"] if number % 2 else ["y", "rare"] if number == 44 else [],
        }
        for number in range(400)
    ]
    checked = parsed(condition)
    index = FilterIndex.build([orjson.dumps(document) for document in documents])
    assert index.mask(checked).tolist() == [checked.matches(document) for document in documents]
    growing = GrowingFilters()
    for number, document in enumerate(documents):
        growing.append(orjson.dumps(document))
        if number % 90 == 0:  # asked while it grows: its columns are filled bit by bit
            assert growing.at(number).mask(checked).tolist() == index.mask(checked).tolist()[:number]
    assert growing.at(400).mask(checked).tolist() == index.mask(checked).tolist()
    assert growing.at(399).text_column("session").codes.tolist() == [number % 20 for number in range(399)]
    assert growing.at(10).number_column("day").tolist() == [*range(10)]


def test_columns_say_what_each_document_has() -> None:
    index = FilterIndex.build([b'{"a":"x","n":2}', b"{}", b'{"a":"y","n":1}', b'{"a":"x"}'])
    column = index.text_column("a")
    assert [column.texts[code] if code >= 0 else None for code in column.codes] == ["x", None, "y", "x"]
    assert [column.texts[code] for code in column.code_of.values()] == [*column.code_of]
    assert np.array_equal(index.number_column("n"), [2.0, np.nan, 1.0, np.nan], equal_nan=True)
    assert index.text_column("a") is column


def test_documents_without_metadata_cost_nothing() -> None:
    index = FilterIndex.build([b"{}"] * 10_000)
    assert sum(array.nbytes for array in index.arrays().values()) < 200
    assert index.mask(parsed({"a": {"$exists": False}})).all()
