"""``/tasks`` over HTTP, and ``/worker`` below it, with a worker that a test moves step by step."""

from __future__ import annotations

import json
import threading
import time

import pytest
from hand_worker import HandWorker, events_of
from running_gateway import run_gateway
from upstream import Upstream

from sage.middleware.auth.principal import Scope
from sage.middleware.settings.settings import Settings

pytestmark = pytest.mark.slow  # nearly each test starts a gateway, or has several threads


@pytest.fixture(scope="module")
def running(tmp_path_factory):
    with Upstream() as upstream:
        settings = {
            "data_dir": tmp_path_factory.mktemp("tasks") / "data",
            "api": {"port": 0, "access_log": False},
            "queue": {"embedded_worker": False},
            "llm": {
                "providers": {"up": {"kind": "openai", "base_url": upstream.url, "api_key": "secret"}},
                "models": {"bench": {"deployments": [{"provider": "up", "model": "bench"}]}},
            },
        }
        with run_gateway(Settings.model_validate(settings)) as running:
            yield running


@pytest.fixture
def worker(running):
    worker = HandWorker(running)
    worker.post("/worker/hello", {"worker": "hand", "concurrency": 2})
    yield worker
    worker.post("/worker/goodbye", {"worker": "hand"}, 204)
    for job in running.get("/tasks").json()["tasks"]:  # what the test has left
        while (answer := running.request("DELETE", f"/tasks/{job['id']}")).status_code == 202:
            assert answer.json()["state"] == "cancelled"
        assert answer.status_code == 204
    worker.drop_messages()


def submit(running, body=None, status=202, **options):
    body = body or {"model": "bench", "requests": [{"prompt": "one"}, {"prompt": "two"}, {"prompt": "three"}]}
    answer = running.post("/tasks/generate", body, **options)
    assert answer.status_code == status, answer.text
    return answer.json()


def show(running, job):
    answer = running.get(f"/tasks/{job['id']}")
    assert answer.status_code == 200, answer.text
    return answer.json()


def error_of(answer, status):
    assert answer.status_code == status, answer.text
    return answer.json()["error"]


def test_a_job_is_accepted_claimed_done_and_shown(running, worker):
    before = time.time()
    answer = running.post("/tasks/generate", {"model": "bench", "requests": [{"prompt": "a"}, {"prompt": "b"}]})
    job = answer.json()
    assert answer.status_code == 202
    assert answer.headers["location"] == job["status_url"] == f"/tasks/{job['id']}"
    assert (job["state"], job["kind"], job["user"], job["priority"]) == ("queued", "generate", "root", "normal")
    assert job["progress"] == {"total": 2, "done": 0, "failed": 0, "rate": None, "seconds_left": None}
    assert before - 1 < job["created_at"] < time.time() + 1
    assert show(running, job) == job

    claimed = worker.claim()
    assert (claimed["id"], claimed["kind"], claimed["total"], claimed["deliveries"]) == (job["id"], "generate", 2, 1)
    assert show(running, job)["state"] == "running"
    items = worker.items(claimed["run"])
    assert [item["index"] for item in items["items"]] == [0, 1]
    assert [item["body"]["prompt"] for item in items["items"]] == ["a", "b"]
    assert worker.items(claimed["run"]) == {"items": [], "more": True}
    worker.record(claimed["run"], {"index": 1, "line": {"index": 1, "response": {"text": "B"}}})
    assert show(running, job)["progress"]["done"] == 1
    worker.record(claimed["run"], {"index": 0, "ok": False, "line": {"index": 0, "error": {"message": "no"}}})
    assert worker.items(claimed["run"]) == {"items": [], "more": False}
    worker.finish(claimed["run"], result={"lines": 2})

    ended = show(running, job)
    assert (ended["state"], ended["result"]) == ("succeeded", {"lines": 2})
    assert (ended["progress"]["done"], ended["progress"]["failed"]) == (1, 1)
    assert ended["expires_at"] - ended["finished_at"] == 7 * 86400
    results = running.get(f"/tasks/{job['id']}/results")
    assert results.headers["content-type"].startswith("application/x-ndjson")
    lines = [json.loads(line) for line in results.text.splitlines()]
    assert lines == [{"index": 0, "error": {"message": "no"}}, {"index": 1, "response": {"text": "B"}}]


def test_the_credential_of_a_job_asks_models_as_its_asker_and_ends_with_its_rights(running, worker):
    key = running.new_key(scopes=["generate", "tasks"], models=["bench"])
    job = submit(running, key=key)
    claimed = worker.claim()
    credential = claimed["credential"]
    assert running.chat(key=credential).status_code == 200
    assert error_of(running.chat("other", key=credential), 403)["code"] == "model_not_allowed"
    assert error_of(running.get("/auth/me", key=credential), 403)["code"] == "missing_scope"
    nested = running.post("/tasks/generate", {"model": "bench", "prompt": "x"}, key=credential)
    assert error_of(nested, 403)["code"] == "no_jobs_in_jobs"
    running.accounts.keys.revoke(key)
    end = time.monotonic() + 5
    while running.chat(key=credential).status_code == 200 and time.monotonic() < end:
        time.sleep(0.05)
    assert running.chat(key=credential).status_code == 401
    refused = worker.post(f"/worker/runs/{claimed['run']}/renew", {}, 409)
    assert refused["error"]["code"] == "run_ended"
    ended = show(running, job)
    assert (ended["state"], ended["error"]["code"]) == ("failed", "rights_revoked")
    assert "revoked" in ended["error"]["message"]


