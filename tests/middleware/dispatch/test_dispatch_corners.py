"""The corners of dispatch: what several things at once do to a request, at upstreams from memory."""

from __future__ import annotations

import asyncio
import random
import sys
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import orjson
import pytest
from project import SCRIPTED
from upstream import chat_chunk
from waiting import until

from sage.errors import SageError
from sage.middleware.app.main import make_gateway
from sage.middleware.auth.principal import LOCAL
from sage.middleware.dispatch.api_keys import Keys, ProviderQuota
from sage.middleware.gateway.gateway import Gateway
from sage.middleware.providers.base import ModelCall, Operation, UpstreamRequest
from sage.middleware.providers.transport import FakeResponse, FakeTransport
from sage.middleware.settings.settings import Settings

ANSWER = orjson.dumps({"choices": [{"index": 0, "message": {"content": "x"}, "finish_reason": "stop"}]})
STREAM = [b"data: " + orjson.dumps(chat_chunk("x")) + b"\n\n", b"data: [DONE]\n\n"]


class Held(FakeResponse):
    """Its last piece stays out until it is let go."""

    def __init__(self, *chunks: bytes) -> None:
        super().__init__(200, list(chunks))
        self._left = len(chunks)
        self.gate = asyncio.Event()

    async def chunk(self) -> bytes:
        self._left -= 1
        if self._left == 0:
            await self.gate.wait()
        return await super().chunk()


class Field:
    """A gateway over upstreams from memory; ``answers[name]`` says what the provider ``name`` does, in its order."""

    def __init__(self, path: Path, models: dict[str, Any], routing: dict[str, Any] | None = None, **provider: Any):
        self.answers: dict[str, list[FakeResponse]] = {}
        self.asked: list[str] = []
        names = sorted({d["provider"] for model in models.values() for d in model["deployments"]})
        providers = {name: {"kind": "openai", "base_url": f"http://{name}.example/v1", **provider} for name in names}
        llm = {"providers": providers, "models": models, "routing": routing or {}}
        settings = Settings.model_validate({"data_dir": path, "llm": llm})
        self.gateway: Gateway = make_gateway(settings, transport=FakeTransport(self._answer))

    def _answer(self, request: UpstreamRequest) -> FakeResponse:
        self.asked.append(request.provider)
        waiting = self.answers.get(request.provider)
        return (
            waiting.pop(0) if waiting else FakeResponse(200, STREAM if b'"stream":true' in request.body else [ANSWER])
        )

    async def ask(self, model: str = "bench", *, stream: bool = False, models: tuple[str, ...] = ()) -> str | int:
        """The deployment that answered, or the status of the error."""
        try:
            async with self.gateway.call(LOCAL, chat(model, stream, models)) as answer:
                while stream and not answer.finished and await answer.more():
                    pass
                return answer.deployment
        except SageError as error:
            return error.status

    async def told(self, **options: Any) -> dict[str, Any]:
        return await self.gateway.explain(LOCAL, chat("bench", **options))

    def shown(self, model: str = "bench") -> list[dict[str, Any]]:
        found = self.gateway.registry.get(model)
        assert found is not None
        deployments = found.describe()["deployments"]
        assert isinstance(deployments, list)
        return deployments


def chat(model: str, stream: bool = False, models: tuple[str, ...] = ()) -> ModelCall:
    body = {"model": model, "messages": [{"role": "user", "content": "x"}], "stream": stream}
    return ModelCall(Operation.CHAT, body, model, stream=stream, fallbacks=models)


def at(*providers: str, **more: Any) -> dict[str, Any]:
    return {"deployments": [{"provider": name, "model": "m"} for name in providers], **more}


def run(work: Callable[[], Awaitable[None]]) -> None:
    async def limited() -> None:
        async with asyncio.timeout(30):
            await work()

    asyncio.run(limited())


def refused(status: int, retry_after: str | None = None) -> FakeResponse:
    return FakeResponse(status, [b"{}"], {} if retry_after is None else {"retry-after": retry_after})


def test_who_looks_ahead_lets_no_key_be_asked_too_early() -> None:
    keys = Keys(ProviderQuota(None, 2))
    for key in range(2):
        keys.cool_down(key, 10.0)
    assert keys.available_at(11.0) == 0.0
    assert keys.available_at(9.0) == 10.0


