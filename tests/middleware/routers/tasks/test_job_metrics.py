"""What ``/metrics`` and ``/ready`` tell of jobs; jobs of one line; how many jobs a tenant may have, whose is next."""

from __future__ import annotations

import signal
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from hand_worker import HandWorker
from running_gateway import Running
from upstream import Upstream
from valkey_server import valkey

pytestmark = pytest.mark.slow  # nearly each test starts a gateway, or has several threads


@pytest.fixture(scope="module")
def running(module_gateway: Callable[..., Running]) -> Iterator[Running]:
    with Upstream() as up:
        llm = {
            "providers": {"up": {"kind": "openai", "base_url": up.url}},
            "models": {"bench": {"deployments": [{"provider": "up", "model": "m"}]}},
        }
        yield module_gateway(llm=llm, queue={"embedded_worker": False, "limits": {"max_unfinished": 6}})


@pytest.fixture
def worker(running: Running) -> HandWorker:
    worker = HandWorker(running)
    worker.post("/worker/hello", {"worker": "hand", "concurrency": 1})
    return worker


def submit(running: Running, text: str = "one", status: int = 202, **options: Any) -> dict[str, Any]:
    answer = running.post("/tasks/generate", {"model": "bench", "prompt": text}, **options)
    assert answer.status_code == status, answer.text
    return answer.json()


def metrics(running: Running) -> dict[str, float]:
    lines = running.get("/metrics").text.splitlines()
    return {name: float(value) for name, _, value in (line.rpartition(" ") for line in lines if line[:1] != "#")}


def result(text: str, index: int = 0) -> dict[str, Any]:
    return {"index": index, "ok": True, "line": {"index": index, "text": text}, "usage": {"total_tokens": 3}}


def test_a_job_of_one_line_is_claimed_with_it_and_ends_with_its_result(running: Running, worker: HandWorker) -> None:
    job = submit(running, "hello")
    claimed = worker.claim()
    assert claimed["line"]["prompt"] == "hello"
    worker.finish(claimed["run"], results=[result("done")], result={"lines": 1})
    view = running.get(f"/tasks/{job['id']}").json()
    assert (view["state"], view["progress"]["done"], view["result"]) == ("succeeded", 1, {"lines": 1})
    assert running.get(f"/tasks/{job['id']}/results").text == '{"index":0,"text":"done"}\n'
    worker.finish(claimed["run"], 409, results=[result("again")])
    assert running.get(f"/tasks/{job['id']}/results").text == '{"index":0,"text":"done"}\n'


@pytest.mark.parametrize("size", [100, 400_000])
def test_the_line_of_such_a_job_may_be_recorded_as_others_are(running: Running, worker: HandWorker, size: int) -> None:
    """As by a worker that keeps a large result to itself for no longer than it must."""
    job = submit(running)
    run = worker.claim()["run"]
    worker.record(run, {"index": 0, "line": {"text": "x" * size}})
    worker.finish(run)
    assert len(running.get(f"/tasks/{job['id']}/results").json()["text"]) == size
    assert running.get(f"/tasks/{job['id']}").json()["output_file_id"].startswith("file-")


def test_a_job_of_one_line_that_failed_is_done_again(running: Running, worker: HandWorker) -> None:
    job = submit(running, "again")
    run = worker.claim()["run"]
    failed = {"index": 0, "ok": False, "line": {"index": 0, "error": {"code": "bad"}}}
    worker.finish(run, state="failed", error={"message": "no", "code": "bad"}, results=[failed])
    assert running.get(f"/tasks/{job['id']}").json()["progress"]["failed"] == 1
    assert running.post(f"/tasks/{job['id']}/retry", {}).status_code in (200, 202)
    claimed = worker.claim()
    assert claimed["line"]["prompt"] == "again"
    worker.finish(claimed["run"], results=[result("good")])
    view = running.get(f"/tasks/{job['id']}").json()
    assert (view["state"], view["progress"]["done"], view["progress"]["failed"]) == ("succeeded", 1, 0)
    assert running.get(f"/tasks/{job['id']}/results").json()["text"] == "good"


def test_metrics_and_readiness_tell_of_the_queue(running: Running, worker: HandWorker) -> None:
    before = metrics(running)
    first, second = submit(running, "1"), submit(running, "2")
    run = worker.claim()["run"]
    now = metrics(running)
    assert (now['sage_jobs{state="queued"}'], now['sage_jobs{state="running"}']) == (1, 1)
    assert now["sage_jobs_oldest_seconds"] > 0
    assert (now["sage_job_workers"], now["sage_job_worker_places"], now["sage_job_broker_up"]) == (1, 1, 1)
    worker.finish(run, results=[result("1")])
    running.post(f"/tasks/{second['id']}/cancel", {})
    now = metrics(running)

    def grown(name: str) -> float:
        return now[name] - before.get(name, 0)

    assert grown('sage_jobs_submitted_total{kind="generate"}') == 2
    assert grown('sage_job_deliveries_total{kind="generate"}') == 1
    assert grown('sage_jobs_ended_total{kind="generate",state="succeeded"}') == 1
    assert grown('sage_jobs_ended_total{kind="generate",state="cancelled"}') == 1
    assert grown('sage_job_start_seconds_count{kind="generate"}') == 1
    assert grown('sage_job_run_seconds_count{kind="generate"}') == 1
    assert running.get(f"/tasks/{first['id']}").json()["state"] == "succeeded"
    ready = running.get("/ready").json()
    assert ready["queue"]["broker"] == "up"
    assert set(ready["queue"]) == {"queued", "running", "oldest_seconds", "workers", "broker"}
    worker.drop_messages()


def test_a_tenant_has_a_bounded_number_of_jobs_and_keeps_nobody_waiting(running: Running, worker: HandWorker) -> None:
    """The jobs of the other tenant come as every second one, though they came last."""
    jobs = [submit(running, f"a{number}") for number in range(6)]
    refused = running.post("/tasks/generate", {"model": "bench", "prompt": "a6"})
    assert (refused.status_code, refused.json()["error"]["code"]) == (429, "too_many_jobs")
    assert int(refused.headers["retry-after"]) >= 1
    other = running.new_key(tenant="other")
    jobs += [submit(running, f"b{number}", key=other) for number in range(2)]
    order = []
    for _ in jobs:
        claimed = worker.claim()
        order.append(claimed["line"]["prompt"])
        worker.finish(claimed["run"], results=[result("x")])
    assert {order.index("b0"), order.index("b1")} <= set(range(7)), order
    assert order.index("b1") < order.index("a5")
    assert [text for text in order if text[0] == "a"] == [f"a{number}" for number in range(6)]
    submit(running, "a7")  # there is room again
    worker.finish(worker.claim()["run"], results=[result("x")])


@pytest.mark.slow
def test_a_frozen_broker_is_not_ready_for_jobs_but_models_are(gateway: Callable[..., Running]) -> None:
    with valkey() as server, Upstream() as up:
        llm = {"providers": {"up": {"kind": "openai", "base_url": up.url}}}
        running = gateway(llm=llm, queue={"broker": server.url})
        assert "queue" not in running.get("/ready").json()["cannot_serve"]
        server.process.send_signal(signal.SIGSTOP)
        try:
            time.sleep(2.1)  # an answer of /ready is kept for two seconds
            began = time.monotonic()
            answer = running.get("/ready")
            assert time.monotonic() - began < 3
            assert (answer.status_code, answer.json()["status"]) == (200, "ready")
            assert "does not answer" in answer.json()["cannot_serve"]["queue"]
        finally:
            server.process.send_signal(signal.SIGCONT)
