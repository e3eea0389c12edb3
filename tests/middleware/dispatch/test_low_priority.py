"""``x-sage-priority: low``: such a call gives way to live ones, and comes through all the same."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from functools import partial

import pytest
import requests
from running_gateway import Running
from upstream import Upstream, reply

from sage.middleware.dispatch import low_priority

LOW = {"x-sage-priority": "low"}
ANSWER = {"choices": [{"index": 0, "message": {"role": "assistant", "content": "x"}, "finish_reason": "stop"}]}


@pytest.fixture(scope="module")
def served(module_gateway: Callable[..., Running]) -> Iterator[tuple[Running, Upstream]]:
    """Models of one upstream: ``one`` and ``three`` have as many places there, ``free`` has no bound."""
    with Upstream() as up:
        models = {
            name: {"deployments": [{"provider": name, "model": "m"}]}
            for name in ("one", "three", "free", "hasty", "busy")
        }
        providers = {name: {"kind": "openai", "base_url": up.url} for name in models}
        for name in ("one", "hasty", "busy"):
            providers[name]["max_concurrency"] = 1  # type: ignore[assignment]
        providers["three"]["max_concurrency"] = 3  # type: ignore[assignment]
        models["hasty"]["timeouts"] = {"total": 0.5}  # type: ignore[assignment]
        yield module_gateway(llm={"providers": providers, "models": models, "routing": {"queue_timeout": 60}}), up


@pytest.fixture
def pool() -> Iterator[ThreadPoolExecutor]:
    with ThreadPoolExecutor(24) as threads:
        yield threads


def say(running: Running, text: str, model: str, *, low: bool = False, **options: str) -> requests.Response:
    return running.chat(
        model, messages=[{"role": "user", "content": text}], headers=LOW if low else {}, timeout=60, **options
    )


def metric(running: Running, name: str) -> float:
    lines = running.get("/metrics").text.splitlines()
    return float(next(line.split()[1] for line in lines if line.startswith(f"sage_low_priority_{name} ")))


def wait_until(holds: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 20
    while not holds():
        assert time.monotonic() < deadline
        time.sleep(0.005)


def waits(running: Running, number: int) -> bool:
    return bool(running.get("/models/one").json()["deployments"][0]["waiting"] == number)


def said(up: Upstream) -> list[str]:
    return [request.body["messages"][-1]["content"] for request in up.requests]


def test_an_unknown_priority_is_refused(served: tuple[Running, Upstream]) -> None:
    running, up = served
    up.reset()
    answer = running.chat("free", headers={"x-sage-priority": "urgent"})
    assert (answer.status_code, answer.json()["error"]["code"]) == (400, "invalid_priority")
    assert answer.json()["error"]["param"] == "x-sage-priority"
    assert "'low' or 'normal', not 'urgent'" in answer.json()["error"]["message"]
    assert up.requests == []
    assert running.chat("free", headers={"x-sage-priority": "normal"}).status_code == 200


@pytest.mark.slow
def test_live_calls_overtake_those_of_low_priority(served: tuple[Running, Upstream], pool: ThreadPoolExecutor) -> None:
    """Also those that came later, of the same tenant; the low call is answered once none came for a second."""
    running, up = served
    up.reset()
    gate = threading.Event()
    up.use(reply(ANSWER, gate=gate), 1)
    answers = [pool.submit(say, running, "live 0", "one")]
    up.wait_requests(1)
    answers.append(pool.submit(say, running, "low", "one", low=True))
    wait_until(lambda: metric(running, "waiting") == 1)
    for number in (1, 2):
        answers.append(pool.submit(say, running, f"live {number}", "one"))
        wait_until(partial(waits, running, number))
    gate.set()
    assert [answer.result().status_code for answer in answers] == [200] * 4
    assert said(up) == ["live 0", "live 1", "live 2", "low"]
    assert up.requests[3].at - up.requests[2].at >= 1.0
    assert metric(running, "waiting") == metric(running, "in_flight") == 0


@pytest.mark.slow
def test_a_place_is_left_free_for_live_calls(served: tuple[Running, Upstream], pool: ThreadPoolExecutor) -> None:
    running, up = served
    up.reset()
    gate = threading.Event()
    up.use(reply(ANSWER, gate=gate), 2)
    low = [pool.submit(say, running, f"low {number}", "three", low=True) for number in range(4)]
    wait_until(lambda: metric(running, "in_flight") == 2 and metric(running, "waiting") == 2)
    up.wait_requests(2)
    assert say(running, "live", "three").status_code == 200
    gate.set()
    assert [answer.result().status_code for answer in low] == [200] * 4
    assert said(up)[2] == "live"


@pytest.mark.slow
def test_every_surface_gives_way(served: tuple[Running, Upstream], pool: ThreadPoolExecutor) -> None:
    running, up = served
    up.reset()
    gate = threading.Event()
    up.use(reply(ANSWER, gate=gate), 1)
    live = pool.submit(say, running, "live", "one")
    up.wait_requests(1)
    message = [{"role": "user", "content": "low"}]
    bodies = {
        "/v1/chat/completions": {"messages": message, "stream": True},
        "/v1/completions": {"prompt": "low"},
        "/v1/embeddings": {"input": ["low"]},
        "/generate": {"prompt": "low"},
        "/api/chat": {"messages": message, "stream": False},
        "/api/generate": {"prompt": "low", "stream": False},
        "/api/embed": {"input": "low"},
        "/v2/chat": {"messages": message},
    }
    low: list[Future[requests.Response]] = [
        pool.submit(running.post, path, {"model": "one", **body}, headers=LOW) for path, body in bodies.items()
    ]
    wait_until(lambda: metric(running, "waiting") == len(bodies))
    assert len(up.requests) == 1
    gate.set()
    assert live.result().status_code == 200
    assert [answer.result().status_code for answer in low] == [200] * len(bodies)
    assert len(up.requests) == 1 + len(bodies)


@pytest.mark.slow
def test_beside_live_calls_few_run_and_alone_all(served: tuple[Running, Upstream], pool: ThreadPoolExecutor) -> None:
    running, up = served
    up.reset()
    gate, later = threading.Event(), threading.Event()
    up.use(reply(ANSWER, gate=gate), 1)
    up.use(reply(ANSWER, gate=later), 8)
    live = pool.submit(say, running, "live", "free")
    up.wait_requests(1)
    low = [pool.submit(say, running, f"low {number}", "free", low=True) for number in range(8)]
    wait_until(lambda: metric(running, "in_flight") == 2 and metric(running, "waiting") == 6)
    gate.set()
    assert live.result().status_code == 200
    ended = time.monotonic()
    wait_until(lambda: metric(running, "in_flight") == 8)
    assert time.monotonic() - ended < 2.5
    later.set()
    assert [answer.result().status_code for answer in low] == [200] * 8


@pytest.mark.slow
def test_its_own_time_does_not_run_while_it_waits(served: tuple[Running, Upstream], pool: ThreadPoolExecutor) -> None:
    """The model answers within half a second or not at all; the low call waits for longer."""
    running, up = served
    up.reset()
    assert say(running, "live", "hasty").status_code == 200
    began = time.monotonic()
    assert say(running, "low", "hasty", low=True).status_code == 200
    assert time.monotonic() - began > 0.7
    assert said(up) == ["live", "low"]


@pytest.mark.slow
def test_one_goes_in_between_when_live_calls_never_end(
    served: tuple[Running, Upstream], pool: ThreadPoolExecutor, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It comes before the live calls that wait, and takes no turn of its tenant."""
    running, up = served
    up.reset()
    monkeypatch.setattr(low_priority, "_REST", (0.3, 0.5))
    ends = time.monotonic() + 2.5

    def live() -> int:
        count = 0
        while time.monotonic() < ends:
            assert say(running, "live", "busy").status_code == 200
            count += 1
        return count

    up.use(reply(ANSWER, delay=0.02), 1000)
    clients = [pool.submit(live) for _ in range(4)]
    up.wait_requests(2)
    low = [pool.submit(say, running, "low", "busy", low=True) for _ in range(12)]
    assert sum(client.result() for client in clients) > 20
    order = said(up)
    last = max(place for place, text in enumerate(order) if text == "live")
    assert 2 <= order[:last].count("low") <= 8
    assert [answer.result().status_code for answer in low] == [200] * 12