def test_a_full_queue_does_not_keep_a_request_from_an_idle_fallback(tmp_path: Path) -> None:
    field = Field(
        tmp_path,
        {"bench": at("a", max_concurrency=1, fallbacks=["spare"]), "spare": at("b")},
        {"queue_size": 1, "queue_timeout": 20},
    )

    async def work() -> None:
        held = Held(ANSWER)
        field.answers["a"] = [held]
        first = asyncio.create_task(field.ask())
        await until(lambda: field.asked == ["a"])
        second = asyncio.create_task(field.ask())
        await until(lambda: field.shown()[0]["waiting"] == 1)
        assert (await field.told())["chosen"] == "b/m"
        assert await field.ask() == "b/m"
        held.gate.set()
        assert [await first, await second] == ["a/m", "a/m"]

    run(work)


@pytest.mark.slow
def test_a_request_that_waits_for_a_fallback_takes_its_own_model_when_that_is_free_first(tmp_path: Path) -> None:
    models = {"bench": at("a", fallbacks=["spare"]), "spare": at("b", max_concurrency=1)}
    field = Field(tmp_path, models, {"queue_timeout": 3})

    async def work() -> None:
        field.answers["a"] = [refused(429, "0.5")]
        assert await field.ask() == "b/m"
        held = Held(ANSWER)
        field.answers["b"] = [held]
        holding = asyncio.create_task(field.ask("spare"))
        await until(lambda: len(field.asked) == 3)
        assert await field.ask() == "a/m"
        held.gate.set()
        assert await holding == "b/m"

    run(work)


@pytest.mark.parametrize("stream", [False, True])
def test_a_probe_that_is_answered_in_whole_ends_the_row(tmp_path: Path, stream: bool) -> None:
    field = Field(tmp_path, {"bench": at("a")}, {"breaker_failures": 3, "breaker_pause": 0.05}, retries=0)

    async def work() -> None:
        field.answers["a"] = [refused(500) for _ in range(3)]
        assert [await field.ask() for _ in range(3)] == [502] * 3
        await until(lambda: field.shown()[0]["breaker"]["state"] == "half_open")
        assert await field.ask(stream=stream) == "a/m"
        assert field.shown()[0]["breaker"]["failures"] == 0
        field.answers["a"] = [refused(500)]
        assert await field.ask() == 502
        assert field.shown()[0]["breaker"]["state"] == "closed"

    run(work)


def test_the_first_byte_of_a_probe_lets_those_go_who_wait(tmp_path: Path) -> None:
    field = Field(
        tmp_path,
        {"bench": at("a", "b", max_concurrency=2)},
        {"breaker_failures": 1, "breaker_pause": 0.05, "queue_timeout": 20},
    )

    async def work() -> None:
        full, probe = [Held(ANSWER), Held(ANSWER)], Held(b": alive\n\n", *STREAM)
        first_byte = asyncio.Event()
        probe.chunk = gated(first_byte, probe.chunk)  # type: ignore[method-assign]
        field.answers = {"a": list(full), "b": [refused(500), probe]}
        held = [asyncio.create_task(field.ask()) for _ in range(2)]
        await until(lambda: field.asked.count("a") == 2)
        await until(lambda: field.shown()[1]["breaker"]["state"] == "half_open")
        probing = asyncio.create_task(field.ask(stream=True))
        await until(lambda: field.asked.count("b") == 2)
        waiting = asyncio.create_task(field.ask())
        await until(lambda: field.shown()[0]["waiting"] == 1)
        first_byte.set()
        assert await asyncio.wait_for(waiting, 10) == "b/m"  # before its time in the queue ends
        for gate in (probe.gate, *(one.gate for one in full)):
            gate.set()
        assert [await task for task in (probing, *held)] == ["b/m", "a/m", "a/m"]

    run(work)


def gated(gate: asyncio.Event, chunk: Callable[[], Awaitable[bytes]]) -> Callable[[], Awaitable[bytes]]:
    async def wait() -> bytes:
        await gate.wait()
        return await chunk()

    return wait


def test_requests_that_never_went_upstream_buy_no_further_attempts(tmp_path: Path) -> None:
    field = Field(tmp_path, {"bench": at("a", "b")}, {"queue_timeout": 0.01})

    async def work() -> None:
        field.answers = {name: [refused(429, "60")] for name in "ab"}
        assert await field.ask() == 429
        assert [await field.ask() for _ in range(100)] == [429] * 100
        assert len(field.asked) == 2
        assert (await field.told())["retries"]["budget_left"] == 2  # of three; one was made

    run(work)


def test_a_model_that_falls_back_on_itself_is_there_once(tmp_path: Path) -> None:
    field = Field(tmp_path, {"bench": at("a", fallbacks=["bench", "spare", "spare"]), "spare": at("b")})

    async def work() -> None:
        told = await field.told(models=("bench", "spare", "bench"))
        assert [candidate["deployment"] for candidate in told["candidates"]] == ["a/m", "b/m"]
        field.answers = {name: [refused(500), refused(500)] for name in "ab"}
        assert await field.ask(models=("bench", "spare")) == 502
        assert field.asked[:2] == ["a", "b"]

    run(work)


