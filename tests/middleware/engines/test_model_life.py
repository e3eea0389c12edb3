"""The life of models through the HTTP door, with real llama.cpp engines and tiny models."""

from __future__ import annotations

import logging
import os
import signal
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import requests
from running_gateway import Running, run_gateway
from tiny_gguf import write_llama
from waiting import wait_until

from sage.middleware.engines.managed_model import ManagedModel
from sage.middleware.settings.settings import Settings

pytestmark = pytest.mark.slow
ROOM = "300MiB"
"""What each model says it takes; what it is measured to take is less."""


@pytest.fixture(scope="module")
def gguf(tmp_path_factory: pytest.TempPathFactory) -> str:
    return str(write_llama(tmp_path_factory.mktemp("models") / "tiny.gguf"))


@pytest.fixture
def settings(tmp_path: Path, gguf: str) -> Callable[..., Settings]:
    """A gateway with the local models ``a`` and ``b``; further keywords are of the section ``llm``."""

    def make(**llm: Any) -> Settings:
        tiny = {"path": gguf, "parallel": 1, "context": 256, "max_tokens": 3, "temperature": 0, "memory": ROOM}
        local = {"models": {"a": tiny, "b": tiny, "gemma-3-270m": None}}
        api, auth = {"port": 0, "access_log": False}, {"enabled": False}
        section = {"providers": {"local": local}, **llm}
        return Settings.model_validate({"data_dir": tmp_path / "data", "api": api, "auth": auth, "llm": section})

    return make


def managed(running: Running, name: str) -> ManagedModel:
    [deployment] = running.edge.app.state.gateway.registry.get(name).deployments
    return deployment.managed


def shown(running: Running, name: str) -> dict[str, Any]:
    return running.get(f"/models/{name}").json()


def loads(caplog: pytest.LogCaptureFixture) -> list[str]:
    said = [record.getMessage() for record in caplog.records]
    return [line.split("'")[1] for line in said if " is ready after " in line]


