"""One caller's poison takes a model from that caller alone; what is the deployment's own fault takes it from all."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest
from running_gateway import Running
from upstream import Received, Script, Upstream, openai_like, reply

from sage.errors import UpstreamFailed
from sage.middleware.dispatch.caller_breakers import Breakers
from sage.middleware.settings.settings import Routing

pytestmark = pytest.mark.slow  # nearly each test starts a gateway, or has several threads

ROUTING = Routing(breaker_failures=5, breaker_pause=60.0)
POISON = UpstreamFailed("it answered 500")
DOWN = UpstreamFailed("cannot be reached", code="connect_failed")


@pytest.fixture
def up() -> Iterator[Upstream]:
    with Upstream() as upstream:
        upstream.handler = poisoned
        yield upstream


def poisoned(request: Received) -> Script:
    body = request.body if isinstance(request.body, dict) else {}
    return reply(status=500) if body.get("top_k") == 13 else openai_like(request)


@pytest.fixture
def running(up: Upstream, upstreams: Callable) -> Running:
    started = upstreams(up, provider={"retries": 0}, llm={"routing": {"breaker_failures": 3, "breaker_pause": 60}})
    assert isinstance(started, Running)
    return started


def poison(running: Running, count: int, key: str) -> list[int]:
    return [running.chat(key=key, top_k=13).status_code for _ in range(count)]


def test_one_tenants_poison_keeps_nobody_else_from_the_model(up: Upstream, running: Running) -> None:
    bad, good = running.new_key(tenant="bad"), running.new_key(tenant="good")
    assert poison(running, 5, bad) == [502, 502, 502, 503, 503]
    assert len(up.requests) == 3
    for key in (good, running.key):
        for stream in (False, True):
            assert running.chat(key=key, stream=stream).status_code == 200
    answer = running.chat(key=bad)
    assert answer.status_code == 503
    assert answer.json()["error"]["code"] == "upstream_left_alone"
    assert running.get("/models/bench").json()["deployments"][0]["breaker"]["state"] == "open"
    told = running.post("/models/bench/explain", {}, key=good)
    assert told.json()["chosen"] == "up0/theirs-0", told.text
    assert running.post("/models/bench/explain", {}, key=bad).json()["chosen"] is None


def test_good_answers_to_others_do_not_let_poison_go_on(running: Running) -> None:
    bad, good = running.new_key(tenant="bad"), running.new_key(tenant="good")
    seen = []
    for _ in range(5):
        seen += poison(running, 1, bad)
        assert running.chat(key=good).status_code == 200
    assert seen == [502, 502, 502, 503, 503]


def test_failures_that_several_tenants_meet_are_the_deployments_own(up: Upstream, running: Running) -> None:
    keys = [running.new_key(tenant=name) for name in ("one", "two", "three")]
    up.reply(status=500)
    assert [running.chat(key=key).status_code for key in (keys[0], keys[1], keys[0])] == [502] * 3
    assert running.chat(key=keys[2]).status_code == 503
    assert len(up.requests) == 3


def test_an_address_where_nobody_listens_is_the_deployments_own(upstreams: Callable) -> None:
    class Nowhere:
        url = "http://127.0.0.1:9/v1"

    llm: dict[str, Any] = {"routing": {"breaker_failures": 3, "breaker_pause": 60}}
    running = upstreams(Nowhere, provider={"retries": 0}, llm=llm)
    one, two = running.new_key(tenant="one"), running.new_key(tenant="two")
    assert [running.chat(key=one).status_code for _ in range(3)] == [502] * 3
    assert running.chat(key=two).status_code == 503


@pytest.mark.parametrize("status", [402, 405, 410, 418, 451])
def test_a_4xx_says_nothing_of_the_deployment(up: Upstream, running: Running, status: int) -> None:
    up.reply(status=status)
    assert [running.chat().status_code for _ in range(5)] == [502] * 5
    assert len(up.requests) == 5


def test_callers_of_one_tenant_are_told_apart_and_together_count() -> None:
    breakers = Breakers()
    for _ in range(5):
        breakers.fail(("t", "bad"), 0.0, POISON, (), ROUTING)
    assert not breakers.admits(1.0, ("t", "bad"))
    assert breakers.admits(1.0, ("t", "good"))
    assert breakers.admits(1.0, ("other", "bad"))
    for _ in range(2):
        breakers.fail(("t", "good"), 1.0, POISON, (), ROUTING)
    assert not breakers.admits(2.0, ("t", "third"))
    assert breakers.admits(2.0, ("other", "x"))


def test_failures_that_nobody_can_provoke_open_it_for_all() -> None:
    breakers = Breakers()
    for _ in range(5):
        assert breakers.admits(0.0, ("other", "x"))
        breakers.fail(("t", "u"), 0.0, DOWN, (), ROUTING)
    assert not breakers.admits(1.0, ("other", "x"))
    probes = breakers.take(("other", "x"))
    assert len(probes) == 1
    breakers.answered(probes, 5)
    assert breakers.admits(61.0, ("t", "u"))
    breakers.succeed(("t", "u"))
    assert not breakers.is_open
    assert not breakers.failing


def test_a_probe_is_one_callers_own() -> None:
    breakers = Breakers()
    bad = ("t", "bad")
    for _ in range(5):
        breakers.fail(bad, 0.0, POISON, (), ROUTING)
    assert breakers.admits(60.0, bad)
    probes = breakers.take(bad)
    assert not breakers.admits(60.0, bad)
    assert breakers.admits(60.0, ("t", "good"))
    breakers.give_back(probes)
    probes = breakers.take(bad)
    breakers.fail(bad, 60.0, POISON, probes, ROUTING)
    assert breakers.opens_at(61.0, bad) == 60.0 + 120.0
    breakers.succeed(("t", "good"))
    assert not breakers.admits(61.0, bad)


def test_memory_is_bounded_however_many_callers_fail() -> None:
    breakers = Breakers()
    patient = Routing(breaker_failures=1_000_000)
    for number in range(700):
        breakers.fail((f"tenant {number}", "u"), 0.0, POISON, (), patient)
    assert len(breakers._of_some) <= 512
    assert len(breakers.all._row) <= 64
    breakers = Breakers()
    for _ in range(5):
        breakers.fail(("gone", "u"), 0.0, POISON, (), ROUTING)
    breakers.admits(1e6, ("other", "x"))
    assert not breakers.is_open
