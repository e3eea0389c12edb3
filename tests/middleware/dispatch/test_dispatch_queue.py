"""Requests wait for a deployment that is full: in their order, for a bounded time, and leave nothing behind."""

from __future__ import annotations

import asyncio
import random
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import orjson
import pytest
import requests
from departing import asking
from upstream import Upstream

from sage.errors import SageError
from sage.middleware.app.main import make_gateway
from sage.middleware.auth.principal import LOCAL
from sage.middleware.providers.base import ModelCall, Operation
from sage.middleware.providers.transport import FakeResponse, FakeTransport
from sage.middleware.settings.settings import Settings

pytestmark = pytest.mark.slow  # nearly each test starts a gateway, or has several threads


@pytest.fixture
def ups() -> Iterator[Callable[[], Upstream]]:
    with ExitStack() as stack:
        yield lambda: stack.enter_context(Upstream())


def bounded(gateway: Callable, *found: Upstream, model: dict | None = None, routing: dict | None = None, **provider):
    """A gateway whose model ``bench`` has a deployment at each of ``found``, with one request at a time."""
    providers = {f"up{n}": {"kind": "openai", "base_url": up.url, **provider} for n, up in enumerate(found)}
    deployments = [{"provider": name, "model": "m"} for name in providers]
    models = {"bench": {"deployments": deployments, "max_concurrency": 1, **(model or {})}}
    models["other"] = {"deployments": deployments[:1]}
    return gateway(llm={"providers": providers, "models": models, "routing": routing or {"queue_timeout": 60}})


def say(running, text: str, **options: Any) -> requests.Response:
    return running.chat(messages=[{"role": "user", "content": text}], **options)


def said(up: Upstream) -> list[str]:
    return [request.body["messages"][-1]["content"] for request in up.requests]


def wait_for(running, waiting: int, model: str = "bench") -> None:
    deadline = time.monotonic() + 10
    while running.get(f"/models/{model}").json()["deployments"][0]["waiting"] != waiting:
        assert time.monotonic() < deadline
        time.sleep(0.005)


def test_requests_wait_in_their_order(ups: Callable, gateway: Callable) -> None:
    up = ups()
    gate = threading.Event()
    up.reply({"choices": [{"message": {}}]}, gate=gate, times=1)
    running = bounded(gateway, up)
    with ThreadPoolExecutor(8) as pool:
        answers = [pool.submit(say, running, "0")]
        up.wait_requests(1)
        for number in range(1, 7):
            answers.append(pool.submit(say, running, str(number)))
            wait_for(running, number)
        gate.set()
        assert {answer.result().status_code for answer in answers} == {200}
    assert said(up) == list("0123456")
    shown = running.get("/models/bench").json()
    assert (shown["deployments"][0]["waiting"], shown["in_flight"]) == (0, 0)


@pytest.mark.slow
def test_a_newcomer_does_not_overtake_and_the_bound_holds(ups: Callable, gateway: Callable) -> None:
    up = ups()
    running = bounded(gateway, up, model={"max_concurrency": 3})
    running_now = most = 0
    usual, lock = up.handler, threading.Lock()

    def handler(request: Any) -> Any:
        nonlocal running_now, most
        with lock:
            running_now = sum(1 for seen in up.requests if not seen.answered.is_set())
            most = max(most, running_now)
        return usual(request)

    up.handler = handler
    with ThreadPoolExecutor(16) as pool:
        assert {answer.status_code for answer in pool.map(lambda n: say(running, str(n)), range(120))} == {200}
    assert most <= 3
    assert running.get("/models/bench").json()["in_flight"] == 0


@pytest.mark.slow
@pytest.mark.parametrize("bound", ["model", "provider"])
def test_a_wait_ends_after_the_queues_time(ups: Callable, gateway: Callable, bound: str) -> None:
    up = ups()
    gate = threading.Event()
    up.reply({"choices": [{"message": {}}]}, gate=gate, times=1)
    limits: dict = {"max_concurrency": 1} if bound == "provider" else {}
    model = {"max_concurrency": None} if bound == "provider" else {}
    running = bounded(gateway, up, model=model, routing={"queue_timeout": 0.3}, **limits)
    with ThreadPoolExecutor(1) as pool:
        first = pool.submit(say, running, "0")
        up.wait_requests(1)
        begun = time.monotonic()
        answer = say(running, "1")
        assert 0.3 <= time.monotonic() - begun < 10
        assert answer.status_code == 503
        assert answer.json()["error"]["code"] == "overloaded"
        assert "llm.providers.up0.max_concurrency" in answer.json()["error"]["message"] or bound == "model"
        assert int(answer.headers["retry-after"]) >= 1
        gate.set()
        assert first.result().status_code == 200
    assert len(up.requests) == 1
    assert say(running, "2").status_code == 200