def test_a_job_whose_asker_lost_the_right_before_it_runs_fails(running, worker):
    key = running.new_key(scopes=["generate", "tasks"])
    job, message = submit(running, key=key), worker.message()
    running.accounts.keys.revoke(key)
    end = time.monotonic() + 5
    while running.get("/tasks", key=key).status_code == 200 and time.monotonic() < end:
        time.sleep(0.05)
    assert worker.claim(message, 409)["error"]["code"] == "not_claimable"
    assert show(running, job)["error"]["code"] == "rights_revoked"


def test_an_idempotency_key_gives_the_job_of_the_first_request(running, worker):
    first = submit(running, headers={"Idempotency-Key": "k-1"})
    again = submit(running, status=200, headers={"Idempotency-Key": "k-1"})
    assert again["id"] == first["id"]
    other = running.post("/tasks/generate", {"model": "bench", "prompt": "x"}, headers={"Idempotency-Key": "k-1"})
    assert error_of(other, 409)["code"] == "idempotency_conflict"
    assert submit(running, headers={"Idempotency-Key": "k-2"})["id"] != first["id"]
    assert error_of(running.post("/tasks/generate", {}, headers={"Idempotency-Key": "k" * 256}), 400)


def test_lines_as_the_body_with_common_fields_in_the_query(running, worker):
    body = b'{"prompt": "a"}\n{"prompt": "b", "custom_id": "second"}\n'
    answer = running.request(
        "POST",
        "/tasks/generate?model=bench&max_tokens=3&priority=high",
        data=body,
        headers={"Content-Type": "application/x-ndjson"},
    )
    assert answer.status_code == 202, answer.text
    assert (answer.json()["priority"], answer.json()["progress"]["total"]) == ("high", 2)
    items = worker.items(worker.claim()["run"])["items"]
    assert [item["body"].get("custom_id") for item in items] == [None, "second"]
    faulty = running.request(
        "POST",
        "/tasks/generate?model=bench",
        data=body + b"nonsense\n",
        headers={"Content-Type": "application/x-ndjson"},
    )
    assert "line 3" in error_of(faulty, 400)["message"]
    assert len(running.get("/tasks").json()["tasks"]) == 1


def test_high_goes_before_normal_and_low_once_there_is_no_room_for_all(running, worker):
    for _ in range(4):  # as many messages as workers have room for
        submit(running)
    waiting = {}
    for priority in ("low", "normal", "high"):
        job = submit(running, {"model": "bench", "prompt": "x", "priority": priority})
        waiting[priority] = job["id"]
    for _ in range(4):
        worker.claim()
    order = [worker.claim()["id"] for _ in range(3)]
    assert order == [waiting["high"], waiting["normal"], waiting["low"]]


def test_cancelling_a_queued_job_and_one_that_runs(running, worker):
    job, message = submit(running), worker.message()
    assert running.post(f"/tasks/{job['id']}/cancel").json()["state"] == "cancelled"
    assert worker.claim(message, 409)["error"]["code"] == "not_claimable"
    job, claimed = submit(running), worker.claim()
    assert running.post(f"/tasks/{job['id']}/cancel").json()["state"] == "cancelling"
    assert worker.post(f"/worker/runs/{claimed['run']}/renew", {}) == {"cancel": True, "credential": None}
    worker.finish(claimed["run"], state="failed", error={"message": "cancelled", "code": "cancelled"})
    assert show(running, job)["state"] == "cancelled"
    again = running.post(f"/tasks/{job['id']}/retry")
    assert (again.status_code, again.json()["state"]) == (202, "queued")
    assert worker.claim()["id"] == job["id"]


@pytest.mark.slow
def test_events_tell_of_progress_and_end(running, worker):
    job, claimed = submit(running), worker.claim()
    events: list = []
    watching = threading.Thread(target=lambda: events.extend(events_of(running, job["id"])))
    watching.start()
    worker.items(claimed["run"])
    for index in range(3):
        worker.record(claimed["run"], {"index": index, "line": {"index": index}})
        time.sleep(0.3)
    worker.finish(claimed["run"])
    watching.join(10)
    assert not watching.is_alive()
    assert [name for name, _ in events[:-1]] == ["progress"] * (len(events) - 1)
    assert events[-1][0] == "end"
    assert events[-1][1]["state"] == "succeeded"
    done = [view["progress"]["done"] for _, view in events]
    assert done == sorted(done)
    assert done[-1] == 3
    assert any(view["progress"]["rate"] for _, view in events)


