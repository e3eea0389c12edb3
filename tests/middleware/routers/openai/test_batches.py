"""``/v1/batches`` before anything runs: what is refused at once, and what the check of the input finds."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from typing import Any

import openai
import pytest
from running_gateway import Running, run_gateway

from sage.middleware.settings.settings import Settings

pytestmark = pytest.mark.slow  # nearly each test starts a gateway, or has several threads

CHAT = "/v1/chat/completions"


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    data = tmp_path_factory.mktemp("batches") / "data"
    queue = {"limits": {"max_lines": 200, "max_line": 100_000}, "embedded_worker": False}
    settings = Settings.model_validate({"data_dir": data, "api": {"port": 0, "access_log": False}, "queue": queue})
    with run_gateway(settings) as started:
        yield started


@pytest.fixture
def client(running: Running) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=f"{running.url}/v1", api_key=running.key, max_retries=0) as sdk:
        yield sdk


def line(number: int, **fields: Any) -> bytes:
    body = {"model": "m", "messages": [{"role": "user", "content": "hello"}]}
    given = {"custom_id": f"r{number}", "method": "POST", "url": CHAT, "body": body, **fields}
    return json.dumps({name: value for name, value in given.items() if value is not None}).encode()


def create(client: openai.OpenAI, content: bytes, **fields: Any) -> Any:
    file = client.files.create(file=("in.jsonl", content), purpose="batch")
    given = {"endpoint": CHAT, "completion_window": "24h", **fields}
    return client.batches.create(input_file_id=file.id, **given)


def checked(client: openai.OpenAI, batch: Any) -> Any:
    """The batch once its input is checked."""
    deadline = time.monotonic() + 10
    while batch.status == "validating":
        assert time.monotonic() < deadline
        time.sleep(0.01)
        batch = client.batches.retrieve(batch.id)
    return batch


def faults(client: openai.OpenAI, content: bytes) -> list[tuple[int | None, str | None, str | None]]:
    batch = checked(client, create(client, content))
    assert batch.status == "failed"
    assert batch.failed_at is not None
    assert batch.errors.object == "list"
    assert batch.output_file_id is batch.error_file_id is None
    return [(error.line, error.code, error.param) for error in batch.errors.data]


def test_a_batch_as_it_is_made(client: openai.OpenAI, running: Running) -> None:
    before = int(time.time())
    made = create(
        client,
        line(1) + b"\n" + line(2),
        metadata={"team": "search"},
        output_expires_after={"anchor": "created_at", "seconds": 7200},
    )
    assert made.id.startswith("batch_")
    assert (made.object, made.endpoint, made.completion_window) == ("batch", CHAT, "24h")
    assert made.status in ("validating", "in_progress")
    assert before <= made.created_at <= time.time()
    assert made.expires_at == made.created_at + 86400
    assert made.metadata == {"team": "search"}
    assert made.errors is made.output_file_id is made.error_file_id is None
    batch = checked(client, made)
    assert batch.status == "in_progress"
    assert batch.model == "m"
    assert batch.in_progress_at >= made.created_at
    assert (batch.request_counts.total, batch.request_counts.completed, batch.request_counts.failed) == (2, 0, 0)
    job = running.get(f"/tasks/{made.id.replace('batch_', 'job_')}").json()
    assert (job["kind"], job["state"], job["priority"], job["progress"]["total"]) == ("batch", "queued", "low", 2)
    cancelled = client.batches.cancel(made.id)
    assert cancelled.status == "cancelled"
    assert cancelled.cancelled_at >= cancelled.cancelling_at >= made.created_at
    with pytest.raises(openai.ConflictError, match="is cancelled, so it cannot be cancelled"):
        client.batches.cancel(made.id)


def test_each_fault_is_named_with_its_line(client: openai.OpenAI) -> None:
    content = b"\n".join(
        [
            line(1),
            line(1),
            b"no json",
            b"[1]",
            b"",
            line(2, method="GET"),
            line(3, url="/v1/embeddings"),
            line(4, url=None),
            line(5, body={"messages": []}),
            line(6, body={"model": "m", "stream": True}),
            line(7, body=[1]),
            line(8, custom_id=8),
            line(9, custom_id=""),
            line(10, extra=1),
            line(11, body={"model": 3}),
        ]
    )
    assert faults(client, content) == [
        (2, "duplicate_custom_id", "custom_id"),
        (3, "invalid_json_line", None),
        (4, "invalid_json_line", None),
        (6, "invalid_method", "method"),
        (7, "mismatched_url", "url"),
        (8, "missing_required_parameter", "url"),
        (9, "missing_required_parameter", "body.model"),
        (10, "invalid_stream", "body.stream"),
        (11, "invalid_body", "body"),
        (12, "invalid_custom_id", "custom_id"),
        (13, "invalid_custom_id", "custom_id"),
        (14, "unknown_parameter", "extra"),
        (15, "invalid_model", "body.model"),
    ]


def test_hostile_lines(client: openai.OpenAI) -> None:
    deep = b'{"custom_id": "d", "method": "POST", "url": "%s", "body": {"model": "m", "x": %s}}'
    deep %= (CHAT.encode(), b"[" * 300 + b"]" * 300)
    numbers = b'{"custom_id": "n", "method": "POST", "url": "%s", "body": {"model": "m", "x": %s}}'
    numbers %= (CHAT.encode(), b"9" * 30)
    content = b"\n".join([line(1), b"\0", line(2) + b"\0", deep, numbers, line(3, body={"model": "x" * 200_000})])
    assert [(number, code) for number, code, _ in faults(client, content)] == [
        (2, "invalid_json_line"),
        (3, "invalid_json_line"),
        (4, "invalid_json_line"),
        (5, "invalid_json_line"),
        (6, "line_too_long"),
    ]
    assert faults(client, line(1).decode().encode("utf-16"))[0][1] == "invalid_json_line"


def test_what_a_file_of_lines_may_have(client: openai.OpenAI) -> None:
    """A byte order mark, Windows' line ends, blank lines, halves of surrogate pairs, no end of the last line."""
    half = rb'{"custom_id": "\ud800", "method": "POST", "url": "' + CHAT.encode() + rb'", "body": {"model": "\udfff"}}'
    content = b"\xef\xbb\xbf" + line(1) + b"\r\n\r\n" + line(2, body={"model": "n"}) + b"\r\n \t\n" + half
    batch = checked(client, create(client, content))
    assert (batch.status, batch.request_counts.total) == ("in_progress", 3)
    assert batch.model is None  # they ask several
    client.batches.cancel(batch.id)