def test_one_more_than_may_wait_is_refused_at_once(ups: Callable, gateway: Callable) -> None:
    up = ups()
    gate = threading.Event()
    up.reply({"choices": [{"message": {}}]}, gate=gate, times=1)
    running = bounded(gateway, up, routing={"queue_size": 2, "queue_timeout": 60})
    with ThreadPoolExecutor(3) as pool:
        answers = [pool.submit(say, running, "0")]
        up.wait_requests(1)
        answers += [pool.submit(say, running, "x") for _ in range(2)]
        wait_for(running, 2)
        begun = time.monotonic()
        refused = say(running, "more")
        assert time.monotonic() - begun < 20
        assert refused.status_code == 503
        assert "queue_size" in refused.json()["error"]["message"]
        told = running.post("/models/bench/explain", {}).json()
        assert told["waiting"] == 2
        assert told["chosen"] is None
        assert told["candidates"][0]["reason"] == "it has reached max_concurrency"
        gate.set()
        assert {answer.result().status_code for answer in answers} == {200}


def test_a_client_that_leaves_while_it_waits_leaves_nothing_behind(ups: Callable, gateway: Callable) -> None:
    up = ups()
    gate = threading.Event()
    up.reply({"choices": [{"message": {}}]}, gate=gate, times=1)
    running = bounded(gateway, up)
    with ThreadPoolExecutor(3) as pool:
        first = pool.submit(say, running, "0")
        up.wait_requests(1)
        with asking(running, messages=[{"role": "user", "content": "1"}]):
            wait_for(running, 1)
        wait_for(running, 0)
        last = pool.submit(say, running, "2")
        wait_for(running, 1)
        gate.set()
        assert first.result().status_code == last.result().status_code == 200
    assert said(up) == ["0", "2"]
    shown = running.get("/models/bench").json()
    assert (shown["deployments"][0]["waiting"], shown["in_flight"]) == (0, 0)


