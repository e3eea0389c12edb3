"""What a broker does to jobs: it is down, frozen, or loses what it holds."""

from __future__ import annotations

import signal
import time

import pytest
import redis
from hand_worker import HandWorker
from running_gateway import run_gateway
from valkey_server import valkey

from sage.middleware.queue.messages import read_message
from sage.middleware.settings.settings import Settings

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def broker():
    with valkey() as server:
        yield server


@pytest.fixture(scope="module")
def running(tmp_path_factory, broker):
    settings = {
        "data_dir": tmp_path_factory.mktemp("faults") / "data",
        "api": {"port": 0, "access_log": False},
        "queue": {"broker": broker.url},
        "llm": {
            "providers": {"up": {"kind": "openai", "base_url": "http://127.0.0.1:9/v1", "api_key": "secret"}},
            "models": {"bench": {"deployments": [{"provider": "up", "model": "bench"}]}},
        },
    }
    with run_gateway(Settings.model_validate(settings)) as running:
        yield running


class RedisWorker(HandWorker):
    def __init__(self, running, url):
        super().__init__(running)
        self.client = redis.Redis.from_url(url, socket_timeout=60)

    def message(self, queue="default", wait=30.0):
        taken = self.client.brpop(f"sage.jobs.{queue}", timeout=wait)
        assert taken is not None, "no message came"
        found = read_message(taken[1])
        assert found is not None
        return {"id": found[0], "signature": found[1]}

    def do(self):
        """Claims a job and ends it; returns its id."""
        claimed = self.claim()
        self.finish(claimed["run"], state="failed", error={"message": "done", "code": "x"})
        return claimed["id"]


@pytest.fixture
def worker(running, broker):
    worker = RedisWorker(running, broker.url)
    yield worker
    for job in known(running):
        running.post(f"/tasks/{job}/cancel")
    worker.client.flushall()
    worker.client.close()


def submit(running, status=202):
    began = time.monotonic()
    answer = running.post("/tasks/generate", {"model": "bench", "prompt": "x"})
    assert answer.status_code == status, answer.text
    assert time.monotonic() - began < 5  # a second, and some for a busy machine
    return answer


def known(running):
    return {job["id"] for job in running.get("/tasks").json()["tasks"]}


def wait_until_accepted(running):
    end = time.monotonic() + 30
    while (answer := running.post("/tasks/generate", {"model": "bench", "prompt": "x"})).status_code == 503:
        assert time.monotonic() < end
        time.sleep(0.1)
    return answer.json()["id"]


def test_a_frozen_broker_is_a_503_within_a_second_and_no_job_is_left(running, broker, worker):
    accepted = submit(running).json()["id"]
    before = known(running)
    file = running.request("POST", "/v1/files", files={"file": b"{}"}, data={"purpose": "batch"}).json()["id"]
    batch = {"input_file_id": file, "endpoint": "/v1/chat/completions", "completion_window": "24h"}
    broker.process.send_signal(signal.SIGSTOP)
    try:
        for _ in range(3):
            refused = submit(running, 503)
            assert refused.json()["error"]["code"] == "broker_unavailable"
            assert int(refused.headers["retry-after"]) >= 1
        refused = running.post("/v1/batches", batch)
        assert (refused.status_code, refused.json()["error"]["code"]) == (503, "broker_unavailable")
        assert refused.elapsed.total_seconds() < 5
        assert known(running) == before
        assert min(running.get("/health").elapsed.total_seconds() for _ in range(3)) < 0.5
    finally:
        broker.process.send_signal(signal.SIGCONT)
    wait_until_accepted(running)
    assert worker.do() == accepted


def test_what_a_broker_has_lost_is_sent_again_and_not_in_a_storm(running, broker, worker):
    jobs = [submit(running).json()["id"] for _ in range(6)]
    worker.client.flushall()  # four messages were out; two jobs wait for room
    end = time.monotonic() + 30
    while worker.client.llen("sage.jobs.default") < 4 and time.monotonic() < end:
        time.sleep(0.05)
    time.sleep(1.5)  # more than the second after which the dispatcher looks again
    assert worker.client.llen("sage.jobs.default") == 4
    assert sorted(worker.do() for _ in jobs) == sorted(jobs)


def test_a_job_whose_message_comes_twice_runs_once(running, broker, worker):
    job = submit(running).json()["id"]
    message = worker.message()
    claimed = worker.claim(message)
    assert worker.claim(message, 409)["error"]["code"] == "not_claimable"
    worker.finish(claimed["run"], state="failed", error={"message": "done", "code": "x"})
    assert worker.claim(message, 409)["error"]["code"] == "not_claimable"
    assert running.get(f"/tasks/{job}").json()["deliveries"] == 1
