"""Where requests wait, tenants take turns: who asks for much keeps nobody else waiting for more than one of its own."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from running_gateway import PASSWORD, Running
from tiny_gguf import write_llama
from upstream import Upstream, reply
from waiting import wait_until

from sage.middleware.auth.grants import KeyRequest

pytestmark = pytest.mark.slow  # nearly each test starts a gateway, or has several threads


@pytest.fixture(scope="module")
def served(module_gateway: Callable[..., Running]) -> Iterator[tuple[Running, Upstream]]:
    """Two models of one provider, which answers one request at a time; three requests may wait for each."""
    with Upstream() as up:
        providers = {"up": {"kind": "openai", "base_url": up.url, "max_concurrency": 1}}
        models = {name: {"deployments": [{"provider": "up", "model": "m"}]} for name in ("one", "two")}
        routing = {"queue_timeout": 60, "queue_size": 3}
        yield module_gateway(llm={"providers": providers, "models": models, "routing": routing}), up


def say(running: Running, text: str, model: str = "one", key: str | None = None) -> int:
    return running.chat(model, messages=[{"role": "user", "content": text}], key=key).status_code


def wait_for(running: Running, waiting: int, model: str = "one") -> None:
    deadline = time.monotonic() + 20
    while running.get(f"/models/{model}").json()["deployments"][0]["waiting"] != waiting:
        assert time.monotonic() < deadline
        time.sleep(0.005)


@pytest.mark.parametrize("model", ["one", "two"])
def test_tenants_take_turns_at_a_deployment(served: tuple[Running, Upstream], model: str) -> None:
    running, up = served
    up.reset()
    gate = threading.Event()
    up.use(reply({"choices": [{"message": {}}]}, gate=gate), 1)
    other = running.new_key(tenant="other")
    with ThreadPoolExecutor(5) as pool:
        answers = [pool.submit(say, running, "a0")]
        up.wait_requests(1)
        for number in (1, 2, 3):
            answers.append(pool.submit(say, running, f"a{number}"))
            wait_for(running, number)
        answers.append(pool.submit(say, running, "b0", model, other))
        if model == "one":  # there is room for three: the newest of the tenant that has the most gives up its place
            assert answers[3].result(20) == 503
        else:
            wait_for(running, 1, "two")
        gate.set()
        statuses = [answer.result() for answer in answers]
    order = [request.body["messages"][-1]["content"] for request in up.requests]
    if model == "one":
        assert statuses == [200, 200, 200, 503, 200]
        assert order == ["a0", "b0", "a1", "a2"]
    else:
        assert statuses == [200] * 5
        assert order == ["a0", "b0", "a1", "a2", "a3"]


def test_users_of_a_tenant_take_turns(served: tuple[Running, Upstream]) -> None:
    running, up = served
    up.reset()
    assert running.accounts is not None
    running.accounts.users.add("ann", PASSWORD, role="user")
    ann, gate = running.accounts.keys.create_for("ann", KeyRequest()).secret, threading.Event()
    assert running.get("/auth/me", key=ann).json()["tenant"] == running.get("/auth/me").json()["tenant"]
    up.use(reply({"choices": [{"message": {}}]}, gate=gate), 1)
    with ThreadPoolExecutor(5) as pool:
        answers = [pool.submit(say, running, "r0")]
        up.wait_requests(1)
        for number in (1, 2, 3):
            answers.append(pool.submit(say, running, f"r{number}"))
            wait_for(running, number)
        answers.append(pool.submit(say, running, "ann", "one", ann))
        assert answers[3].result(20) == 503  # there is room for three: who has the most gives up the newest
        gate.set()
        assert [answer.result() for answer in answers] == [200, 200, 200, 503, 200]
    assert [request.body["messages"][-1]["content"] for request in up.requests] == ["r0", "ann", "r1", "r2"]


def test_turns_elsewhere_do_not_count(gateway: Callable[..., Running]) -> None:
    """Who uses one model all the time is not behind at another."""
    with Upstream() as up:
        providers = {name: {"kind": "openai", "base_url": up.url, "max_concurrency": 1} for name in ("up", "else")}
        models = {name: {"deployments": [{"provider": name, "model": "m"}]} for name in providers}
        running = gateway(llm={"providers": providers, "models": models, "routing": {"queue_timeout": 60}})
        other, gate = running.new_key(tenant="other"), threading.Event()
        up.use(reply({"choices": [{"message": {}}]}, gate=gate), 1)
        with ThreadPoolExecutor(5) as pool:
            answers = [pool.submit(say, running, "a0", "up")]
            up.wait_requests(1)
            answers += [pool.submit(say, running, "a1", "up")]
            wait_for(running, 1, "up")
            for _ in range(3):
                assert say(running, "b", "else", other) == 200
            answers += [pool.submit(say, running, "b0", "up", other)]
            wait_for(running, 2, "up")
            gate.set()
            assert {answer.result() for answer in answers} == {200}
        order = [request.body["messages"][-1]["content"] for request in up.requests]
    assert order == ["a0", "b", "b", "b", "b0", "a1"]


def waiting(running: Running) -> int:
    """Requests that wait for the one place at the model."""
    return int(running.get("/models/tiny").json()["deployments"][0]["waiting"])


@pytest.mark.slow
def test_tenants_take_turns_at_a_local_model(local: Callable[..., Running], tmp_path: Path) -> None:
    """Twelve long requests of one tenant do not keep a short one of another waiting for more than one of them."""
    path = write_llama(tmp_path / "tiny.gguf", context=512)
    running = local(tiny={"path": str(path), "parallel": 1, "context": 512, "temperature": 0})
    other = running.new_key(tenant="other")
    assert running.chat("tiny", max_tokens=1).status_code == 200
    finished: list[str] = []

    def ask(who: str, tokens: int, key: str | None = None) -> int:
        status = running.chat("tiny", max_tokens=tokens, key=key, timeout=300).status_code
        finished.append(who)
        return status

    with ThreadPoolExecutor(13) as pool:
        answers = [pool.submit(ask, "long", 200) for _ in range(12)]
        wait_until(lambda: waiting(running) >= 8)
        before = len(finished)
        answers.append(pool.submit(ask, "short", 2, other))
        assert running.post("/v1/tokenize", {"model": "tiny", "prompt": "hello"}).status_code == 200  # needs no slot
        assert waiting(running) > 0
        assert {answer.result() for answer in answers} == {200}
    assert finished.index("short") <= before + 4, "eight and more came before it"
    assert running.get("/models/tiny").json()["in_flight"] == 0