def test_of_many_faults_a_hundred_are_listed(client: openai.OpenAI) -> None:
    found = faults(client, b"oops\n" * 5000)
    assert [number for number, _, _ in found] == list(range(1, 101))


def test_too_many_lines_and_none(client: openai.OpenAI) -> None:
    assert faults(client, b"\n".join(line(n) for n in range(201))) == [(None, "too_many_lines", None)]
    assert faults(client, b"") == [(None, "empty_file", None)]
    assert faults(client, b"\n\r\n") == [(None, "empty_file", None)]


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"endpoint": "/v1/responses"}, "endpoint"),
        ({"endpoint": "/generate"}, "endpoint"),
        ({"completion_window": "24"}, "completion_window"),
        ({"completion_window": "0h"}, "completion_window"),
        ({"completion_window": "31d"}, "completion_window"),
        ({"completion_window": "٢h"}, "completion_window"),
        ({"completion_window": ""}, "completion_window"),
        ({"metadata": {str(n): "x" for n in range(17)}}, "metadata"),
        ({"metadata": {"x" * 65: "x"}}, None),
        ({"metadata": {"x": "y" * 513}}, None),
        ({"metadata": {"x": 1}}, None),
        ({"output_expires_after": {"anchor": "created_at", "seconds": 60}}, None),
        ({"output_expires_after": {"anchor": "completed_at", "seconds": 7200}}, None),
        ({"extra_body": {"windows": 1}}, "windows"),
    ],
)
def test_a_bad_request_is_refused_at_once(client: openai.OpenAI, fields: dict[str, Any], param: str | None) -> None:
    known = {batch.id for batch in client.batches.list()}
    with pytest.raises(openai.BadRequestError) as caught:
        create(client, line(1), **fields)
    if param is not None:
        assert caught.value.param == param
    assert {batch.id for batch in client.batches.list()} == known


def test_files_that_can_be_no_input(client: openai.OpenAI, running: Running) -> None:
    file = client.files.create(file=("in.jsonl", line(1)), purpose="user_data")
    with pytest.raises(openai.BadRequestError, match="has the purpose 'batch'"):
        client.batches.create(input_file_id=file.id, endpoint=CHAT, completion_window="24h")
    with pytest.raises(openai.NotFoundError) as caught:
        client.batches.create(input_file_id="file-none", endpoint=CHAT, completion_window="24h")
    assert caught.value.param == "input_file_id"
    theirs = client.files.create(file=("in.jsonl", line(1)), purpose="batch")
    key = running.new_key(scopes=["tasks", "generate"], tenant="elsewhere")
    body = {"input_file_id": theirs.id, "endpoint": CHAT, "completion_window": "24h"}
    assert running.post("/v1/batches", body, key=key).status_code == 404


