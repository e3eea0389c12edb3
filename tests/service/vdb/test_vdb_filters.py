"""Filters of a vector service against a model that looks at every item, on both engines."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sage.service import VDBService

ITEMS = 150
DIMENSION = 4
_OPERATORS = {
    "$gt": lambda a, b: a > b,
    "$gte": lambda a, b: a >= b,
    "$lt": lambda a, b: a < b,
    "$lte": lambda a, b: a <= b,
}


def metadata_of(random: np.random.Generator) -> dict[str, Any]:
    """Fields that are sometimes missing: numbers of both kinds, words, truth values, lists."""
    values: dict[str, Any] = {
        "n": int(random.integers(-3, 4)) if random.random() < 0.5 else float(random.integers(-6, 7)) / 2,
        "w": str(random.choice(["a", "b", "c", "1", "true"])),
        "b": bool(random.random() < 0.5),
        "t": [str(word) for word in random.choice(["a", "b", "c"], size=random.integers(1, 3))],
        "l": [int(number) for number in random.integers(0, 4, size=2)],
    }
    return {key: value for key, value in values.items() if random.random() < 0.75}


RANDOM = np.random.default_rng(11)
METADATA = [metadata_of(RANDOM) for _ in range(ITEMS)]
VECTORS = RANDOM.normal(size=(ITEMS, DIMENSION)).astype(np.float32)


def equals(metadata: Mapping[str, Any], field: str, value: Any) -> bool:
    values = metadata.get(field, [])
    candidates = values if isinstance(values, list) else [values]
    return any(v == value and isinstance(v, bool) == isinstance(value, bool) for v in candidates)


def passes(where: Mapping[str, Any], metadata: Mapping[str, Any]) -> bool:
    return all(_passes(key, condition, metadata) for key, condition in where.items())


def _passes(key: str, condition: Any, metadata: Mapping[str, Any]) -> bool:
    if key == "$and":
        return all(passes(each, metadata) for each in condition)
    if key == "$or":
        return any(passes(each, metadata) for each in condition)
    if not isinstance(condition, Mapping):
        return equals(metadata, key, condition)
    return all(_meets(operator, operand, key, metadata) for operator, operand in condition.items())


def _meets(operator: str, operand: Any, field: str, metadata: Mapping[str, Any]) -> bool:
    if operator in ("$eq", "$ne"):
        return equals(metadata, field, operand) == (operator == "$eq")
    if operator in ("$in", "$nin"):
        return any(equals(metadata, field, value) for value in operand) == (operator == "$in")
    stored = metadata.get(field)
    return isinstance(stored, int | float) and not isinstance(stored, bool) and _OPERATORS[operator](stored, operand)


numbers = (
    st.integers(-4, 4) | st.integers(-8, 8).map(lambda n: n / 2) | st.sampled_from([2**40, -(2**63), 1e300, -1e300])
)
scalars = numbers | st.sampled_from(["a", "b", "c", "1", "true", "none"]) | st.booleans()
fields = st.sampled_from(["n", "w", "b", "t", "l", "missing"])
conditions = (
    st.tuples(fields, scalars).map(lambda p: {p[0]: p[1]})
    | st.tuples(fields, st.sampled_from(["$eq", "$ne"]), scalars).map(lambda p: {p[0]: {p[1]: p[2]}})
    | st.tuples(fields, st.sampled_from(["$in", "$nin"]), st.lists(scalars, max_size=4)).map(
        lambda p: {p[0]: {p[1]: p[2]}}
    )
    | st.dictionaries(st.sampled_from(list(_OPERATORS)), numbers, min_size=1, max_size=2).map(
        lambda condition: {"n": condition}
    )
    | st.dictionaries(fields, scalars, max_size=2)
)
wheres = st.recursive(
    conditions,
    lambda inner: st.tuples(st.sampled_from(["$and", "$or"]), st.lists(inner, min_size=1, max_size=3)).map(
        lambda p: {p[0]: p[1]}
    ),
    max_leaves=5,
)


@pytest.fixture(scope="module")
def ours() -> Iterator[VDBService]:
    with VDBService() as service:
        yield _filled(service)


@pytest.fixture(scope="module")
def chroma() -> Iterator[VDBService]:
    with VDBService("chroma") as service:
        yield _filled(service)


def _filled(service: VDBService) -> VDBService:
    service.add([{"id": f"{n}", "vector": VECTORS[n], "metadata": METADATA[n]} for n in range(ITEMS)])
    return service


def check(service: VDBService, where: dict[str, Any], count: int, place: int) -> None:
    """The best of those that pass, as many as there are; and the same ones counted and listed."""
    passing = [n for n in range(ITEMS) if passes(where, METADATA[n])]
    query = VECTORS[place] + np.float32(0.25)
    units = VECTORS / np.linalg.norm(VECTORS, axis=1, keepdims=True)
    scores = units @ (query / np.linalg.norm(query))
    best = sorted((float(scores[n]) for n in passing), reverse=True)[:count]
    results = service.search(query, n_results=count, where=where)
    assert [result["score"] for result in results] == pytest.approx(best, abs=1e-4)
    assert {int(result["id"]) for result in results} <= set(passing)
    assert service.count(where) == len(passing)
    assert [int(item["id"]) for item in service.list_items(where, limit=1000)["items"]] == passing


@given(where=wheres, count=st.sampled_from([1, 5, ITEMS]), place=st.integers(0, ITEMS - 1))
def test_our_engine_agrees_with_the_model(ours: VDBService, where: dict[str, Any], count: int, place: int) -> None:
    check(ours, where, count, place)


@pytest.mark.slow
@settings(max_examples=500 if os.environ.get("SAGE_TEST_FULL") else 40, deadline=None)
@given(where=wheres, count=st.sampled_from([1, 5, ITEMS]), place=st.integers(0, ITEMS - 1))
def test_chroma_agrees_with_the_model(chroma: VDBService, where: dict[str, Any], count: int, place: int) -> None:
    check(chroma, where, count, place)