def test_two_models_of_one_provider_share_its_bound_in_their_order(ups: Callable, gateway: Callable) -> None:
    up = ups()
    gate = threading.Event()
    up.reply({"choices": [{"message": {}}]}, gate=gate, times=1)
    running = bounded(gateway, up, model={"max_concurrency": None}, max_concurrency=1)
    with ThreadPoolExecutor(4) as pool:
        answers = [pool.submit(say, running, "0")]
        up.wait_requests(1)
        for number, model in enumerate(("other", "bench", "other"), 1):
            answers.append(pool.submit(say, running, str(number), model=model))
            wait_for(running, (number + 1) // 2, model)
        gate.set()
        assert {answer.result().status_code for answer in answers} == {200}
    assert said(up) == ["0", "1", "2", "3"]


@pytest.mark.slow
@pytest.mark.parametrize(("patience", "answers"), [(0.3, "up1/m"), (60.0, "up0/m")])
def test_a_request_waits_for_its_model_before_it_falls_back(
    ups: Callable, gateway: Callable, patience: float, answers: str
) -> None:
    first, second = ups(), ups()
    gate = threading.Event()
    first.reply({"choices": [{"message": {}}]}, gate=gate, times=1)
    providers = {f"up{n}": {"kind": "openai", "base_url": up.url} for n, up in enumerate((first, second))}
    models = {
        "bench": {
            "deployments": [{"provider": "up0", "model": "m"}],
            "fallbacks": ["spare"],
            "max_concurrency": 1,
        },
        "spare": {"deployments": [{"provider": "up1", "model": "m"}]},
    }
    running = gateway(llm={"providers": providers, "models": models, "routing": {"queue_timeout": patience}})
    with ThreadPoolExecutor(2) as pool:
        held = pool.submit(running.chat)
        first.wait_requests(1)
        begun = time.monotonic()
        waits = pool.submit(running.chat)
        if patience > 1:
            wait_for(running, 1)
            gate.set()
        assert waits.result().headers["x-sage-deployment"] == answers
        assert waits.result().headers["x-sage-attempts"] == "1"
        assert patience > 1 or time.monotonic() - begun >= patience
        gate.set()
        assert held.result().status_code == 200


def test_waiting_ends_when_what_was_full_is_left_alone(ups: Callable, gateway: Callable) -> None:
    up = ups()
    gate = threading.Event()
    up.reply(status=500, gate=gate)
    running = bounded(gateway, up, routing={"breaker_failures": 1, "breaker_pause": 60, "queue_timeout": 60})
    with ThreadPoolExecutor(6) as pool:
        first = pool.submit(say, running, "0")
        up.wait_requests(1)
        others = [pool.submit(say, running, "x") for _ in range(5)]
        wait_for(running, 5)
        begun = time.monotonic()
        gate.set()
        assert first.result().status_code == 502
        assert {other.result().status_code for other in others} == {503}
        assert time.monotonic() - begun < 20
    assert len(up.requests) == 1


def test_what_is_full_at_one_place_goes_to_its_equal(ups: Callable, gateway: Callable) -> None:
    found = [ups(), ups()]
    gate = threading.Event()
    for up in found:
        up.reply({"choices": [{"message": {}}]}, gate=gate)
    running = bounded(gateway, *found)
    with ThreadPoolExecutor(3) as pool:
        answers = [pool.submit(say, running, "x") for _ in range(3)]
        for up in found:
            up.wait_requests(1)
        wait_for(running, 1)
        assert [len(up.requests) for up in found] == [1, 1]
        gate.set()
        assert {answer.result().status_code for answer in answers} == {200}
    assert sum(len(up.requests) for up in found) == 3


@pytest.mark.slow
def test_no_slot_and_no_place_is_lost_however_requests_end(tmp_path: Path) -> None:
    """Requests that end, fail, are cancelled while they wait or run: at the end nobody holds anything."""
    dice = random.Random(5)
    answer = orjson.dumps({"choices": [{"index": 0, "message": {"content": "x"}}]})
    most = running = 0

    class Slow(FakeResponse):
        async def chunk(self) -> bytes:
            nonlocal most, running
            running += 1
            most = max(most, running)
            try:
                await asyncio.sleep(dice.random() * 0.004)
            finally:
                running -= 1
            return await super().chunk()

    def handler(request: Any) -> FakeResponse:
        return Slow(dice.choice([200, 200, 200, 500, 429, 503]), [answer], {"retry-after": "0.01"})

    providers = {f"up{n}": {"kind": "openai", "base_url": f"http://{n}.example/v1"} for n in range(2)}
    deployments = [{"provider": name, "model": "m"} for name in providers]
    models = {"bench": {"deployments": deployments, "max_concurrency": 2}}
    llm = {"providers": providers, "models": models, "routing": {"breaker_pause": 0.02, "queue_timeout": 0.2}}
    gateway = make_gateway(
        Settings.model_validate({"data_dir": tmp_path, "llm": llm}), transport=FakeTransport(handler)
    )

    async def ask() -> int:
        call = ModelCall(Operation.CHAT, {"model": "bench", "messages": [{"role": "user", "content": "x"}]}, "bench")
        try:
            async with asyncio.timeout(dice.choice([0.001, 0.01, 0.1, 10])):
                async with gateway.call(LOCAL, call):
                    return 200
        except SageError as exc:
            return exc.status
        except TimeoutError:
            return 0

    async def main() -> Counter[int]:
        seen: Counter[int] = Counter()
        for _ in range(5):
            seen.update(await asyncio.gather(*(ask() for _ in range(100))))
        return seen

    seen = asyncio.run(main())
    assert seen[200] > 20
    assert seen[0] > 20
    assert most <= 4
    shown = gateway.registry.get("bench").describe()
    assert shown["in_flight"] == 0
    assert [(d["in_flight"], d["waiting"]) for d in shown["deployments"]] == [(0, 0), (0, 0)]
    time.sleep(0.3)  # every breaker is half open or closed by now: a probe that was lost would keep it shut
    told = gateway.registry.get("bench").deployments
    assert all(deployment.breaker.admits(time.monotonic()) for deployment in told)
