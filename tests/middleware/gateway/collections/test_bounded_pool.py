"""A bounded pool of threads, for which tenants take turns."""

from __future__ import annotations

import threading

import pytest

from sage.errors import Unavailable
from sage.middleware.gateway.collections.bounded_pool import BoundedPool


def test_tenants_take_turns_and_the_largest_makes_room() -> None:
    pool, begun, gate, running = BoundedPool("work", 1, 3), list[str](), threading.Event(), threading.Event()

    def block() -> None:
        running.set()
        gate.wait(20)

    first = pool.submit(block, "a")
    assert running.wait(20)
    a1, a2, a3 = (pool.submit(lambda n=n: begun.append(f"a{n}"), "a") for n in (1, 2, 3))
    with pytest.raises(Unavailable):
        pool.submit(lambda: begun.append("a4"), "a")
    b1 = pool.submit(lambda: begun.append("b1"), "b")
    with pytest.raises(Unavailable, match="too many requests wait for work"):
        a3.result(20)
    gate.set()
    for piece in (first, a1, a2, b1):
        piece.result(20)
    assert begun == ["b1", "a1", "a2"]
    pool.close()