@pytest.mark.slow
def test_as_many_wait_as_may_and_none_for_ever(
    served: tuple[Running, Upstream], pool: ThreadPoolExecutor, monkeypatch: pytest.MonkeyPatch
) -> None:
    running, up = served
    up.reset()
    monkeypatch.setattr(low_priority, "_MOST_WAITING", 3)
    monkeypatch.setattr(low_priority, "_PATIENCE", 1.0)
    gate = threading.Event()
    up.use(reply(ANSWER, gate=gate), 1)
    live = pool.submit(say, running, "live", "one")
    up.wait_requests(1)
    low = [pool.submit(say, running, "low", "one", low=True) for _ in range(3)]
    wait_until(lambda: metric(running, "waiting") == 3)
    refused = say(running, "low", "one", low=True)
    assert (refused.status_code, refused.json()["error"]["code"]) == (503, "live_traffic_first")
    assert int(refused.headers["retry-after"]) >= 1
    other = pool.submit(say, running, "low", "one", low=True, key=running.new_key(tenant="other"))
    assert [answer.result().status_code for answer in low] == [503] * 3
    assert other.result().status_code == 503
    gate.set()
    assert live.result().status_code == 200
    assert said(up) == ["live"]
    assert metric(running, "waiting") == 0


@pytest.mark.slow
def test_a_client_that_leaves_waits_no_longer(served: tuple[Running, Upstream], pool: ThreadPoolExecutor) -> None:
    running, up = served
    up.reset()
    gate = threading.Event()
    up.use(reply(ANSWER, gate=gate), 1)
    live = pool.submit(say, running, "live", "one")
    up.wait_requests(1)
    with pytest.raises(requests.Timeout):
        running.chat("one", headers=LOW, timeout=0.3)
    wait_until(lambda: metric(running, "waiting") == 0 and metric(running, "in_flight") == 0)
    gate.set()
    assert live.result().status_code == 200
    assert len(up.requests) == 1