def test_pages_and_tenants(client: openai.OpenAI, running: Running) -> None:
    for batch in client.batches.list():
        running.request("DELETE", f"/tasks/{batch.id.replace('batch_', 'job_')}")
    ids = [create(client, line(n)).id for n in range(5)]
    assert [batch.id for batch in client.batches.list(limit=2)] == ids[::-1]  # the SDK asks for page after page
    page = client.batches.list(limit=3)
    assert ([batch.id for batch in page.data], page.has_more) == (ids[:1:-1], True)
    rest = client.batches.list(limit=3, after=ids[2])
    assert ([batch.id for batch in rest.data], rest.has_more) == (ids[1::-1], False)
    for query in ("limit=0", "limit=101", "after=batch_none", f"after={ids[0].replace('batch_', 'job_')}"):
        assert running.get(f"/v1/batches?{query}").status_code == 400, query
    key = running.new_key(scopes=["tasks", "generate"], tenant="elsewhere")
    assert running.get("/v1/batches", key=key).json() == {
        "object": "list",
        "data": [],
        "first_id": None,
        "last_id": None,
        "has_more": False,
    }
    for method, path in (("GET", ids[0]), ("POST", f"{ids[0]}/cancel")):
        answer = running.request(method, f"/v1/batches/{path}", key=key)
        assert (answer.status_code, answer.json()["error"]["param"]) == (404, "batch_id")
    for batch in ids:
        client.batches.cancel(batch)


def test_scopes(client: openai.OpenAI, running: Running) -> None:
    file = client.files.create(file=("in.jsonl", line(1)), purpose="batch")
    body = {"input_file_id": file.id, "endpoint": CHAT, "completion_window": "24h"}
    for scopes in (["tasks"], ["generate"]):
        answer = running.post("/v1/batches", body, key=running.new_key(scopes=scopes))
        assert (answer.status_code, answer.json()["error"]["code"]) == (403, "missing_scope")
    assert running.get("/v1/batches", key=running.new_key(scopes=["generate"])).status_code == 403


def test_the_same_key_is_the_same_batch(client: openai.OpenAI, running: Running) -> None:
    file = client.files.create(file=("in.jsonl", line(1)), purpose="batch")
    body = {"input_file_id": file.id, "endpoint": CHAT, "completion_window": "24h"}
    headers = {"Idempotency-Key": "night-1"}
    first = running.post("/v1/batches", body, headers=headers)
    again = running.post("/v1/batches", body, headers=headers)
    assert first.status_code == again.status_code == 200
    assert first.json()["id"] == again.json()["id"]
    other = running.post("/v1/batches", {**body, "completion_window": "1h"}, headers=headers)
    assert (other.status_code, other.json()["error"]["code"]) == (409, "idempotency_conflict")
    client.batches.cancel(first.json()["id"])


def test_a_batch_that_failed_the_check_is_checked_again_when_it_is_retried(
    client: openai.OpenAI, running: Running
) -> None:
    made = checked(client, create(client, b"oops"))
    job = made.id.replace("batch_", "job_")
    assert running.post(f"/tasks/{job}/retry").status_code == 202
    again = checked(client, client.batches.retrieve(made.id))
    assert (again.status, [error.code for error in again.errors.data]) == ("failed", ["invalid_json_line"])
    client.files.delete(made.input_file_id)
    assert running.post(f"/tasks/{job}/retry").status_code == 202
    gone = checked(client, client.batches.retrieve(made.id))
    assert (gone.status, [error.code for error in gone.errors.data]) == ("failed", ["file_not_found"])


def test_the_input_may_be_deleted_once_the_batch_is_made(client: openai.OpenAI) -> None:
    made = create(client, b"\n".join(line(n) for n in range(200)))
    client.files.delete(made.input_file_id)
    batch = checked(client, made)
    assert (batch.status, batch.request_counts.total) == ("in_progress", 200)
    client.batches.cancel(batch.id)


@pytest.mark.slow
def test_a_batch_that_is_cancelled_while_it_is_checked_leaves_no_input(client: openai.OpenAI, running: Running) -> None:
    content = b"\n".join(line(n, body={"model": "m", "prompt": "x" * 90_000}) for n in range(200))
    cancelled = create(client, content)
    for _ in range(5):
        cancelled = client.batches.cancel(cancelled.id)
        assert cancelled.status == "cancelled"
        if cancelled.in_progress_at is None:
            break
        cancelled = create(client, content)  # its check was over before that
    queue = running.settings.data_dir / "queue"
    deadline = time.monotonic() + 10
    job = cancelled.id.replace("batch_", "job_")
    while [*(queue / "files").glob("*.part"), *(queue / "jobs" / job).glob("*")]:
        assert time.monotonic() < deadline
        time.sleep(0.01)
    assert client.batches.retrieve(cancelled.id).status == "cancelled"
