"""``/services`` and the life of the gateway's services: late start, failures, time-outs, Redis, discovery."""

from __future__ import annotations

import json
import os
import signal
import threading
import time
from collections.abc import Callable
from typing import Any

import pytest
import requests
from running_gateway import Running
from sage_process import environment, sage

pytestmark = pytest.mark.slow  # nearly each test starts a gateway, or has several threads

NAMES = ["kv_service", "vdb_service", "memory_service"]


def put(running: Running, key: str, value: Any, credential: str | None = None) -> requests.Response:
    url = f"{running.url}/kv/{key}"
    return requests.put(url, json={"value": value}, headers=running.headers(credential), timeout=30)


def service(running: Running, name: str) -> dict[str, Any]:
    answer = running.get(f"/services/{name}")
    assert answer.status_code == 200, answer.text
    return dict(answer.json())


def error(answer: requests.Response, status: int) -> dict[str, Any]:
    assert answer.status_code == status, answer.text
    return dict(answer.json()["error"])


def test_services_start_when_they_are_needed(gateway: Callable[..., Running]) -> None:
    running = gateway()
    assert not (running.settings.data_dir / "services").exists()
    listed = running.get("/services").json()
    assert [described["name"] for described in listed["services"]] == NAMES
    assert {described["state"] for described in listed["services"]} == {"stopped"}
    assert listed["warnings"] == []
    put(running, "k", 1)
    running.get("/kv/k")
    assert running.get("/kv/absent").status_code == 404
    kv = service(running, "kv_service")
    assert (kv["state"], kv["class"], kv["environment"], kv["kind"]) == ("running", "KVService", "gateway", "gateway")
    assert (kv["replicas"], kv["error"]) == (1, None)
    assert str(os.getpid()) in kv["host"]
    assert {"get", "put", "delete", "list_keys"} <= set(kv["methods"])
    assert "setup" not in kv["methods"]
    assert kv["statistics"]["calls"] == 3
    assert service(running, "memory_service")["state"] == "stopped"
    assert error(running.get("/services/none"), 404)["code"] == "service_not_found"
    metrics = running.get("/metrics").text
    assert 'sage_service_calls_total{service="kv_service",status="200"} 3.0' in metrics


def test_eager_services_run_from_the_start(gateway: Callable[..., Running]) -> None:
    running = gateway(services={"start": "eager", "memory": {"embedder": "none"}})
    assert running.get("/kv").json() == {"keys": [], "next": None}
    assert running.get("/vdb").json() == {"collections": []}
    assert running.get("/memory/sessions").json() == {"sessions": [], "next": None}
    assert [service(running, name)["state"] for name in NAMES] == ["running"] * 3


def test_statistics_are_not_for_everyone(gateway: Callable[..., Running]) -> None:
    running = gateway()
    assert running.accounts is not None
    running.accounts.users.add("ann", "correct horse battery staple", tenant="one")
    login = {"username": "ann", "password": "correct horse battery staple"}
    token = requests.post(f"{running.url}/auth/token", data=login, timeout=30).json()["access_token"]
    assert put(running, "k", 1, token).status_code == 200
    assert error(running.get("/services", key=token), 403)["code"] == "missing_scope"
    assert running.get("/services", key=running.new_key(scopes=["services:read"])).status_code == 200


@pytest.mark.slow
def test_a_service_that_cannot_start_says_why_and_others_go_on(gateway: Callable[..., Running]) -> None:
    running = gateway()
    path = running.settings.data_dir / "services"
    path.mkdir(parents=True)
    (path / "kv").write_text("in its way")
    first = put(running, "k", 1)
    refusal = error(first, 503)
    assert refusal["code"] == "service_start_failed"
    assert "kv" in refusal["message"]
    assert 1 <= int(first.headers["retry-after"]) <= 2
    failed = service(running, "kv_service")
    assert (failed["state"], failed["error"]) == ("failed", refusal["message"])
    assert running.get("/vdb").json() == {"collections": []}
    assert running.get("/health").status_code == 200
    (path / "kv").unlink()
    while (answer := put(running, "k", 1)).status_code == 503:  # until its pause is over
        time.sleep(0.1)
    assert answer.status_code == 200


