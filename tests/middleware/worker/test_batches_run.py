"""Batches from end to end: OpenAI's SDK, a gateway with its own worker, a scripted upstream or the local model."""

from __future__ import annotations

import json
import os
import signal
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import openai
import pytest
import requests
from running_gateway import Running, run_gateway
from sage_process import children, environment, serving
from upstream import Received, Script, Upstream, openai_like, reply

from sage.middleware.settings.settings import Settings

pytestmark = pytest.mark.slow

FULL = bool(os.environ.get("SAGE_TEST_FULL"))
CHAT = "/v1/chat/completions"
ENDED = {"completed", "failed", "expired", "cancelled"}


@pytest.fixture(scope="module")
def upstream() -> Iterator[Upstream]:
    with Upstream() as started:
        yield started


@pytest.fixture
def up(upstream: Upstream) -> Upstream:
    upstream.reset()
    return upstream


def sections(up: Upstream) -> dict[str, Any]:
    provider = {"kind": "openai", "base_url": up.url, "api_key": "sk-upstream", "retries": 0}
    models = {"bench": {"deployments": [{"provider": "up0", "model": "theirs-0"}]}}
    routing = {"breaker_failures": 1_000_000}
    return {"llm": {"providers": {"up0": provider}, "models": models, "routing": routing}}


