"""Webhooks at the end of jobs: signed, tried again, to allowed receivers only, with a scripted receiver."""

from __future__ import annotations

import base64
import hashlib
import json
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from hand_worker import HandWorker
from running_gateway import Running, run_gateway
from upstream import Received, Upstream, reply

from sage.errors import InvalidRequest
from sage.middleware.gateway.jobs.webhooks.webhooks import check_webhook
from sage.middleware.settings.settings import Settings
from sage.middleware.settings.webhooks import WebhookSettings, webhook_key
from sage.middleware.webhooks.signature import sign

SECRET = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"  # the one of Standard Webhooks' own examples
KEY = bytes.fromhex("31f290f6bf06298aab4f08d43c3f082cf648a362da2da4b0")


def test_a_signature_is_that_of_the_specification() -> None:
    """Its example: https://github.com/standard-webhooks/standard-webhooks/blob/main/spec/standard-webhooks.md"""
    key = webhook_key(WebhookSettings(secret=SECRET).secret)
    signature = sign(key, "msg_p5jXN8AQM9LWM0D4loKWxJek", 1614265330, b'{"test": 2432232314}')
    assert signature == "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE="


@pytest.mark.parametrize(
    ("hosts", "url", "fault"),
    [
        ([], "https://hooks.example.com/x", "calls no webhooks"),
        (["hooks.example.com"], "https://hooks.example.com.evil.example/", "is not among the hosts"),
        (["hooks.example.com"], "https://evil.example/hooks.example.com", "is not among the hosts"),
        (["hooks.example.com"], "https://hooks.example.com:8443/", "is not among the hosts"),
        (["*"], "http://127.0.0.1/", "is an address that queue.webhooks.hosts does not allow"),
        (["*"], "http://169.254.169.254/latest/meta-data", "is an address"),
        (["*"], "http://[::1]/", "is an address"),
        (["*"], "http://2130706433/", "in a spelling that is refused"),
        (["*"], "https://user:secret@hooks.example.com/", "a user name or password"),
        (["*"], "ftp://hooks.example.com/", "begins with http:// or https://"),
        (["*"], "file:///etc/passwd", "begins with http:// or https://"),
        (["*"], "https://hooks.example.com/\r\nHost: evil", "no spaces, control characters"),
    ],
)
def test_receivers_that_are_not_allowed(hosts: list[str], url: str, fault: str) -> None:
    with pytest.raises(InvalidRequest) as error:
        check_webhook(url, WebhookSettings(hosts=tuple(hosts), secret=SECRET))
    assert fault in error.value.message
    assert error.value.param == "webhook.url"
    assert "secret" not in error.value.message


def verified(request: Received) -> dict[str, Any]:
    """The body, once the signature has been computed anew: HMAC by hand (RFC 2104)."""
    message_id, timestamp = request.headers["webhook-id"], request.headers["webhook-timestamp"]
    assert abs(int(timestamp) - time.time()) < 60
    signed = f"{message_id}.{timestamp}.".encode() + request.raw
    inner = hashlib.sha256(bytes(byte ^ 0x36 for byte in KEY.ljust(64, b"\0")) + signed).digest()
    outer = hashlib.sha256(bytes(byte ^ 0x5C for byte in KEY.ljust(64, b"\0")) + inner).digest()
    assert request.headers["webhook-signature"] == "v1," + base64.b64encode(outer).decode()
    body: dict[str, Any] = json.loads(request.raw)
    return body


