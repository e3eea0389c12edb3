"""Jobs of many lines, from the request to the results: one gateway with its own worker, before a scripted upstream."""

from __future__ import annotations

import json
import os
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import pytest
from running_gateway import Running, run_gateway
from shared_gateway import one_model
from upstream import Received, Script, Upstream, openai_like, reply

from sage.middleware.auth.principal import Scope
from sage.middleware.settings.settings import Settings

pytestmark = pytest.mark.slow

LINES = 5000 if os.environ.get("SAGE_TEST_FULL") else 300
ENDS = {"succeeded", "failed", "dead", "cancelled"}
_MOST = 2 * 2**20
"""Bytes of a body."""
NDJSON = {"content-type": "application/x-ndjson"}


@pytest.fixture(scope="module")
def shared_upstream() -> Iterator[Upstream]:
    with Upstream() as up:
        yield up


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory, shared_upstream: Upstream) -> Iterator[Running]:
    sections = one_model(shared_upstream)
    sections["llm"]["models"]["bench"]["retries"] = 0
    data = {
        "data_dir": tmp_path_factory.mktemp("jobs"),
        "api": {"port": 0, "access_log": False, "max_body_bytes": _MOST},
    }
    with run_gateway(Settings.model_validate({**data, **sections})) as gateway:
        yield gateway


@pytest.fixture
def up(shared_upstream: Upstream) -> Upstream:
    shared_upstream.reset()
    return shared_upstream


def submit(running: Running, kind: str, body: Any, status: int = 202, **options: Any) -> dict[str, Any]:
    answer = running.post(f"/tasks/{kind}", body, **options)
    assert answer.status_code == status, answer.text
    view: dict[str, Any] = answer.json()
    if status == 202:
        assert answer.headers["location"] == view["status_url"] == f"/tasks/{view['id']}"
    return view


def submit_lines(running: Running, query: str, lines: Iterable[Any], **options: Any) -> dict[str, Any]:
    data = b"".join(json.dumps(line).encode() + b"\n" for line in lines)
    answer = running.request("POST", f"/tasks/{query}", data=data, headers={**NDJSON, **options})
    assert answer.status_code == 202, answer.text
    return dict(answer.json())


