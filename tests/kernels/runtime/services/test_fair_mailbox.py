"""Calls of a service that say whose they are (`tenant`) wait in turns."""

from __future__ import annotations

import threading

import pytest

from sage.api.local_environment import LocalEnvironment
from sage.errors import Unavailable
from sage.kernels.runtime.service.base_service_task import BaseServiceTask

BEGUN, GATE = threading.Event(), threading.Event()


class Slow(BaseServiceTask):
    """Works on one thing at a time, and not before it may."""

    max_workers = 1
    queue_size = 4

    def setup(self) -> None:
        self.order: list[str] = []

    def work(self, name: str, *, tenant: str | None = None) -> None:
        BEGUN.set()
        GATE.wait(20)
        self.order.append(name)

    def done(self) -> list[str]:
        return self.order


def test_tenants_take_turns_and_the_largest_makes_room() -> None:
    environment = LocalEnvironment("turns")
    environment.register_service("slow", Slow)
    with environment:
        slow = environment.call_service_async["slow"]
        calls = [slow.work("a0", tenant="a")]
        assert BEGUN.wait(20)
        calls += [slow.work(f"a{number}", tenant="a") for number in (1, 2, 3)]
        calls += [slow.work("nobody's")]
        with pytest.raises(Unavailable, match="calls wait for the service 'slow'"):
            slow.work("a4", tenant="a")
        calls.append(slow.work("b1", tenant="b"))
        with pytest.raises(Unavailable, match="calls wait for the service 'slow'"):
            calls[3].result(timeout=20)
        GATE.set()
        for call in (*calls[:3], *calls[4:]):
            call.result(timeout=20)
        assert environment.call_service["slow"].done() == ["a0", "nobody's", "b1", "a1", "a2"]


def test_ordered_calls_of_one_tenant_leave_room_for_others() -> None:
    BEGUN.clear()
    GATE.clear()
    environment = LocalEnvironment("order")
    environment.register_service("slow", Slow)
    with environment:
        ordered = environment.call_service_async["slow"].options(order="k")
        calls = [ordered.work("a0", tenant="a")]
        assert BEGUN.wait(20)
        calls += [ordered.work(f"a{number}", tenant="a") for number in (1, 2)]
        calls.append(environment.call_service_async["slow"].work("b1", tenant="b"))
        GATE.set()
        for call in calls:
            call.result(timeout=20)
        assert environment.call_service["slow"].done() == ["a0", "b1", "a1", "a2"]
