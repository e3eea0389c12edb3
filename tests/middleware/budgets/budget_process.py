"""A program for tests of budgets: a process that asks for many calls at once on the database of others.

``python budget_process.py DIRECTORY URL CALLS`` waits for a line on stdin, asks for CALLS calls of 10 tokens each for
``user:ann``, and prints how many passed. It settles them with the next line, and ends with the third. URL is ``-``
for SQLite. What it holds, it holds until it ends.
"""

from __future__ import annotations

import asyncio
import sys
import time
from pathlib import Path

from budget_fixtures import make_budgets, reserve

from sage.middleware.budgets.reservation import Reservation
from sage.middleware.settings.database import DatabaseUrl


async def main(directory: str, url: str, count: int) -> None:
    budgets = make_budgets(
        Path(directory),
        time.time,
        url=None if url == "-" else DatabaseUrl(url),
        users={"ann": {"tokens": 100, "window": "total"}},
    )
    await budgets.begin()
    await told("ready")
    outcomes = await asyncio.gather(*(reserve(budgets, tokens=10) for _ in range(count)), return_exceptions=True)
    passed = [each for each in outcomes if isinstance(each, Reservation)]
    await told(len(passed))
    for each in passed:
        each.settle(None, 10, "gpt")
    await told("settled")
    await budgets.end()


async def told(what: object) -> None:
    """Tells it, and waits for a line."""
    print(what, flush=True)
    await asyncio.to_thread(sys.stdin.readline)


asyncio.run(main(sys.argv[1], sys.argv[2], int(sys.argv[3])))