def test_the_jobs_of_a_tenant_are_its_own(running, worker):
    job = submit(running)
    other = running.new_key(scopes=["generate", "tasks"], tenant="other")
    assert running.get("/tasks", key=other).json() == {"tasks": [], "next": None}
    for method, path in (
        ("GET", ""),
        ("GET", "/results"),
        ("GET", "/events"),
        ("POST", "/cancel"),
        ("POST", "/retry"),
        ("DELETE", ""),
    ):
        answer = running.request(method, f"/tasks/{job['id']}{path}", key=other)
        assert error_of(answer, 404)["code"] == "job_not_found"
    assert show(running, job)["state"] == "queued"


def test_pages_of_jobs_and_their_filters(running, worker):
    ids = [submit(running)["id"] for _ in range(3)]
    page = running.get("/tasks?limit=2&kind=generate&state=queued").json()
    assert [job["id"] for job in page["tasks"]] == ids[:0:-1]
    rest = running.get(f"/tasks?limit=2&after={page['next']}").json()
    assert ([job["id"] for job in rest["tasks"]], rest["next"]) == ([ids[0]], None)
    assert running.get("/tasks?state=dead").json()["tasks"] == []
    assert "there are queued" in error_of(running.get("/tasks?state=nonsense"), 400)["message"]


def test_who_may_submit_and_who_may_work(running, worker):
    searcher = running.new_key(scopes=["search", "tasks"])
    refused = running.post("/tasks/generate", {"model": "bench", "prompt": "x"}, key=searcher)
    assert "'generate'" in error_of(refused, 403)["message"]
    user = running.new_key(scopes=[scope for scope in Scope if scope != Scope.WORKER])
    for path in ("hello", "goodbye", "claim", "runs/x/renew", "runs/x/items", "runs/x/results", "finish"):
        assert error_of(running.post(f"/worker/{path}", {}, key=user), 403)["code"] == "missing_scope"


def test_a_message_that_is_not_ours_is_refused(running, worker):
    job, message = submit(running), worker.message()
    for forged in (
        {**message, "signature": "0" * 64},
        {**message, "id": f"{message['id']}x"},
        {"id": "job_unknown", "signature": message["signature"]},
    ):
        assert worker.claim(forged, 409)["error"]["code"] == "not_claimable"
    assert worker.claim(message)["id"] == job["id"]
    assert worker.claim(message, 409)["error"]["code"] == "not_claimable"


def test_a_worker_that_says_goodbye_gives_back_what_it_had(running, worker):
    job = submit(running)
    leaving = HandWorker(running, "leaving")
    claimed = leaving.claim()
    leaving.post("/worker/goodbye", {"worker": "leaving"}, 204)
    again = worker.claim()
    assert (again["id"], again["deliveries"]) == (job["id"], 2)
    assert worker.finish(claimed["run"], 409)["error"]["code"] == "run_ended"
    worker.finish(again["run"], state="failed", error={"message": "no", "code": "why"})
    assert show(running, job)["error"] == {"message": "no", "code": "why"}


def test_junk_for_workers_routes_is_a_400(running, worker):
    claimed = worker.claim() if submit(running) else None
    run = claimed["run"]
    for body in (b"nonsense\n", b'{"index": "x"}\n', b"[]\n", b'{"index": 0, "ok": true}\n'):
        answer = running.request(
            "POST", f"/worker/runs/{run}/results", data=body, headers={"Content-Type": "application/x-ndjson"}
        )
        assert error_of(answer, 400)
    assert error_of(running.post(f"/worker/runs/{run}/items", {"count": 0}), 400)
    assert error_of(running.post("/worker/finish", {"run": run, "state": "queued"}), 400)
    assert error_of(running.post("/worker/runs/nonsense/renew", {}), 409)["code"] == "run_ended"
    assert error_of(running.get("/worker/runs/nonsense/results"), 409)["code"] == "run_ended"
    many = {"count": 1, "in_hand": list(range(60_000, 62_048))}
    assert error_of(running.post("/worker/runs/nonsense/items", many), 409)["code"] == "run_ended"


@pytest.mark.slow
def test_who_watches_a_job_does_not_keep_the_gateway_from_ending(tmp_path):
    settings = {
        "data_dir": tmp_path / "data",
        "api": {"port": 0, "access_log": False},
        "queue": {"embedded_worker": False},
        "llm": {"providers": {"up": {"kind": "openai", "base_url": "http://127.0.0.1:9/v1", "api_key": "secret"}}},
    }
    events: list = []
    with run_gateway(Settings.model_validate(settings)) as running:
        answer = running.post("/tasks/generate", {"model": "up/bench", "prompt": "x"})
        first = threading.Event()

        def watch() -> None:
            for event in events_of(running, answer.json()["id"]):
                events.append(event)
                first.set()

        watching = threading.Thread(target=watch)
        watching.start()
        assert first.wait(10)
        began = time.monotonic()
    watching.join(5)
    assert time.monotonic() - began < 10
    assert [name for name, _ in events] == ["progress"]