@pytest.mark.proves("local", "load and unload")
def test_two_models_that_do_not_fit_together_take_turns(
    settings: Callable[..., Settings], caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    with run_gateway(settings(memory_budget="500MiB")) as running, ThreadPoolExecutor(4) as pool:
        began, enough = time.monotonic(), threading.Event()

        def client(name: str) -> list[requests.Response]:
            answers = []
            while not enough.is_set():
                answers.append(running.chat(name))
            return answers

        clients = {name: [pool.submit(client, name) for _ in range(2)] for name in "ab"}
        try:
            wait_until(lambda: min(loads(caplog).count(name) for name in "ab") == 2, seconds=120)
        finally:
            enough.set()
        for name, theirs in clients.items():
            answers = [answer for one in theirs for answer in one.result()]
            assert {answer.status_code for answer in answers} == {200}
            assert {answer.headers["x-sage-deployment"] for answer in answers} == {f"local/{name}"}
        states = {name: shown(running, name) for name in "ab"}
        assert sorted(state["state"] for state in states.values()) != ["ready", "ready"]
        assert {state["memory"] for state in states.values()} == {300 * 2**20}
        took = time.monotonic() - began
    assert len(loads(caplog)) <= took / 2 + 3, "a turn lasts two seconds, and who hammers does not rest"


def test_one_client_may_go_back_and_forth(settings: Callable[..., Settings]) -> None:
    with run_gateway(settings(memory_budget="500MiB")) as running:
        answers = [running.chat(name) for name in "abab"]
        assert [answer.headers["x-sage-deployment"] for answer in answers] == [f"local/{name}" for name in "abab"]
        assert shown(running, "a")["state"] == "unloaded"


def test_models_that_fit_are_loaded_once(settings: Callable[..., Settings], caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    with run_gateway(settings(memory_budget="600MiB")) as running, ThreadPoolExecutor(4) as pool:
        assert {answer.status_code for answer in pool.map(running.chat, ["a", "b"] * 8)} == {200}
    assert sorted(loads(caplog)) == ["a", "b"]


def test_a_model_larger_than_the_budget_is_refused_with_both_figures(settings: Callable[..., Settings]) -> None:
    with run_gateway(settings(memory_budget="200MiB")) as running:
        answer = running.chat("a")
        assert answer.status_code == 503
        assert answer.json()["error"]["code"] == "model_too_large"
        assert "takes 300.0 MiB, and the memory budget is 200.0 MiB" in answer.json()["error"]["message"]
        assert shown(running, "a")["error"]["message"] == answer.json()["error"]["message"]


def test_a_pinned_model_stays_where_it_is(settings: Callable[..., Settings]) -> None:
    rock = {"deployments": [{"provider": "local", "model": "a"}], "pin": True, "keep_alive": "100ms"}
    with run_gateway(settings(memory_budget="500MiB", models={"rock": rock})) as running:
        assert running.chat("rock").status_code == 200
        refused = running.chat("b")
        assert refused.status_code == 503
        assert refused.json()["error"]["code"] == "no_memory"
        assert "'a' (300.0 MiB) are pinned" in refused.json()["error"]["message"]
        assert shown(running, "rock")["state"] == "ready"
        assert running.post("/models/rock/unload").json()["state"] == "unloaded"
        assert running.chat("b").status_code == 200


def test_what_was_preloaded_comes_back_after_a_restart(settings: Callable[..., Settings]) -> None:
    with run_gateway(settings()) as running:
        mine = {"deployments": [{"provider": "local", "model": "b"}], "preload": True, "keep_alive": "1h"}
        assert running.post("/models/mine", mine).status_code == 201
        wait_until(lambda: shown(running, "mine")["state"] == "ready")
        assert shown(running, "a")["state"] == "unloaded"
    theirs = {"deployments": [{"provider": "local", "model": "a"}], "preload": True}
    with run_gateway(settings(models={"theirs": theirs})) as running:
        assert running.get("/health").status_code == 200
        wait_until(lambda: shown(running, "mine")["state"] == shown(running, "theirs")["state"] == "ready")
        assert shown(running, "mine")["preload"] is True


def test_a_preload_that_fails_is_shown_and_keeps_nobody_waiting(
    settings: Callable[..., Settings], tmp_path: Path
) -> None:
    broken = tmp_path / "broken.gguf"
    broken.write_bytes(b"GGUF nonsense")
    models = {"bad": {"deployments": [{"provider": "local", "model": "broken"}], "preload": True}}
    made = settings(models=models).model_dump()
    local = made["llm"]["providers"]["local"]["models"]
    local["broken"] = {**local["a"], "path": str(broken)}
    made["data_dir"] = tmp_path / "data"
    with run_gateway(Settings.model_validate(made)) as running:
        wait_until(lambda: shown(running, "bad")["state"] == "failed")
        told = shown(running, "bad")["error"]
        assert "cannot load the file 'broken.gguf'" in told["message"]
        assert told["log"]
        broken.write_bytes(Path(local["a"]["path"]).read_bytes())
        assert running.chat("bad").status_code == 200, "it can be tried again at once"
        assert shown(running, "bad")["error"] is None


def test_a_killed_engines_requests_get_a_clear_503_and_it_comes_back(settings: Callable[..., Settings]) -> None:
    made = settings(models={"one": {"deployments": [{"provider": "local", "model": "a"}], "retries": 0}})
    with run_gateway(made) as running, ThreadPoolExecutor(1) as pool:
        assert running.chat("one").status_code == 200
        model = managed(running, "one")
        outer, _, engine, *_ = model.engine.pids
        os.kill(engine, signal.SIGSTOP)
        waiting = pool.submit(running.chat, "one")
        wait_until(lambda: shown(running, "one")["in_flight"] == 1)
        os.kill(engine, signal.SIGKILL)
        answer = waiting.result(60)
        assert answer.status_code == 503, answer.text
        assert answer.json()["error"]["code"] == "engine_failed"
        assert "the engine of model 'a' was ended by SIGKILL while it served" in answer.json()["error"]["message"]
        assert "retry-after" in answer.headers
        wait_until(lambda: shown(running, "one")["state"] == "ready")
        assert model.engine.pids[0] != outer
        assert running.chat("one").status_code == 200


def test_a_removed_model_has_no_say_any_more_in_how_its_engine_is_kept(settings: Callable[..., Settings]) -> None:
    with run_gateway(settings()) as running:
        one = {"deployments": [{"provider": "local", "model": "a"}], "keep_alive": "1h", "pin": True}
        for name in ("mine", "yours"):
            assert running.post(f"/models/{name}", one).status_code == 201
        assert running.chat("mine").status_code == 200
        model = managed(running, "mine")
        assert (model.keep_alive, model.pinned) == (3600, True)
        for name in ("mine", "yours"):
            answer = requests.delete(f"{running.url}/models/{name}", timeout=30)
            assert answer.status_code == 204
        assert (model.keep_alive, model.pinned) == (600, False)
        assert shown(running, "a")["state"] == "ready", "it is the provider's own model, too"


def test_a_request_that_runs_holds_its_model_while_another_waits(settings: Callable[..., Settings]) -> None:
    with run_gateway(settings(memory_budget="500MiB")) as running, ThreadPoolExecutor(2) as pool:
        begun = threading.Event()

        def long() -> int:
            answer = running.chat("a", stream=True, max_tokens=200)
            events = 0
            for line in answer.iter_lines():
                events += line.startswith(b"data: ")
                begun.set()
            return events

        first = pool.submit(long)
        assert begun.wait(60)
        assert running.chat("b").status_code == 200
        assert first.result(60) > 100, "it was cut"