@contextmanager
def working(directory: Path, hosts: list[str], **webhooks: Any) -> Iterator[tuple[Running, HandWorker]]:
    section = {"hosts": hosts, "secret": SECRET, "retry_after": "50ms", "timeout": "2s", "attempts": 3, **webhooks}
    settings = {
        "data_dir": directory / "data",
        "api": {"port": 0, "access_log": False},
        "queue": {"embedded_worker": False, "webhooks": section},
        "llm": {
            "providers": {"up": {"kind": "openai", "base_url": "http://127.0.0.1:9/v1", "api_key": "secret"}},
            "models": {"bench": {"deployments": [{"provider": "up", "model": "bench"}]}},
        },
    }
    with run_gateway(Settings.model_validate(settings)) as running:
        worker = HandWorker(running)
        worker.post("/worker/hello", {"worker": "hand", "concurrency": 8})
        yield running, worker


@pytest.fixture(scope="module")
def receiver() -> Iterator[Upstream]:
    with Upstream() as receiver:
        yield receiver


@pytest.fixture(scope="module")
def dead_port() -> Iterator[int]:
    with socket.socket() as taken:  # bound but not listening: connections are refused
        taken.bind(("127.0.0.1", 0))
        yield taken.getsockname()[1]


@pytest.fixture(scope="module")
def shared_queue(
    receiver: Upstream, dead_port: int, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[tuple[Running, HandWorker]]:
    hosts = [f"127.0.0.1:{receiver.port}", f"127.0.0.1:{dead_port}"]
    with working(tmp_path_factory.mktemp("webhooks"), hosts) as started:
        yield started


@pytest.fixture
def queue(shared_queue: tuple[Running, HandWorker], receiver: Upstream) -> tuple[Running, HandWorker]:
    receiver.reset()
    receiver.handler = lambda request: reply({})
    return shared_queue


def submit(running: Running, url: str, **fields: Any) -> dict[str, Any]:
    body = {"model": "bench", "prompt": "hello", "webhook": {"url": url}, **fields}
    answer = running.post("/tasks/generate", body)
    assert answer.status_code == 202, answer.text
    job: dict[str, Any] = answer.json()
    return job


def end(worker: HandWorker, job: dict[str, Any], **fields: Any) -> None:
    claimed = worker.claim()
    assert claimed["id"] == job["id"]
    for item in worker.items(claimed["run"])["items"]:
        worker.record(claimed["run"], {"index": item["index"], "line": {"text": "done"}})
    worker.finish(claimed["run"], **fields)


def told(running: Running, job: dict[str, Any], state: str, wait: float = 20.0) -> dict[str, Any]:
    """The job's view, once its webhook is in that state."""
    until = time.monotonic() + wait
    while (view := running.get(f"/tasks/{job['id']}").json())["webhook"]["state"] != state:
        assert time.monotonic() < until, view
        time.sleep(0.02)
    return dict(view)


@pytest.mark.slow
def test_the_end_of_a_job_is_told_once_and_signed(queue: tuple[Running, HandWorker], receiver: Upstream) -> None:
    running, worker = queue
    url = f"http://127.0.0.1:{receiver.port}/hook?of=mine"
    job = submit(running, url, metadata={"mine": "yes"})
    assert job["webhook"] == {"url": url, "state": None, "attempts": 0}
    end(worker, job, result={"secret": "a result"})
    view = told(running, job, "delivered")
    assert view["webhook"] == {"url": url, "state": "delivered", "attempts": 1}
    [request] = receiver.requests
    assert (request.method, request.path) == ("POST", "/hook?of=mine")
    assert request.headers["content-type"] == "application/json"
    assert request.headers["webhook-id"] == f"msg_{job['id']}_0"
    body = verified(request)
    assert body.pop("type") == "job.succeeded"
    ended = time.strptime(body.pop("timestamp")[:19], "%Y-%m-%dT%H:%M:%S")
    assert abs(time.mktime(ended) - time.timezone - view["finished_at"]) <= 3601
    assert view["result"] == {"secret": "a result"}
    assert body == {name: value for name, value in view.items() if name not in ("result", "webhook")}
    assert body["metadata"] == {"mine": "yes"}
    assert running.key not in str(request.headers)
    assert "authorization" not in request.headers


@pytest.mark.slow
def test_every_end_is_told(queue: tuple[Running, HandWorker], receiver: Upstream) -> None:
    """A failure, its retry, and a cancellation: each end has an id of its own."""
    running, worker = queue
    url = f"http://127.0.0.1:{receiver.port}/hook"
    job = submit(running, url)
    claimed = worker.claim()
    worker.finish(claimed["run"], state="failed", error={"message": "no", "code": "broken"})
    told(running, job, "delivered")
    assert running.post(f"/tasks/{job['id']}/retry").status_code in (200, 202)
    assert running.get(f"/tasks/{job['id']}").json()["webhook"]["state"] is None
    assert running.post(f"/tasks/{job['id']}/cancel").status_code in (200, 202)
    told(running, job, "delivered")
    bodies = [(request.headers["webhook-id"], verified(request)) for request in receiver.requests]
    assert [(name, body["type"]) for name, body in bodies] == [
        (f"msg_{job['id']}_0", "job.failed"),
        (f"msg_{job['id']}_1", "job.cancelled"),
    ]
    assert bodies[0][1]["error"] == {"message": "no", "code": "broken"}
    worker.drop_messages()


@pytest.mark.slow
def test_a_webhook_is_tried_again_with_the_same_id(queue: tuple[Running, HandWorker], receiver: Upstream) -> None:
    running, worker = queue
    receiver.reply(status=500, times=1)
    receiver.reply(status=302, headers={"location": f"http://127.0.0.1:{receiver.port}/elsewhere"}, times=1)
    job = submit(running, f"http://127.0.0.1:{receiver.port}/hook")
    end(worker, job)
    assert told(running, job, "delivered")["webhook"]["attempts"] == 3
    assert [request.path for request in receiver.requests] == ["/hook"] * 3  # redirects are not followed
    assert {request.headers["webhook-id"] for request in receiver.requests} == {f"msg_{job['id']}_0"}
    assert [verified(request)["id"] for request in receiver.requests] == [job["id"]] * 3
    first, second, third = (request.at for request in receiver.requests)
    assert second - first >= 0.05
    assert third - second >= 0.15


@pytest.mark.slow
def test_a_webhook_is_given_up(queue: tuple[Running, HandWorker], receiver: Upstream, dead_port: int) -> None:
    running, worker = queue
    refused = submit(running, f"http://127.0.0.1:{dead_port}/hook")
    end(worker, refused)
    assert told(running, refused, "failed")["webhook"]["attempts"] == 3
    receiver.reply(status=410)
    gone = submit(running, f"http://127.0.0.1:{receiver.port}/hook")
    end(worker, gone)
    assert told(running, gone, "failed")["webhook"]["attempts"] == 1
    assert running.get(f"/tasks/{gone['id']}").json()["state"] == "succeeded"


@pytest.mark.slow
def test_a_slow_receiver_delays_nobody(queue: tuple[Running, HandWorker], receiver: Upstream, tmp_path: Path) -> None:
    with Upstream() as slow:
        gate = threading.Event()
        slow.reply({}, gate=gate)
        hosts = [f"127.0.0.1:{receiver.port}", f"127.0.0.1:{slow.port}"]
        with working(tmp_path, hosts, timeout="30s") as (running, worker):
            waiting = [submit(running, f"http://127.0.0.1:{slow.port}/{number}") for number in range(6)]
            for job in waiting:
                end(worker, job)
            slow.wait_requests(4)
            quick = submit(running, f"http://127.0.0.1:{receiver.port}/hook")
            end(worker, quick)
            told(running, quick, "delivered")
            assert len(slow.requests) == 4  # at one time
            assert running.get(f"/tasks/{waiting[0]['id']}").json()["webhook"]["state"] == "due"
            gate.set()
            for job in waiting:
                assert told(running, job, "delivered")["webhook"]["attempts"] == 1
            assert len(slow.requests) == 6


@pytest.mark.slow
def test_a_restart_forgets_no_webhook(receiver: Upstream, tmp_path: Path) -> None:
    receiver.reset()
    hosts = [f"127.0.0.1:{receiver.port}"]
    url = f"http://127.0.0.1:{receiver.port}/hook"
    receiver.reply(status=503, headers={"retry-after": "1"})
    with working(tmp_path, hosts) as (running, worker):
        delivered = submit(running, url, metadata={"n": "1"})
        end(worker, delivered)
        receiver.wait_requests(1)
        receiver.hang()
        end_at = time.monotonic() + 10
        while running.get(f"/tasks/{delivered['id']}").json()["webhook"]["attempts"] < 1:  # until it is noted
            assert time.monotonic() < end_at
            time.sleep(0.01)
    seen = len(receiver.requests)
    assert seen >= 1
    receiver._scripts.clear()
    receiver.handler = lambda request: reply({})
    with working(tmp_path, hosts) as (running, _):
        view = told(running, delivered, "delivered")
        time.sleep(0.3)  # a second one would come at once
    assert view["webhook"]["attempts"] == 2
    assert {request.headers["webhook-id"] for request in receiver.requests} == {f"msg_{delivered['id']}_0"}
    assert len(receiver.requests) == 2


@pytest.mark.slow
def test_what_a_receiver_had_not_confirmed_comes_again_with_the_same_id(receiver: Upstream, tmp_path: Path) -> None:
    """The gateway ended while the receiver was at work: whether it took the message, only its id can tell."""
    receiver.reset()
    receiver.hang(times=1)
    hosts = [f"127.0.0.1:{receiver.port}"]
    with working(tmp_path, hosts, timeout="30s") as (running, worker):
        job = submit(running, f"http://127.0.0.1:{receiver.port}/hook")
        end(worker, job)
        receiver.wait_requests(1)
    receiver.handler = lambda request: reply({})
    with working(tmp_path, hosts) as (running, _):
        assert told(running, job, "delivered")["webhook"]["attempts"] == 1
    assert [request.headers["webhook-id"] for request in receiver.requests] == [f"msg_{job['id']}_0"] * 2
    assert [verified(request)["state"] for request in receiver.requests] == ["succeeded"] * 2


@pytest.mark.slow
def test_a_receiver_must_be_allowed_at_submit(queue: tuple[Running, HandWorker], receiver: Upstream) -> None:
    running, _ = queue

    def refused(url: str) -> dict[str, Any]:
        answer = running.post("/tasks/generate", {"model": "bench", "prompt": "x", "webhook": {"url": url}})
        assert answer.status_code == 400, answer.text
        return dict(answer.json()["error"])

    assert refused("https://evil.example/")["param"] == "webhook.url"
    assert refused(f"http://localhost:{receiver.port}/")["code"] == "address_refused"
    assert "is an address that queue.webhooks.hosts does not allow" in refused("http://127.0.0.1/")["message"]
    assert running.get("/tasks?state=queued").json()["tasks"] == []


@pytest.mark.slow
def test_a_name_that_leads_to_this_machine_is_not_called(tmp_path: Path, receiver: Upstream) -> None:
    """The list has the name, and not the private address that it leads to."""
    receiver.reset()
    with working(tmp_path, [f"localhost:{receiver.port}"], attempts=1) as (running, worker):
        job = submit(running, f"http://localhost:{receiver.port}/hook")
        end(worker, job)
        told(running, job, "failed")
    assert receiver.requests == []
    with working(tmp_path, [f"localhost:{receiver.port}", f"127.0.0.1:{receiver.port}", f"[::1]:{receiver.port}"]) as (
        running,
        worker,
    ):
        receiver.handler = lambda request: reply({})
        job = submit(running, f"http://localhost:{receiver.port}/hook")
        end(worker, job)
        told(running, job, "delivered")
        assert receiver.requests[0].headers["host"] == f"localhost:{receiver.port}"
