"""Regular expressions of callers, tried in a process that can be ended."""

from __future__ import annotations

import asyncio

import pytest

from sage.middleware.evaluation.regex_match import regex_match

pytestmark = pytest.mark.slow


def test_a_match_none_and_one_that_takes_ages() -> None:
    async def run() -> list[float | None]:
        tasks = [("^4[0-9]$", "42"), ("^4[0-9]$", "52"), ("(a+)+$", "a" * 60 + "b"), ("答案", "答案是")]
        return list(await asyncio.gather(*(regex_match(*task) for task in tasks)))

    assert asyncio.run(run()) == [1.0, 0.0, None, 1.0]
