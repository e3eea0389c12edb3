"""A real worker on both brokers: what it runs, what it drops, and what it survives."""

from __future__ import annotations

import json
import os
import pickle
import signal
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from running_worker import RunningWorker, running_worker

from sage.middleware.queue.celery_app import make_celery_app
from sage.middleware.queue.file_messages import put_file
from sage.middleware.queue.messages import encode_message, make_message

pytestmark = pytest.mark.slow
QUEUE = "sage.jobs.default"


@pytest.fixture(scope="module", params=["files", "redis"])
def worker(request: pytest.FixtureRequest) -> Iterator[RunningWorker]:
    with running_worker(request.param) as running:
        yield running


def put(worker: RunningWorker, entry: bytes, queue: str = QUEUE) -> None:
    """What anybody could write to the broker."""
    if worker.server is None:
        put_file(worker.data_dir / "queue/broker/messages", queue, entry)
    else:
        with worker.server.client as client:
            client.lpush(queue, entry)


def test_a_job_is_claimed_run_and_finished(worker: RunningWorker) -> None:
    assert worker.run("nothing") == {"state": "succeeded", "result": {"deliveries": 1}, "error": None, "retry": False}


def test_errors_are_told_apart(worker: RunningWorker) -> None:
    told = worker.run("fail")
    assert (told["error"], told["retry"]) == ({"message": "as it was told", "code": "told"}, False)
    broken = worker.run("break")
    assert (broken["error"]["message"], broken["retry"]) == ("KeyError: 'unexpected'", True)
    job = worker.gateway.add("no-such-kind")
    worker.publish(job)
    assert worker.ended(job)["error"]["code"] == "unknown_kind"


def test_lines_are_done_each_and_handed_in(worker: RunningWorker) -> None:
    lines: list[dict[str, Any]] = [{"custom_id": f"c{number}"} for number in range(100)]
    lines[7]["error"], lines[50]["bug"] = "bad line", True
    job = worker.begin("lines", lines=lines)
    assert worker.ended(job)["result"] == {"seen": list(range(100))}
    assert [job.results[index]["ok"] for index in range(100)] == [index not in (7, 50) for index in range(100)]
    told = {"index": 7, "custom_id": "c7", "status": 418, "error": {"message": "bad line", "code": "told"}}
    assert job.results[7]["line"] == told
    assert job.results[50]["line"]["error"] == {"message": "ZeroDivisionError: a bug", "code": "internal_error"}


def test_calls_have_the_credential_of_who_asked(worker: RunningWorker) -> None:
    job = worker.begin("call", path="/somewhere")
    assert worker.ended(job)["result"] == {"status": 200}
    assert ("POST", "/somewhere", f"Bearer jt-{job.id}-0") in worker.gateway.public


class Bomb:
    """Whoever unpickles it makes a file."""

    def __init__(self, file: Path) -> None:
        self.file = file

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (str(self.file),)


def garbage(mark: Path) -> list[bytes]:
    good: dict[str, Any] = make_message("job_x", "s" * 32, "default")
    pickled = pickle.dumps(Bomb(mark))
    import base64

    def changed(**fields: Any) -> bytes:
        return json.dumps({**good, **fields}).encode()

    def headers(**fields: Any) -> bytes:
        return changed(headers={**good["headers"], **fields})

    return [
        *(b"", b"\x00\xff\xfe", b"not json", b"[]", b"null", b"17", b'"text"', b"{}", b"[" * 100_000, b'{"a":' * 5000),
        *(pickled, base64.b64encode(pickled), "键".encode("utf-16"), b"x" * 3_000_000),
        changed(body=base64.b64encode(pickled).decode(), **{"content-type": "application/x-python-serialize"}),
        changed(body="%%%"),
        changed(body=base64.b64encode(b"not json").decode()),
        changed(body=base64.b64encode(b"[[1, 2], {}, {}]").decode()),
        changed(body=base64.b64encode(b'[["a"], {}, {}]').decode()),
        changed(body=None),
        changed(headers=None),
        changed(headers=[]),
        changed(properties=None),
        changed(properties={}),
        changed(**{"content-encoding": "zip"}),
        headers(task="celery.chord_unlock"),
        headers(task="os.system"),
        headers(task=None),
        headers(compression="zlib"),
        headers(eta="garbage", expires="garbage", retries="x", timelimit="y"),
        headers(id=None, root_id={}),
        b'{"body": {"__type__": "datetime", "__value__": 5}, "headers": {}, "properties": {}}',
        encode_message("job_unknown", "s" * 32, "default"),
    ]