def test_explain_says_that_a_request_would_wait_for_the_time_named(tmp_path: Path) -> None:
    field = Field(tmp_path, {"bench": at("a")}, {"queue_timeout": 20})

    async def work() -> None:
        field.answers["a"] = [refused(429, "15")]
        assert await field.ask() == 429
        told = await field.told()
        assert told["chosen"] is None
        assert told["reason"].startswith("it would wait 1")
        assert "cooling down" in told["reason"]

    run(work)


def test_explain_says_that_a_wait_would_be_too_long(tmp_path: Path) -> None:
    field = Field(tmp_path, {"bench": at("a", max_concurrency=1)}, {"queue_timeout": 20, "queue_size": 0})

    async def work() -> None:
        held = Held(ANSWER)
        field.answers["a"] = [held, refused(429, "90")]
        holding = asyncio.create_task(field.ask())
        await until(lambda: field.asked == ["a"])
        assert "llm.routing.queue_size" in (await field.told())["reason"]
        assert await field.ask() == 503
        held.gate.set()
        assert await holding == "a/m"
        assert await field.ask() == 429
        assert "try again in" in (await field.told())["reason"]

    run(work)


@pytest.mark.slow
def test_calls_that_are_cancelled_anywhere_leave_nothing_behind(tmp_path: Path) -> None:
    models = {"bench": at("a", "b", max_concurrency=3, fallbacks=["spare"]), "spare": at("a", "c")}
    routing = {"queue_timeout": 0.1, "queue_size": 20, "breaker_failures": 2, "breaker_pause": 0.01}
    field = Field(tmp_path, models, routing, max_concurrency=4)
    dice = random.Random(3)

    def answer(request: UpstreamRequest) -> FakeResponse:
        if dice.random() < 0.3:
            return refused(dice.choice([429, 500, 503]), "0.01")
        return Slow(STREAM if b'"stream":true' in request.body else [ANSWER], dice)

    field.gateway._dispatch._transport._handler = answer

    async def work() -> None:
        tasks = []
        for number in range(1000):
            tasks.append(asyncio.create_task(field.ask(dice.choice(["bench", "spare"]), stream=number % 2 == 0)))
            for _ in range(dice.randrange(3)):
                await asyncio.sleep(0)
            if dice.random() < 0.5:
                dice.choice(tasks).cancel()
            if number % 50 == 0:
                await asyncio.sleep(0.02)
        seen = await asyncio.gather(*tasks, return_exceptions=True)
        assert any(isinstance(one, asyncio.CancelledError) for one in seen)
        assert {"a/m", "b/m", "c/m"} <= {one for one in seen if isinstance(one, str)}
        assert not [one for one in seen if isinstance(one, Exception)]
        await asyncio.sleep(0.2)  # the longest time for which a breaker is open, here
        for name in models:
            model = field.gateway.registry.get(name)
            assert model is not None
            assert model.waiting == 0
            for deployment in model.deployments:
                assert (deployment.in_flight, deployment.quota.in_flight) == (0, 0)
                assert deployment.breaker.admits(time.monotonic())
        assert not any(field.gateway._dispatch._queue._lanes.values())
        assert field.gateway._dispatch._queue._waiting == 0

    run(work)


class Slow(FakeResponse):
    """Each of its pieces takes up to a few turns of the loop, or a moment."""

    def __init__(self, chunks: list[bytes], dice: random.Random) -> None:
        super().__init__(200, list(chunks))
        self._dice = dice

    async def chunk(self) -> bytes:
        if self._dice.random() < 0.3:
            await asyncio.sleep(self._dice.random() * 0.004)
        return await super().chunk()


@pytest.mark.slow
def test_an_engine_that_breaks_off_and_lives_costs_no_more_than_the_deadline(gateway: Callable) -> None:
    fake = str(SCRIPTED / "fake_vllm.py")
    providers = {"vllm": {"command": [sys.executable, "-I", "-S", fake], "timeouts": {"total": 0.4}}}
    engine = {"args": ["--misbehave", "hangs-up"]}
    models = {"bench": {"deployments": [{"provider": "vllm", "model": "some/model", "engine": engine}]}}
    running = gateway(llm={"providers": providers, "models": models})
    assert running.post("/models/bench/load").status_code == 200
    answer = running.post("/v1/completions", {"model": "bench", "prompt": "x"})
    assert (answer.status_code, answer.json()["error"]["code"]) == (502, "upstream_broken")
    assert answer.elapsed.total_seconds() < 0.95  # that it lives is known for sure after a second only