@pytest.fixture(scope="module")
def running(upstream: Upstream, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    data = {"data_dir": tmp_path_factory.mktemp("batches") / "data", "api": {"port": 0, "access_log": False}}
    with run_gateway(Settings.model_validate({**data, **sections(upstream)})) as started:
        yield started


@pytest.fixture
def client(running: Running) -> Iterator[openai.OpenAI]:
    with sdk(running.url, running.key) as client:
        yield client


def sdk(url: str, key: str) -> openai.OpenAI:
    return openai.OpenAI(base_url=f"{url}/v1", api_key=key, max_retries=0)


def chat(custom_id: str, text: str, model: str = "bench", **fields: Any) -> dict[str, Any]:
    body = {"model": model, "messages": [{"role": "user", "content": text}], **fields}
    return {"custom_id": custom_id, "method": "POST", "url": CHAT, "body": body}


def create(client: openai.OpenAI, lines: Sequence[dict[str, Any]], endpoint: Any = CHAT, window: str = "24h") -> Any:
    content = b"".join(json.dumps(line).encode() + b"\n" for line in lines)
    file = client.files.create(file=("in.jsonl", content), purpose="batch")
    return client.batches.create(input_file_id=file.id, endpoint=endpoint, completion_window=window)  # type: ignore[arg-type]


def wait(client: openai.OpenAI, batch: Any, *statuses: str, timeout: float = 60) -> Any:
    """The batch once it has one of ``statuses``, or has ended."""
    deadline = time.monotonic() + timeout
    while batch.status not in (statuses or ENDED):
        assert batch.status not in ENDED, batch
        assert time.monotonic() < deadline, batch
        time.sleep(0.05)
        batch = client.batches.retrieve(batch.id)
    return batch


def read(client: openai.OpenAI, file_id: str | None) -> list[dict[str, Any]]:
    assert file_id is not None
    return [json.loads(line) for line in client.files.content(file_id).text.splitlines()]


def counts(batch: Any) -> tuple[int, int, int]:
    return batch.request_counts.total, batch.request_counts.completed, batch.request_counts.failed


def text_of(request: Received) -> str:
    """The question; empty where the gateway asks for the list of models."""
    return "" if request.body is None else str(request.body["messages"][-1]["content"])


def test_partial_failures_order_and_retries(client: openai.OpenAI, up: Upstream, running: Running) -> None:
    tries: dict[str, int] = {}

    def answer(request: Received) -> Script:
        text = text_of(request)
        tries[text] = tries.get(text, 0) + 1
        if text.startswith("refused"):
            return reply(status=400)
        if text.startswith("flaky") and tries[text] < 3:
            return reply(status=500)
        if text.startswith("busy") and tries[text] < 2:
            return reply(status=429, headers={"retry-after": "1"})
        return openai_like(request)

    up.handler = answer
    lines = [chat(f"r{n}", f"hello {n}") for n in range(40)]
    lines[3] = chat("refused", "refused by the upstream")
    lines[7] = chat("flaky", "flaky but patience pays")
    lines[11] = chat("busy", "busy for a second")
    lines[13] = chat("nobody", "hello", model="no-such-model")
    batch = wait(client, create(client, lines))
    assert batch.status == "completed"
    assert counts(batch) == (40, 38, 2)
    assert batch.created_at <= batch.in_progress_at <= batch.finalizing_at <= batch.completed_at
    done = read(client, batch.output_file_id)
    assert [line["custom_id"] for line in done] == [
        line["custom_id"] for line in lines if line["custom_id"] not in ("refused", "nobody")
    ]
    assert len({line["id"] for line in done}) == 38
    first = done[0]
    assert first["id"].startswith("batch_req_")
    assert first["error"] is None
    assert first["response"]["status_code"] == 200
    assert first["response"]["request_id"]
    assert first["response"]["body"]["model"] == "bench"
    assert first["response"]["body"]["choices"][0]["message"]["content"] == "hello 0"
    failed = read(client, batch.error_file_id)
    assert [(line["custom_id"], line["response"]["status_code"]) for line in failed] == [
        ("refused", 400),
        ("nobody", 404),
    ]
    assert failed[1]["response"]["body"]["error"]["code"] == "model_not_found"
    assert tries["flaky but patience pays"] == 3
    assert tries["busy for a second"] == 2
    assert tries["refused by the upstream"] == 1
    assert batch.usage.output_tokens == sum(len(text.split()) for text in tries if not text.startswith("refused"))
    assert batch.usage.total_tokens == batch.usage.input_tokens + batch.usage.output_tokens
    output = client.files.retrieve(batch.output_file_id)
    assert (output.purpose, output.filename.endswith("_output.jsonl")) == ("batch_output", True)
    job = running.get(f"/tasks/{batch.id.replace('batch_', 'job_')}").json()
    assert (job["kind"], job["state"], job["priority"]) == ("batch", "succeeded", "low")


def test_completions_and_embeddings(client: openai.OpenAI, up: Upstream) -> None:
    texts = [
        {
            "custom_id": f"t{n}",
            "method": "POST",
            "url": "/v1/completions",
            "body": {"model": "bench", "prompt": f"{n}!"},
        }
        for n in range(3)
    ]
    vectors = [
        {"custom_id": f"v{n}", "method": "POST", "url": "/v1/embeddings", "body": {"model": "bench", "input": "x" * n}}
        for n in range(1, 4)
    ]
    first, second = create(client, texts, "/v1/completions"), create(client, vectors, "/v1/embeddings")
    done = read(client, wait(client, first).output_file_id)
    assert [line["response"]["body"]["choices"][0]["text"] for line in done] == ["0!", "1!", "2!"]
    done = read(client, wait(client, second).output_file_id)
    assert [line["response"]["body"]["data"][0]["embedding"][0] for line in done] == [1.0, 2.0, 3.0]


def test_the_line_is_the_users(running: Running, up: Upstream) -> None:
    """A batch has no more rights than the key that asked for it; another tenant sees none of it."""
    key = running.new_key(scopes=["tasks", "generate"], tenant="elsewhere", models=["other"])
    with sdk(running.url, key) as theirs, sdk(running.url, running.key) as ours:
        batch = wait(theirs, create(theirs, [chat("a", "hello")]))
        assert (batch.status, counts(batch)) == ("completed", (1, 0, 1))
        assert batch.output_file_id is None
        [line] = read(theirs, batch.error_file_id)
        assert (line["response"]["status_code"], line["response"]["body"]["error"]["code"]) == (
            403,
            "model_not_allowed",
        )
        with pytest.raises(openai.NotFoundError):
            ours.files.content(batch.error_file_id)
        with pytest.raises(openai.NotFoundError):
            ours.batches.retrieve(batch.id)
    assert up.requests == []


def test_cancelling_reaches_the_upstream_and_keeps_what_is_done(client: openai.OpenAI, up: Upstream) -> None:
    up.handler = lambda request: Script(end="hang") if text_of(request).startswith("slow") else openai_like(request)
    batch = create(client, [chat(f"r{n}", "slow" if n >= 5 else "hello") for n in range(30)])
    wait(client, batch, "in_progress")
    requests_ = up.wait_requests(13, timeout=30)  # eight at a time
    hanging = [request for request in requests_ if text_of(request) == "slow"]
    asked = time.monotonic()
    assert client.batches.cancel(batch.id).status in ("cancelling", "cancelled")
    for request in hanging:
        assert request.closed.wait(10)
    batch = wait(client, client.batches.retrieve(batch.id))
    assert batch.status == "cancelled"
    assert time.monotonic() - asked < 15
    assert batch.cancelled_at >= batch.cancelling_at
    assert counts(batch) == (30, 5, 0)
    assert [line["custom_id"] for line in read(client, batch.output_file_id)] == [f"r{n}" for n in range(5)]
    assert batch.error_file_id is None
    assert len(up.requests) == 13


def test_what_the_window_is_too_short_for_expires(client: openai.OpenAI, up: Upstream) -> None:
    up.handler = lambda request: Script(end="hang") if text_of(request).startswith("slow") else openai_like(request)
    lines = [chat(f"r{n}", "slow" if n % 2 else "hello") for n in range(6)]
    batch = wait(client, create(client, lines, window="4s"))
    assert batch.status == "expired"
    assert batch.expired_at >= batch.expires_at
    assert counts(batch)[1] == 3
    assert [line["custom_id"] for line in read(client, batch.output_file_id)] == ["r0", "r2", "r4"]
    failed = read(client, batch.error_file_id)
    assert [(line["custom_id"], line["response"], line["error"]["code"]) for line in failed] == [
        (name, None, "batch_expired") for name in ("r1", "r3", "r5")
    ]
    assert all(request.closed.wait(10) for request in up.requests if text_of(request) == "slow")


def test_a_revoked_key_ends_its_batch(running: Running, up: Upstream) -> None:
    up.handler = lambda request: Script(end="hang") if text_of(request).startswith("slow") else openai_like(request)
    made = running.post("/auth/keys", {"name": "night", "scopes": ["tasks", "generate"]}).json()
    with sdk(running.url, made["key"]) as theirs, sdk(running.url, running.key) as ours:
        batch = create(theirs, [chat(f"r{n}", "slow" if n else "hello") for n in range(4)])
        slow = [request for request in up.wait_requests(4, timeout=30) if text_of(request) == "slow"]
        assert running.request("DELETE", f"/auth/keys/{made['id']}").status_code < 300
        batch = wait(ours, ours.batches.retrieve(batch.id), timeout=20)
        assert batch.status == "failed"
        assert [error.code for error in batch.errors.data] == ["rights_revoked"]
        assert all(request.closed.wait(10) for request in slow)
        assert [line["custom_id"] for line in read(ours, batch.output_file_id)] == ["r0"]
        failed = read(ours, batch.error_file_id)
        assert [(line["custom_id"], line["error"]["code"]) for line in failed] == [
            (f"r{n}", "rights_revoked") for n in (1, 2, 3)
        ]


def workers(pid: int) -> set[int]:
    """The processes of workers below ``pid``."""
    found = set()
    for child in children(pid):
        try:
            command = Path(f"/proc/{child}/cmdline").read_bytes().split(b"\0")
        except OSError:
            continue
        if any(b"worker" in word for word in command):
            found.add(child)
    return found


def kill_worker(pid: int) -> None:
    for worker in workers(pid):
        try:
            os.kill(worker, signal.SIGKILL)
        except ProcessLookupError:
            continue


def check_whole(client: openai.OpenAI, batch: Any, count: int) -> None:
    """Each line's effect is there once, in order."""
    assert (batch.status, counts(batch)) == ("completed", (count, count, 0))
    done = read(client, batch.output_file_id)
    assert [line["custom_id"] for line in done] == [f"r{n}" for n in range(count)]
    assert all(line["response"]["body"]["choices"][0]["message"]["content"] for line in done)
    assert batch.error_file_id is None


def test_a_worker_that_is_killed_again_and_again_loses_nothing(client: openai.OpenAI, up: Upstream) -> None:
    lines, kills = (2000, 100) if FULL else (120, 3)
    up.handler = lambda request: reply_slowly(request, 8 * kills / lines)  # so that there are some left for each kill
    batch = create(client, [chat(f"r{n}", f"hello {n}") for n in range(lines)])
    done, resumed = 0, []
    for _ in range(kills):
        done = wait_done(client, batch, done + lines // (2 * kills), up)
        kill_worker(os.getpid())
        killed, seen = time.monotonic(), len(up.requests)
        up.wait_requests(seen + 1, timeout=60)
        resumed.append(time.monotonic() - killed)
    check_whole(client, wait(client, client.batches.retrieve(batch.id), timeout=300), lines)
    assert max(resumed) < 10, resumed


def wait_done(client: openai.OpenAI, batch: Any, count: int, up: Upstream) -> int:
    """Waits until the batch has ``count`` answers; returns how many it has."""
    deadline = time.monotonic() + 60
    while (done := client.batches.retrieve(batch.id).request_counts.completed) < count:
        assert time.monotonic() < deadline, (done, count, len(up.requests))
        time.sleep(0.01)
    return done


def test_a_gateway_that_is_killed_goes_on_at_the_next_start(up: Upstream, tmp_path: Path) -> None:
    up.handler = lambda request: reply_slowly(request, 0.1)
    settings = {**sections(up), "api": {"access_log": False}}
    (tmp_path / "config.yaml").write_text(json.dumps(settings))
    env = environment(tmp_path / "data")
    arguments = ["--no-auth", "--port", "0", "--config", str(tmp_path / "config.yaml")]
    with serving(arguments, env, tmp_path) as first, sdk(first.url, "none") as client:
        batch = create(client, [chat(f"r{n}", f"hello {n}") for n in range(60)])
        up.wait_requests(20, timeout=30)
        os.kill(first.process.pid, signal.SIGKILL)
        first.process.wait()
    seen = len(up.requests)
    with serving(arguments, env, tmp_path) as second, sdk(second.url, "none") as client:
        started = time.monotonic()
        up.wait_requests(seen + 1, timeout=30)
        assert time.monotonic() - started < 10
        check_whole(client, wait(client, client.batches.retrieve(batch.id)), 60)


def reply_slowly(request: Received, seconds: float) -> Script:
    script = openai_like(request)
    return Script(tuple((seconds, data) for _, data in script.writes), script.end)


def test_real_generations_by_the_local_model(tmp_path: Path) -> None:
    lines = 1000 if FULL else 12
    data = {"data_dir": tmp_path / "data", "api": {"port": 0, "access_log": False}}
    with run_gateway(Settings.model_validate(data)) as running, sdk(running.url, running.key) as client:
        asked = [chat(f"r{n}", f"Count from {n}:", "gemma-3-270m", max_tokens=4) for n in range(lines)]
        batch = wait(client, create(client, asked), timeout=900)
        check_whole(client, batch, lines)
        assert batch.usage.output_tokens <= 4 * lines
        assert batch.usage.output_tokens >= lines
        assert batch.model == "gemma-3-270m"
        assert requests.get(f"{running.url}/health", timeout=5).status_code == 200