def test_what_is_not_ours_never_runs_and_never_ends_the_worker(worker: RunningWorker, tmp_path: Path) -> None:
    mark = tmp_path / "unpickled"
    claims, pid, pool = len(worker.gateway.claims), worker.process.pid, worker.children()
    entries = garbage(mark)
    for entry in entries:
        put(worker, entry)
    assert worker.run("nothing")["state"] == "succeeded"
    assert not mark.exists()
    assert (worker.process.poll(), worker.process.pid, worker.children()) == (None, pid, pool)
    claimed = {claim["id"] for claim in worker.gateway.claims[claims:]}
    assert {one for one in claimed if not one.startswith("job_")} == set()
    assert len(claimed) == 3, (
        "ours, one with a strange head and one that is not known: both were asked for, and refused"
    )
    assert "they are not ours" in worker.log.read_text()


def test_a_message_with_a_wrong_signature_or_sent_twice_does_nothing(worker: RunningWorker) -> None:
    job = worker.gateway.add("probe")
    put(worker, encode_message(job.id, worker.gateway.signer.sign("job_other"), "default"))
    worker.publish(job, job, job)
    worker.ended(job)
    worker.run("nothing")
    assert job.deliveries == 1


def test_remote_control_gives_no_orders(worker: RunningWorker) -> None:
    worker.run("nothing")  # it listens now
    app = make_celery_app(worker.queue, worker.data_dir)
    try:
        assert len(app.control.ping(timeout=1.0, limit=1)) == 1
        for order in ("shutdown", "pool_grow", "pool_restart", "add_consumer", "revoke", "terminate", "rate_limit"):
            app.control.broadcast(order)
        texts = [b"not json", b"[]", b"[" * 20_000, b'{"body": 1}', b'{"__type__": "uuid", "__value__": []}']
        if worker.server is not None:
            with worker.server.client as client:
                for text in texts:
                    client.publish("/0.celery.pidbox", text)
        else:
            for text in texts:
                put(worker, text, worker.gateway.hellos[-1]["worker"] + ".celery.pidbox")
        assert worker.run("nothing")["state"] == "succeeded"
        assert len(app.control.ping(timeout=1.0, limit=1)) == 1
    finally:
        app.close()
    assert worker.process.poll() is None


def test_a_job_that_kills_its_process_takes_only_that(worker: RunningWorker) -> None:
    for do in ("die", "crash"):
        other = worker.begin("wait", seconds=1.0)
        job = worker.begin(do)
        worker.gateway.wait(lambda job=job: job.state == "running")
        begin = time.monotonic()
        assert worker.run("nothing")["state"] == "succeeded"
        assert time.monotonic() - begin < 5
        assert worker.ended(other)["state"] == "succeeded"
        assert job.finish is None
        worker.gateway.wait(lambda job=job: job.id in worker.gateway.lost)
    worker.gateway.wait(lambda: len(worker.children()) >= 2)


def test_cancellation_and_the_time_limit_stop_a_job(worker: RunningWorker) -> None:
    limited = worker.begin("wait", seconds=60, time_limit=0.3)
    slow = worker.begin("call", path="/slow")
    worker.gateway.wait(lambda: any(path == "/slow" for _, path, _ in worker.gateway.public))
    slow.cancel = True
    assert worker.ended(limited)["error"]["code"] == "time_limit"
    assert worker.ended(slow)["error"]["code"] == "cancelled"
    assert not limited.finish["retry"]  # type: ignore[index]


