"""Models that their server loads itself: what is shown of them, and the switch, before a scripted Ollama."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from running_gateway import Running
from upstream import Received, Script, Upstream, reply
from waiting import wait_until

pytestmark = pytest.mark.slow  # nearly each test starts a gateway, or has several threads


class Ollama:
    """Its ``/api/ps`` and the loads and unloads by empty prompts; ``down``: nothing but 500; ``silent``: nothing."""

    def __init__(self, up: Upstream) -> None:
        self.held: dict[str, Any] = {}
        self.down = self.silent = False
        self.asked: list[str] = []
        self.url = up.url.removesuffix("/v1")
        up.handler = self._answer

    def _answer(self, request: Received) -> Script:
        self.asked.append(request.path)
        if self.silent:
            return Script(end="hang")
        if self.down:
            return reply({"error": "out of order"}, status=500)
        if request.path == "/api/ps":
            return reply({"models": [{"name": name, "model": name, "size": 7} for name in self.held]})
        if request.path == "/api/generate":
            model, keep = request.body["model"], request.body.get("keep_alive")
            if keep == 0:
                self.held.pop(model, None)
            else:
                self.held[model] = keep
            return reply({"model": model, "created_at": "2026-01-01T00:00:00Z", "response": "", "done": True})
        return reply({"error": f"not found: {json.dumps(request.path)}"}, status=404)


@pytest.fixture
def ollama() -> Iterator[Ollama]:
    with Upstream() as up:
        yield Ollama(up)


@pytest.fixture
def start(ollama: Ollama, gateway: Callable[..., Running]) -> Callable[..., Running]:
    def run(**model: Any) -> Running:
        models = {"small": {"deployments": [{"provider": "house", "model": "llama3:1b"}], **model}}
        return gateway(llm={"providers": {"house": {"kind": "ollama", "base_url": ollama.url}}, "models": models})

    return run


def state(running: Running) -> str:
    return running.get("/models/small").json()["state"]


@pytest.mark.proves("ollama", "load and unload")
def test_load_and_unload_go_to_the_server_and_are_shown(ollama: Ollama, start: Callable[..., Running]) -> None:
    running = start()
    assert state(running) == "unloaded"
    loaded = running.post("/models/small/load").json()
    assert (loaded["state"], loaded["deployments"][0]["state"]) == ("ready", "ready")
    assert ollama.held == {"llama3:1b": None}
    assert state(running) == "ready"
    assert running.post("/models/house/llama3:1b/unload").json()["state"] == "unloaded"
    assert ollama.held == {}
    assert state(running) == "unloaded"
    assert [m["state"] for m in running.get("/models").json()["models"] if m["name"] == "small"] == ["unloaded"]


def test_a_load_need_not_be_waited_for(ollama: Ollama, start: Callable[..., Running]) -> None:
    running = start()
    answer = running.post("/models/small/load?wait=false")
    assert (answer.status_code, answer.json()["state"]) in ((202, "loading"), (200, "ready"))
    wait_until(lambda: state(running) == "ready")


def test_a_server_that_does_not_answer_leaves_the_state_unknown(ollama: Ollama, start: Callable[..., Running]) -> None:
    running = start()
    ollama.down = True
    assert state(running) == "unknown"
    refused = running.post("/models/small/load")
    assert refused.status_code >= 500
    assert "out of order" in running.get("/models/small").json()["error"]["message"]
    ollama.down = False
    assert running.post("/models/small/load").status_code == 200
    assert running.get("/models/small").json()["error"] is None


def test_what_is_held_is_asked_once_a_second_at_most(ollama: Ollama, start: Callable[..., Running]) -> None:
    running = start()
    began = time.monotonic()
    for _ in range(20):
        running.get("/models")
    assert ollama.asked.count("/api/ps") <= 1 + (time.monotonic() - began)


@pytest.mark.slow
def test_a_server_that_swallows_everything_slows_the_list_once_in_a_while(
    ollama: Ollama, start: Callable[..., Running]
) -> None:
    running = start()
    ollama.silent = True
    assert state(running) == "unknown"
    for _ in range(12):
        assert running.get("/models").status_code == 200
        time.sleep(0.1)  # an answer of a server that is up is good for a second only
    assert ollama.asked.count("/api/ps") == 1


@pytest.mark.slow
@pytest.mark.proves("ollama", "load and unload")
def test_a_preloaded_and_pinned_model_is_loaded_at_start_as_soon_as_its_server_is_up(
    ollama: Ollama, start: Callable[..., Running], caplog: pytest.LogCaptureFixture
) -> None:
    ollama.down = True
    running = start(preload=True, pin=True)
    assert running.get("/health").status_code == 200
    wait_until(lambda: any("'house/llama3:1b' could not be loaded" in r.getMessage() for r in caplog.records))
    assert "out of order" in running.get("/models/small").json()["error"]["message"]
    ollama.down = False
    wait_until(lambda: ollama.held == {"llama3:1b": -1})
    wait_until(lambda: state(running) == "ready")


def test_only_models_of_one_host_can_be_pulled(ollama: Ollama, start: Callable[..., Running]) -> None:
    running = start()
    refused = running.post("/models/gemma-3-270m/pull")
    assert (refused.status_code, refused.json()["error"]["code"]) == (409, "not_hosted")
    two = [{"provider": "house", "model": name} for name in ("one", "two")]
    assert running.post("/models/both", {"deployments": two}).status_code == 201
    refused = running.post("/models/both/pull")
    assert refused.status_code == 409
    assert "house/one, house/two; name provider/model" in refused.json()["error"]["message"]
