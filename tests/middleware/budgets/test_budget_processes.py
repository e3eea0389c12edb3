"""Several processes on one budget: together they pass what it is for, and what a killed one held comes back."""

from __future__ import annotations

import asyncio
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest
from budget_fixtures import Clock, make_budgets, view

from sage.middleware.settings.database import DatabaseUrl

pytestmark = [pytest.mark.slow, pytest.mark.both_databases]
PROGRAM = [sys.executable, str(Path(__file__).with_name("budget_process.py"))]
PATH = [str(Path(__file__).parent), *sys.path]
BUDGET = {"users": {"ann": {"tokens": 100, "window": "total"}}}


@contextmanager
def process(directory: Path, url: DatabaseUrl | None, calls: int) -> Iterator[subprocess.Popen[str]]:
    words = [str(directory), "-" if url is None else url.conninfo, str(calls)]
    environment = {"PYTHONPATH": ":".join(PATH)}
    started = subprocess.Popen(
        [*PROGRAM, *words], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment
    )
    with started:
        try:
            yield started
        finally:
            started.kill()


def go_on(started: subprocess.Popen[str]) -> None:
    assert started.stdin is not None
    started.stdin.write("\n")
    started.stdin.flush()


def told(started: subprocess.Popen[str]) -> str:
    assert started.stdout is not None
    return started.stdout.readline().strip()


def test_500_calls_of_4_processes_on_a_budget_for_10(tmp_path: Path, database_url: DatabaseUrl | None) -> None:
    budgets = make_budgets(tmp_path, url=database_url, **BUDGET)
    with ExitStack() as stack:
        processes = [stack.enter_context(process(tmp_path, database_url, 125)) for _ in range(4)]
        assert [told(each) for each in processes] == ["ready"] * 4
        for each in processes:
            go_on(each)
        assert sum(int(told(each)) for each in processes) == 10
        assert [view(budgets, "user:ann")[name] for name in ("spent", "reserved", "left")] == [0, 100, 0]
        for each in processes:
            go_on(each)
        assert [told(each) for each in processes] == ["settled"] * 4
        for each in processes:
            go_on(each)
        assert [each.wait(20) for each in processes] == [0] * 4
    assert [view(budgets, "user:ann")[name] for name in ("spent", "reserved", "left")] == [100, 0, 0]
    budgets.close()


def test_what_a_killed_process_held_comes_back(tmp_path: Path, database_url: DatabaseUrl | None) -> None:
    clock = Clock()
    budgets = make_budgets(tmp_path, clock, url=database_url, **BUDGET)
    with process(tmp_path, database_url, 4) as started:
        assert told(started) == "ready"
        go_on(started)
        assert told(started) == "4"
        started.kill()
    assert view(budgets, "user:ann")["reserved"] == 40

    async def wait(seconds: float) -> None:
        for _ in range(int(seconds)):
            clock.now += 1
            await budgets.upkeep.round()
            await budgets.upkeep.round()

    asyncio.run(wait(29))
    assert view(budgets, "user:ann")["reserved"] == 40
    asyncio.run(wait(3))
    assert view(budgets, "user:ann")["reserved"] == 0
    budgets.close()