def test_a_gateway_that_restarts_or_has_a_full_disk_costs_nothing(worker: RunningWorker) -> None:
    gateway = worker.gateway
    waiting = worker.begin("wait", seconds=2.0)
    gateway.wait(lambda: waiting.state == "running")
    gateway.fail["results"] = 507
    job = worker.begin("lines", lines=[{"seconds": 0.01} for _ in range(60)])
    gateway.wait(lambda: job.leased)
    gateway.stop()
    time.sleep(0.5)
    gateway.start()
    time.sleep(0.3)
    assert job.finish is None
    assert not job.results
    del gateway.fail["results"]
    assert worker.ended(job)["state"] == "succeeded"
    assert sorted(job.results) == list(range(60))
    assert worker.ended(waiting)["state"] == "succeeded"
    assert (job.deliveries, waiting.deliveries) == (1, 1)


def test_a_run_whose_lease_is_lost_stops(worker: RunningWorker) -> None:
    job = worker.begin("wait", seconds=60)
    worker.gateway.wait(lambda: job.renewals)
    worker.gateway.again(job)  # another worker may have it now
    worker.publish(job)
    worker.gateway.wait(lambda: job.deliveries == 2)
    worker.gateway.again(job)
    assert worker.run("nothing")["state"] == "succeeded"
    assert job.finish is None


def test_a_worker_that_is_stopped_leaves_its_job_to_others(worker: RunningWorker) -> None:
    job = worker.begin("lines", lines=[{"seconds": 0.2} for _ in range(500)])
    worker.gateway.wait(lambda: job.results)
    worker.process.send_signal(signal.SIGTERM)
    assert worker.process.wait(15) == 0
    assert job.finish is None
    assert len(worker.gateway.goodbyes) == 1
    done = len(job.results)
    assert done >= len(job.leased) - 32  # what was at work has been handed in
    worker.start()
    worker.gateway.again(job)
    job.lines = job.lines[: max(job.leased) + 1]
    worker.publish(job)
    assert worker.ended(job)["state"] == "succeeded"


def test_the_pool_ends_with_a_worker_that_is_killed(worker: RunningWorker) -> None:
    job = worker.begin("wait", seconds=60)
    worker.gateway.wait(lambda: job.state == "running")
    pool = worker.children()
    assert len(pool) >= 2
    worker.process.kill()
    worker.process.wait()
    worker.gateway.wait(lambda: not any(Path(f"/proc/{pid}/cmdline").exists() for pid in pool), 5)
    worker.start()
    worker.gateway.again(job)
    job.params = {"do": "nothing"}
    worker.publish(job)
    assert worker.ended(job)["result"] == {"deliveries": 2}


def test_a_broker_that_freezes_or_restarts_empty_is_used_again(worker: RunningWorker) -> None:
    worker.run("nothing")
    if worker.server is None:
        folder = worker.data_dir / "queue/broker"
        moved = folder.rename(folder.with_name("gone"))
        time.sleep(0.3)
        assert moved.exists()
        assert worker.run("nothing")["state"] == "succeeded"
        return
    waiting = worker.begin("wait", seconds=1.5)
    worker.gateway.wait(lambda: waiting.state == "running")
    worker.server.process.send_signal(signal.SIGSTOP)
    time.sleep(0.5)
    worker.server.process.send_signal(signal.SIGCONT)
    assert worker.run("nothing")["state"] == "succeeded"
    with worker.server.client as client:  # a server that refuses what is asked of it
        client.set(QUEUE, "no list")
        worker.gateway.wait(lambda: "ResponseError" in worker.log.read_text())
        time.sleep(0.3)
        client.delete(QUEUE)
    assert worker.run("nothing")["state"] == "succeeded"
    worker.server.process.kill()
    worker.server.start_again()
    begin = time.monotonic()
    assert worker.run("nothing")["state"] == "succeeded"
    assert time.monotonic() - begin < 8
    assert worker.ended(waiting)["state"] == "succeeded"
    assert worker.process.poll() is None


def test_processes_that_start_late_are_not_killed_before_they_begin(monkeypatch: pytest.MonkeyPatch) -> None:
    """Celery kills them after four seconds, again and again while the machine is busy."""
    monkeypatch.setenv("PROBE_STARTS_LATE", "5")
    with running_worker("files", concurrency=1) as worker:
        worker.begin("die")
        worker.gateway.wait(lambda: worker.gateway.lost)
        assert worker.run("nothing")["state"] == "succeeded"
        assert "Timed out waiting for UP" not in worker.log.read_text()