def test_many_first_requests_share_one_start(gateway: Callable[..., Running]) -> None:
    running = gateway()
    answers: list[int] = []
    threads = [
        threading.Thread(target=lambda n=n: answers.append(put(running, f"k{n}", n).status_code)) for n in range(12)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert answers == [200] * 12
    assert len(running.get("/kv").json()["keys"]) == 12


@pytest.mark.slow
def test_redis_keeps_the_values_and_a_frozen_one_delays_no_other_gateway(gateway: Callable[..., Running]) -> None:
    from valkey_server import valkey

    with valkey() as server:
        kv = {"backend_type": "redis", "redis_url": server.url, "prefix": "mine:"}
        running = gateway(services={"timeout": "2s", "kv": kv})
        other = gateway(services={"timeout": "2s", "kv": kv})
        one, two = running.new_key(tenant="one"), running.new_key(tenant="two")
        assert put(running, "k", {"a": 1}, one).status_code == 200
        assert running.get("/kv/k", key=two).status_code == 404
        assert other.get("/kv/k", key=other.new_key(tenant="one")).json()["value"] == {"a": 1}
        os.kill(server.process.pid, signal.SIGSTOP)
        try:
            begun = time.monotonic()
            assert error(running.get("/kv/k", key=one), 504)["code"] == "service_timeout"
            assert time.monotonic() - begun < 30
            assert running.get("/vdb").status_code == 200
            assert running.get("/health").status_code == 200
        finally:
            os.kill(server.process.pid, signal.SIGCONT)
        while (answer := running.get("/kv/k", key=one)).status_code != 200:
            assert answer.status_code in (503, 504)
        assert answer.json()["value"] == {"a": 1}


@pytest.mark.slow
def test_gateways_and_environments_see_each_other_on_one_board(gateway: Callable[..., Running], tmp_path: Any) -> None:
    from sage.kernels.runtime.discovery.board import Announcement
    from sage.kernels.runtime.discovery.discovery import open_board

    board = str(tmp_path / "board.sqlite")
    one, two = gateway(services={"discovery": board}), gateway(services={"discovery": board})
    put(one, "k", 1)
    names = [(described["name"], described["kind"]) for described in two.get("/services").json()["services"]]
    assert names == [(name, "gateway") for name in NAMES] * 2
    tools = {"name": "tools", "class": "Tools", "host": "h:1", "state": "running", "replicas": 2, "methods": ["cut"]}
    hung = open_board(board)
    hung.announce(Announcement("n1", "etl", "elsewhere", 1, services=[{**tools, "health": {}, "statistics": {}}]))
    described = service(two, "tools")
    assert (described["environment"], described["node"], described["replicas"], described["kind"]) == (
        "etl",
        "n1",
        2,
        "environment",
    )
    missing = running_in(two, "tools", "gateway")
    assert error(missing, 404)["code"] == "service_not_found"
    hung.withdraw("n1")
    hung.close()
    assert error(two.get("/services/tools"), 404)


def running_in(running: Running, name: str, environment: str) -> requests.Response:
    return running.get(f"/services/{name}", params={"environment": environment})


def test_a_board_that_cannot_be_reached_is_a_warning(gateway: Callable[..., Running]) -> None:
    running = gateway(services={"discovery": "redis://127.0.0.1:9/0"})
    answer = running.get("/services").json()
    assert [described["name"] for described in answer["services"]] == NAMES
    assert len(answer["warnings"]) == 1
    assert put(running, "k", 1).status_code == 200


@pytest.mark.slow
def test_the_command_lists_and_shows_them(gateway: Callable[..., Running], tmp_path: Any) -> None:
    running = gateway()
    put(running, "k", 1)
    env = environment(tmp_path, SAGE_URL=running.url, SAGE_API_KEY=running.key)
    listed = sage(["services", "list"], env, cwd=tmp_path)
    assert listed.returncode == 0, listed.stderr
    lines = [line.split() for line in listed.stdout.splitlines()]
    assert lines[0][:4] == ["NAME", "ENVIRONMENT", "STATE", "CLASS"]
    assert [line[0] for line in lines[1:]] == NAMES
    assert lines[1][1:4] == ["gateway", "running", "KVService"]
    shown = sage(["services", "show", "kv_service", "--environment", "gateway", "--json"], env, cwd=tmp_path)
    assert json.loads(shown.stdout)["statistics"]["calls"] == 1
    missing = sage(["services", "show", "none"], env, cwd=tmp_path)
    assert missing.returncode == 1
    assert missing.stderr.startswith("sage: there is no service 'none'")