def wait(
    running: Running, job: dict[str, Any], until: Callable[[dict[str, Any]], bool] | None = None, seconds: float = 30
) -> dict[str, Any]:
    """The job once it has ended, or is as ``until`` says."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        view: dict[str, Any] = running.get(f"/tasks/{job['id']}").json()
        if until(view) if until is not None else view["state"] in ENDS:
            return view
        time.sleep(0.02)
    raise AssertionError(f"after {seconds} s the job is {view}")


def results(running: Running, job: dict[str, Any]) -> list[dict[str, Any]]:
    answer = running.get(f"/tasks/{job['id']}/results")
    assert answer.headers["content-type"].startswith("application/x-ndjson")
    return [json.loads(line) for line in answer.content.splitlines()]


def asked(request: Received) -> str:
    return str(request.body["messages"][-1]["content"])


def refusing(*bad: str) -> Callable[[Received], Script]:
    """An upstream that refuses these prompts, or texts."""

    def handle(request: Received) -> Script:
        texts = request.body.get("input") or [asked(request)]
        return reply(status=400) if set(bad) & set(texts) else openai_like(request)

    return handle


def test_lines_in_order_with_their_failures(running: Running, up: Upstream) -> None:
    up.handler = refusing("prompt 7", "prompt 250")
    lines = [{"custom_id": f"c{i}", "prompt": f"prompt {i}"} for i in range(LINES)]
    job = submit_lines(running, "generate?model=bench&max_tokens=9", lines)
    view = wait(running, job, seconds=600)
    assert (view["state"], view["kind"], view["user"]) == ("succeeded", "generate", "root"), view
    progress = view["progress"]
    assert (progress["total"], progress["done"], progress["failed"]) == (LINES, LINES - 2, 2), progress
    good = LINES - 2
    usage = {"prompt_tokens": 3 * good, "completion_tokens": 2 * good, "total_tokens": 5 * good}
    assert view["result"] == {"lines": LINES, "failed": 2, "usage": usage}
    made = results(running, job)
    assert [(line["index"], line["custom_id"]) for line in made] == [(i, f"c{i}") for i in range(LINES)]
    assert [line["index"] for line in made if "error" in line] == [7, 250]
    assert (made[7]["status"], made[7]["error"]["code"]) == (400, "invalid_request")
    assert made[8]["status"] == 200
    assert made[8]["response"]["text"] == "prompt 8"
    assert made[8]["response"]["usage"]["total_tokens"] == 5
    assert up.requests[0].body["max_tokens"] == 9
    assert len(up.requests) == LINES

    up.reset()
    again = running.post(f"/tasks/{job['id']}/retry")
    assert again.status_code == 202, again.text
    view = wait(running, job)
    assert sorted(map(asked, up.requests)) == ["prompt 250", "prompt 7"]
    assert (view["state"], view["progress"]["failed"], view["result"]["failed"]) == ("succeeded", 0, 0)
    assert view["result"]["usage"]["total_tokens"] == 5 * LINES
    made = results(running, job)
    assert [line["response"]["text"] for line in made] == [f"prompt {i}" for i in range(LINES)]


def test_long_answers_are_handed_in_apart_and_one_that_is_too_long_fails_alone(running: Running, up: Upstream) -> None:
    def handle(request: Received) -> Script:
        return reply(chat("x" * (2 * _MOST if asked(request) == "9" else _MOST // 20), request))

    up.handler = handle
    job = submit(running, "generate", {"model": "bench", "requests": [{"prompt": str(i)} for i in range(60)]})
    view = wait(running, job)
    assert (view["state"], view["progress"]["done"], view["progress"]["failed"]) == ("succeeded", 59, 1)
    made = results(running, job)
    assert [line["index"] for line in made if "error" in line] == [9]
    assert (made[9]["status"], made[9]["error"]["code"]) == (413, "payload_too_large")
    assert len(made[59]["response"]["text"]) == _MOST // 20


def test_one_request_is_a_job_with_its_answer(running: Running, up: Upstream) -> None:
    view = wait(running, submit(running, "generate", {"model": "bench", "prompt": "hello there"}))
    assert (view["state"], view["progress"]["total"]) == ("succeeded", 1)
    assert view["result"]["response"]["text"] == "hello there"
    up.handler = refusing("no")
    view = wait(running, submit(running, "generate", {"model": "bench", "prompt": "no"}))
    assert (view["state"], view["error"]["code"]) == ("failed", "invalid_request")


def test_a_bad_line_refuses_the_job_whole(running: Running, up: Upstream) -> None:
    before = running.get("/tasks").json()["tasks"]
    data = b'{"prompt": "1"}\n{"prompt": 2}\n\nno json\n'
    answer = running.request("POST", "/tasks/generate?model=bench", data=data, headers=NDJSON)
    error = answer.json()["error"]
    assert (answer.status_code, error["code"]) == (400, "invalid_lines")
    assert [(line["line"], line["param"]) for line in error["lines"]] == [(2, "prompt"), (4, None)]
    assert running.get("/tasks").json()["tasks"] == before
    assert up.requests == []


def test_the_lines_of_an_uploaded_file(running: Running, up: Upstream) -> None:
    data = b"".join(json.dumps({"custom_id": f"c{i}", "prompt": f"p{i}"}).encode() + b"\r\n" for i in range(20))
    upload = {"data": {"purpose": "user_data"}, "files": {"file": ("lines.jsonl", data)}}
    file_id = running.request("POST", "/v1/files", **upload).json()["id"]
    job = submit(running, "generate", {"model": "bench", "max_tokens": 3, "input_file_id": file_id})
    assert wait(running, job)["state"] == "succeeded"
    assert [(line["custom_id"], line["response"]["text"]) for line in results(running, job)] == [
        (f"c{i}", f"p{i}") for i in range(20)
    ]
    assert {request.body["max_tokens"] for request in up.requests} == {3}
    upload["files"] = {"file": ("lines.jsonl", b'{"prompt": "p"}\n{"prompt": ""}\n{"stop": 5}\n')}
    file_id = running.request("POST", "/v1/files", **upload).json()["id"]
    answer = running.post("/tasks/generate", {"model": "bench", "input_file_id": file_id})
    assert (answer.status_code, [line["line"] for line in answer.json()["error"]["lines"]]) == (400, [3])
    answer = running.post("/tasks/generate", {"model": "bench", "input_file_id": "file-gone"})
    assert (answer.status_code, answer.json()["error"]["param"]) == (404, "input_file_id")


def test_the_same_key_is_the_same_job(running: Running, up: Upstream) -> None:
    body = {"model": "bench", "requests": [{"prompt": "once"}]}
    key = {"Idempotency-Key": "import-5"}
    first = submit(running, "generate", body, headers=key)
    wait(running, first)
    assert submit(running, "generate", body, status=200, headers=key)["id"] == first["id"]
    other = running.post("/tasks/generate", {**body, "priority": "low"}, headers=key)
    assert (other.status_code, other.json()["error"]["code"]) == (409, "idempotency_conflict")
    assert list(map(asked, up.requests)) == ["once"]


def test_what_an_upstream_refuses_for_a_moment_is_tried_again(running: Running, up: Upstream) -> None:
    refusals = {"busy": iter([429]), "broken": iter([502]), "bad": iter([422])}

    def handle(request: Received) -> Script:
        status = next(refusals[asked(request)], None)
        return openai_like(request) if status is None else reply(status=status)

    up.handler = handle
    job = submit(running, "generate", {"model": "bench", "requests": [{"prompt": name} for name in refusals]})
    assert wait(running, job)["progress"]["failed"] == 1
    assert [line["status"] for line in results(running, job)] == [200, 200, 400]
    assert len(up.requests) == 2 + 2 + 1


def test_cancelling_closes_the_calls_of_the_upstream(running: Running, up: Upstream) -> None:
    up.hang()
    job = submit_lines(running, "generate?model=bench", [{"prompt": str(i)} for i in range(40)])
    up.wait_requests(8)
    cancelled = running.post(f"/tasks/{job['id']}/cancel")
    assert (cancelled.status_code, cancelled.json()["state"]) == (200, "cancelling")
    for index in range(8):
        up.wait_closed(index=index)
    view = wait(running, job)
    assert (view["state"], len(up.requests)) == ("cancelled", 8)


def test_a_key_revoked_in_the_middle_ends_the_job(running: Running, up: Upstream) -> None:
    gate = threading.Event()
    up.handler = lambda request: openai_like(request) if asked(request) == "first" else reply(gate=gate)
    made = running.post("/auth/keys", {"name": "bulk", "scopes": [Scope.TASKS, Scope.GENERATE]}).json()
    secret, key_id = made.get("secret") or made["key"], made["id"]
    lines = [{"prompt": "first"}, *({"prompt": str(i)} for i in range(30))]
    job = submit(running, "generate", {"model": "bench", "requests": lines}, key=secret)
    up.wait_requests(8)
    assert running.request("DELETE", f"/auth/keys/{key_id}").ok
    view = wait(running, job)
    assert (view["state"], view["error"]["code"]) == ("failed", "rights_revoked")
    up.wait_closed()
    asked_until_then = len(up.requests)
    gate.set()
    assert asked_until_then < 20
    assert running.post("/tasks/generate", {"model": "bench", "prompt": "x"}, key=secret).status_code == 401


def test_texts_are_embedded_together_and_a_bad_one_fails_alone(running: Running, up: Upstream) -> None:
    up.handler = refusing("bad")
    texts = ["bad" if i == 57 else f"text {i}" for i in range(100)]
    job = submit(running, "embed", {"model": "bench", "input": texts})
    view = wait(running, job)
    assert (view["state"], view["progress"]["failed"]) == ("succeeded", 1)
    made = results(running, job)
    assert [line["index"] for line in made] == list(range(100))
    assert [line["index"] for line in made if "error" in line] == [57]
    assert all(line["embedding"][0] == len(text) for line, text in zip(made, texts, strict=True) if text != "bad")
    assert view["result"]["usage"]["total_tokens"] == 99 * 2
    assert len(up.requests) < 30


def test_an_evaluation_over_models_and_collections(running: Running, up: Upstream) -> None:
    documents = [
        {"id": "paris", "text": "Paris is the capital of France."},
        {"id": "rome", "text": "Rome is the capital of Italy."},
    ]
    assert running.post("/collections/cities/documents", {"documents": documents}).ok
    up.handler = lambda request: reply(status=400) if "Italy?" in asked(request) else reply(chat("Paris", request))
    questions = [
        {"id": "f", "question": "What is the capital of France?", "expected": "paris", "relevant": ["paris"]},
        {"id": "i", "question": "What is the capital of Italy?", "expected": ["Rome", "Roma"], "relevant": {"rome": 2}},
    ]
    job = submit(
        running,
        "evaluate",
        {
            "questions": questions,
            "models": ["bench"],
            "collections": [{"collection": "cities", "mode": "bm25", "top_k": 1}],
            "metrics": ["normalized_match", "f1", "ndcg", "recall@1"],
        },
    )
    view = wait(running, job)
    assert view["state"] == "succeeded", view
    first = view["result"]["answers"][0]
    assert (first["count"], first["failed"], first["scores"]["f1"]) == (2, 1, {"mean": 1.0, "count": 1, "missing": 0})
    up.reset()
    up.handler = lambda request: reply(chat("No idea", request))
    assert running.post(f"/tasks/{job['id']}/retry").status_code == 202
    view = wait(running, job)  # the report is of all answers, though this run made one
    assert (view["state"], len(up.requests)) == ("succeeded", 1)
    report = view["result"]
    (answers,), (searches,) = report["answers"], report["searches"]
    assert (answers["model"], answers["collection"], answers["count"]) == ("bench", "cities (bm25)", 2)
    assert answers["scores"]["normalized_match"] == {"mean": 0.5, "count": 2, "missing": 0}
    assert answers["usage"] == {"prompt_tokens": 10, "completion_tokens": 4, "total_tokens": 14}
    assert (answers["cost"], answers["priced"]) == (None, False)
    assert answers["latency_ms"]["p95"] >= answers["latency_ms"]["p50"] > 0
    assert searches["scores"]["recall@1"]["mean"] == 1
    lines = results(running, job)
    assert [(line["question_id"], line["system"]) for line in lines] == [("f", 0), ("f", 1), ("i", 0), ("i", 1)]
    assert (lines[0]["answer"], lines[0]["sources"], lines[0]["scores"]["f1"]) == ("Paris", ["paris"], 1.0)
    assert (lines[3]["found"][0], lines[3]["scores"]["ndcg@10"]) == ("rome", 1.0)
    assert "Rome is the capital" in asked(up.requests[0])


def chat(text: str, request: Received) -> dict[str, Any]:
    choice = {"index": 0, "finish_reason": "stop", "message": {"role": "assistant", "content": text}}
    used = {"prompt_tokens": 5, "completion_tokens": 2, "total_tokens": 7}
    return {"id": "c", "object": "chat.completion", "created": 1, "model": "m", "choices": [choice], "usage": used}


def test_the_local_model_answers_and_is_evaluated(running: Running) -> None:
    """Four tokens a line, and the built-in embedder."""
    requests = [{"custom_id": name, "prompt": f"Say hello to {name}."} for name in ("Ann", "Bob", "Eve")]
    fields = {"model": "gemma-3-270m", "max_tokens": 4, "temperature": 0}
    job = submit(running, "generate", {**fields, "requests": requests})
    embed = submit(running, "embed", {"model": "local", "input": ["one text", "another text"]})
    question = {"question": "What is the capital of France?", "expected": "Paris"}
    evaluate = submit(
        running,
        "evaluate",
        {
            "questions": [question],
            "models": ["gemma-3-270m"],
            "max_tokens": 8,
            "temperature": 0,
            "metrics": ["contains"],
        },
    )
    assert wait(running, job, seconds=60)["state"] == "succeeded"
    made = results(running, job)
    assert [line["custom_id"] for line in made] == ["Ann", "Bob", "Eve"]
    assert all(1 <= line["response"]["usage"]["completion_tokens"] <= 4 for line in made)
    wait(running, embed)
    assert [len(line["embedding"]) for line in results(running, embed)] == [384, 384]
    report = wait(running, evaluate)["result"]
    assert report["answers"][0]["scores"]["contains"]["mean"] == 1.0
