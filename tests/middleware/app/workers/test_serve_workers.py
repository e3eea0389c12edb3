"""`sage serve --workers 2`: whichever process takes a connection, the gateway is one."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from itertools import permutations
from typing import Any

import pytest
from sage_process import children, environment, sage
from upstream import chat_chunk, reply
from worker_family import Client, WorkerFamily, worker_family

pytestmark = pytest.mark.slow
WORKERS = (0, 1)


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[WorkerFamily]:
    with worker_family(tmp_path_factory.mktemp("family")) as family:
        yield family
        log = family.serving.log.read_text()
        assert "Traceback" not in log, log


@pytest.fixture
def family(running: WorkerFamily) -> Iterator[WorkerFamily]:
    running.upstream.reset()
    yield running
    running.close_clients()


def pair(family: WorkerFamily) -> tuple[Client, Client]:
    return family.client(0), family.client(1)


CHAT = [{"role": "user", "content": "say hello"}]
REQUESTS: tuple[tuple[str, str, Any], ...] = (
    ("POST", "/v1/chat/completions", {"model": "free", "messages": CHAT}),
    ("POST", "/v1/chat/completions", {"model": "capped", "messages": CHAT}),
    ("POST", "/v1/chat/completions", {"model": "free", "messages": CHAT, "stream": True}),
    ("POST", "/v1/chat/completions", {"model": "capped", "messages": CHAT, "stream": True}),
    ("POST", "/v1/chat/completions", {"model": "one/some-model", "messages": CHAT}),
    ("POST", "/v1/chat/completions", {"model": "absent", "messages": CHAT}),
    ("POST", "/v1/chat/completions", {"model": "absent", "messages": CHAT, "models": ["free"]}),
    ("POST", "/v1/chat/completions", {"model": "free", "messages": []}),
    ("POST", "/v1/chat/completions", b"{not JSON"),
    ("POST", "/v1/completions", {"model": "free", "prompt": "one two"}),
    ("POST", "/v1/embeddings", {"model": "free", "input": ["a", "bc"]}),
    ("POST", "/generate", {"model": "free", "prompt": "three words here"}),
    ("POST", "/api/chat", {"model": "free", "messages": CHAT, "stream": False}),
    ("POST", "/v2/chat", {"model": "free", "messages": CHAT}),
    ("POST", "/v1/messages", {"model": "free", "max_tokens": 9, "messages": CHAT}),
    ("POST", "/v1/messages?beta=true", {"model": "capped", "max_tokens": 9, "messages": CHAT, "stream": True}),
    ("POST", "/v1/messages", {"model": "absent", "max_tokens": 9, "messages": CHAT}),
    ("POST", "/v1/messages", {"model": "free", "max_tokens": 9, "messages": []}),
    ("POST", "/v1/messages", {"model": "tiny", "max_tokens": 9, "messages": CHAT, "container": "c"}),
    ("POST", "/v1/messages/count_tokens", {"model": "free", "messages": CHAT}),
    ("POST", "/v1/messages/nothing", {}),
    ("POST", "/v1/chat/completions/", {"model": "free", "messages": CHAT}),
    ("GET", "/v1/models", None),
    ("GET", "/models/free/nothing", None),
    ("GET", "/auth/me", None),
    ("DELETE", "/v1/models", None),
)


def test_every_worker_gives_the_same_answers(family: WorkerFamily) -> None:
    first, second = pair(family)
    for method, path, body in REQUESTS:
        answers = [client.ask(method, path, body) for client in (first, second)]
        assert answers[0].status == answers[1].status, (path, body)
        assert _told(answers[0].body) == _told(answers[1].body), (path, body)
        heads = [{name: answer.headers[name] for name in answer.headers if name != "date"} for answer in answers]
        for head in heads:
            assert head.pop("x-request-id") == head.pop("request-id", None) or not path.startswith("/v1/messages")
        heads = [{k: v for k, v in head.items() if k not in ("content-length", "transfer-encoding")} for head in heads]
        assert heads[0] == heads[1], (path, body)


def _told(body: bytes) -> str:
    """An answer without what differs from one request to the next."""
    try:
        value = json.loads(body)
    except ValueError:
        return body.decode()
    for name in (
        "id",
        "request_id",
        "created_at",
        "total_duration",
        "eval_duration",
        "load_duration",
        "last_used",
        "last_used_at",
    ):
        value.pop(name, None)
    return json.dumps(value)


def test_x_api_key_is_taken_by_every_worker(family: WorkerFamily) -> None:
    key = family.key
    assert key is not None
    for client in pair(family):
        for model in ("free", "capped"):
            body = {"model": model, "max_tokens": 9, "messages": CHAT}
            client.key = None
            assert client.ask("POST", "/v1/messages", body, **{"x-api-key": key}).status == 200
            assert client.ask("POST", "/v1/messages/count_tokens", body, **{"x-api-key": key}).status == 200
            assert client.ask("POST", "/v1/chat/completions", body, **{"x-api-key": key}).status == 401
            client.key = "sk-sage-another"
            differ = client.ask("POST", "/v1/messages", body, **{"x-api-key": key})
            assert (differ.status, differ.json["error"]["code"]) == (401, "two_credentials")
        client.key = None
        version = {"anthropic-version": "2023-06-01", "x-api-key": key}
        assert "has_more" in client.ask("GET", "/v1/models", **version).json


def test_a_response_is_continued_read_and_deleted_at_every_worker(family: WorkerFamily) -> None:
    for first, second in permutations(pair(family)):
        for model in ("free", "capped"):
            made = first.ask("POST", "/v1/responses", {"model": model, "input": "one two"})
            assert (made.status, made.json["output"][0]["content"][0]["text"]) == (200, "one two"), made.body
            path = f"/v1/responses/{made.json['id']}"
            assert second.ask("GET", path).json == made.json
            more = {"model": model, "input": "three", "previous_response_id": made.json["id"], "stream": True}
            events = second.ask("POST", "/v1/responses", more).body.split(b"\n\n")
            assert events[-2].startswith(b"event: response.completed\n")
            said = [message["content"] for message in family.upstream.requests[-1].body["messages"]]
            assert said == ["one two", "one two", "three"]
            assert first.ask("DELETE", path).status == 200
            assert [client.ask("GET", path).status for client in (first, second)] == [404, 404]
            lost = second.ask("POST", "/v1/responses", {"model": model, "input": "x", "previous_response_id": "resp_0"})
            assert (lost.status, lost.json["error"]["param"]) == (404, "previous_response_id"), lost.body


def test_each_request_has_one_line_in_the_log_which_names_who_took_it(family: WorkerFamily) -> None:
    for worker, client in enumerate(pair(family)):
        for model in ("free", "capped"):
            name = f"line-{worker}-{model}"
            body = {"model": model, "messages": CHAT}
            answer = client.ask("POST", "/v1/chat/completions", body, **{"X-Request-Id": name})
            assert answer.headers["x-request-id"] == name
            line = family.line(name)
            assert (line["worker"], line["status"], line["user"], line["model"]) == (worker, 200, "root", model)
    time.sleep(0.3)  # a second line would come by now
    assert len([line for line in family.lines() if line["request_id"].startswith("line-")]) == 4


def test_request_ids_of_different_workers_differ(family: WorkerFamily) -> None:
    seen = [client.chat("free").headers["x-request-id"] for client in pair(family) for _ in range(3)]
    assert len(set(seen)) == 6


def test_calls_at_a_front_are_counted_once(family: WorkerFamily) -> None:
    client = family.client(1)
    before = family.metrics(client)
    for model in ("free", "capped", "free"):
        assert client.chat(model).status == 200
    after = family.metrics(client)
    for model, count in (("free", 2), ("capped", 1)):
        name = f'sage_requests_total{{model="{model}",status="200"}}'
        assert after[name] - before.get(name, 0) == count


def test_calls_of_every_worker_are_in_the_ledger_once_as_their_upstream_counted(family: WorkerFamily) -> None:
    clients, asked = pair(family), {}
    for client in clients:
        for body in ({"model": "free"}, {"model": "capped"}, {"model": "one/some-model"}):
            answer = client.ask("POST", "/v1/chat/completions", {**body, "messages": CHAT})
            asked[answer.headers["x-request-id"]] = answer.json["usage"]
    for client in clients:
        shown = client.ask("GET", f"/usage/requests?limit={len(asked)}").json["requests"]
        counted = {each["id"]: (each["prompt_tokens"], each["completion_tokens"]) for each in shown}
        assert counted == {key: (each["prompt_tokens"], each["completion_tokens"]) for key, each in asked.items()}
        assert {each["deployment"].partition("/")[0] for each in shown} == {"one"}
        assert {each["user"] for each in shown} == {"root"}


def test_keys_values_documents_memories_and_jobs_are_one_for_all(family: WorkerFamily) -> None:
    first, second = pair(family)
    assert second.ask("PUT", "/kv/shared", {"value": [1, 2]}).status in (200, 201)
    assert first.ask("GET", "/kv/shared").json["value"] == [1, 2]
    document = {"id": "d1", "text": "a whale is a mammal"}
    made = second.ask("POST", "/collections", {"name": "sea", "embedder": "none"})
    assert made.status == 201, made.body
    written = second.ask("POST", "/collections/sea/documents", {"documents": [document]})
    assert written.status in (200, 201), written.body
    for client in (first, second):
        found = client.ask("POST", "/search", {"collection": "sea", "query": "whale"})
        assert [hit["id"] for hit in found.json["results"]] == ["d1"], found.body
        body = {"model": "free", "messages": CHAT, "search": {"collection": "sea", "query": "whale"}}
        answer = client.ask("POST", "/v1/chat/completions", body)
        assert [source["id"] for source in answer.json["sources"]] == ["d1"], answer.body


def test_a_front_searches_itself_what_was_just_acknowledged(family: WorkerFamily) -> None:
    owner, front = pair(family)

    def found(**fields: Any) -> tuple[int, list[str]]:
        answer = front.ask("POST", "/search", {"collection": "harbour", **fields})
        return answer.status, [hit["id"] for hit in answer.json.get("results", ())]

    documents = [{"id": str(n), "text": f"ship number {n}", "vector": [1.0, n]} for n in range(3)]
    for client, document in zip((owner, front, owner), documents, strict=True):
        if document["id"] == "0":
            made = {"name": "harbour", "embedder": "none", "dimension": 2}
            assert owner.ask("POST", "/collections", made).status == 201
        written = client.ask("POST", "/collections/harbour/documents", {"documents": [document]})
        assert written.status in (200, 201), written.body
        assert found(query=f"number {document['id']}", mode="bm25")[1][:1] == [document["id"]]
    assert _databases(family.front()), "the front has not opened the collection"
    assert found(query="ship", vector=[1.0, 2.0])[1] == found(vector=[1.0, 2.0])[1] == ["2", "1", "0"]
    batch = {"searches": [{"collection": "harbour", "query": "ship", "top_k": n} for n in (1, 3)]}
    answers = [client.ask("POST", "/search/batch", batch).json["answers"] for client in (owner, front)]
    assert [[len(each["results"]) for each in of_one] for of_one in answers] == [[1, 3], [1, 3]]
    assert answers[0][1]["results"] == answers[1][1]["results"]
    assert found(query="ship", top_k=0)[0] == 400
    assert owner.ask("DELETE", "/collections/harbour/documents/1").status == 204
    assert sorted(found(query="ship")[1]) == ["0", "2"]
    assert owner.ask("DELETE", "/collections/harbour").status == 204
    gone = front.ask("POST", "/search", {"collection": "harbour", "query": "ship"})
    assert (gone.status, gone.json["error"]["code"]) == (404, "collection_not_found")
    assert owner.ask("POST", "/collections", {"name": "harbour", "embedder": "none"}).status == 201
    assert found(query="ship") == (200, [])
    assert owner.ask("DELETE", "/collections/harbour").status == 204
    family.wait(
        lambda: not any("(deleted)" in name for name in _databases(family.front()))
    )  # its room on the disk is free


def _databases(pid: int) -> list[str]:
    """The databases of collections that a process has open; deleted ones too."""
    opened = []
    for descriptor in os.listdir(f"/proc/{pid}/fd"):
        with contextlib.suppress(FileNotFoundError):
            opened.append(os.readlink(f"/proc/{pid}/fd/{descriptor}"))
    return [name for name in opened if "truth.db" in name]


def test_what_a_front_cannot_search_is_the_owners(family: WorkerFamily) -> None:
    """A reranker and an embedder of the registry have prices, limits and budgets."""
    _, front = pair(family)
    made = front.ask("POST", "/collections", {"name": "embedded", "embedder": "free"})
    assert made.status == 201, made.body
    written = front.ask("POST", "/collections/embedded/documents", {"documents": [{"id": "a", "text": "an anchor"}]})
    assert written.status in (200, 201), written.body
    for fields in ({"mode": "bm25"}, {}, {"mode": "dense"}):
        answer = front.ask("POST", "/search", {"collection": "embedded", "query": "anchor", **fields})
        assert [hit["id"] for hit in answer.json["results"]] == ["a"], answer.body
    reranked = {"collection": "embedded", "query": "a", "rerank": "free"}
    answers = [client.ask("POST", "/search", reranked) for client in pair(family)]
    assert [answer.status for answer in answers] == [404, 404]  # as the upstream has no rerankers
    assert answers[0].json["error"]["message"] == answers[1].json["error"]["message"]


def test_searches_at_a_front_are_counted_once(family: WorkerFamily) -> None:
    owner, front = pair(family)
    assert owner.ask("POST", "/collections", {"name": "counted", "embedder": "none"}).status == 201
    before = family.metrics(owner)
    for client in (owner, front, front):
        assert client.ask("POST", "/search", {"collection": "counted", "query": "any"}).status == 200
    front.ask("POST", "/search", {"collection": "nothing", "query": "any"})
    after = family.metrics(owner)
    searches = {status: f'sage_searches_total{{status="{status}"}}' for status in (200, 404)}
    assert {status: after[name] - before.get(name, 0) for status, name in searches.items()} == {200: 3, 404: 1}
    count = "sage_search_duration_seconds_count"
    assert after[count] - before.get(count, 0) == 4


def test_vector_stores_and_memory_are_the_owners_whoever_is_asked(family: WorkerFamily) -> None:
    first, second = pair(family)
    for client in (first, second):
        document = {"id": "1", "text": "The press has a warranty of two years.", "metadata": {"path": "press.md"}}
        assert client.ask("POST", "/collections/press/documents", {"documents": [document]}).status == 200
        call = {
            "id": "c",
            "type": "function",
            "function": {"name": "file_search", "arguments": '{"queries": ["press"]}'},
        }
        for message in ({"content": None, "tool_calls": [call]}, {"content": "Two years 【F1】."}):
            choice = {"index": 0, "message": {"role": "assistant", **message}, "finish_reason": "stop"}
            answer = {"id": "a", "object": "chat.completion", "created": 1, "model": "m", "choices": [choice]}
            family.upstream.use(reply(answer), 1)
        tools = [{"type": "file_search", "vector_store_ids": ["vs_press"]}]
        response = client.ask("POST", "/v1/responses", {"model": "free", "input": "How long?", "tools": tools}).json
        assert [item["type"] for item in response["output"]] == ["file_search_call", "message"]
        (part,) = response["output"][1]["content"]
        assert (part["text"], part["annotations"][0]["filename"]) == ("Two years.", "press.md")
        before = len(family.upstream.requests)
        storing = {"model": "free", "messages": CHAT, "memory": {"session_id": "once", "recall": False}}
        assert client.ask("POST", "/v1/chat/completions", storing).json["memories"] == []
        assert len(family.upstream.requests) == before + 1


def test_memories_and_jobs_are_one_for_all(family: WorkerFamily) -> None:
    first, second = pair(family)
    stored = second.ask("POST", "/memory", {"session_id": "s", "content": "the ship is called Pequod"})
    assert stored.status in (200, 201), stored.body
    found = first.ask("POST", "/memory/search", {"session_id": "s", "query": "ship"})
    assert stored.json["id"] in found.body.decode()
    remembering = {"model": "free", "prompt": "which ship?", "memory": {"session_id": "s"}}
    assert [memory["id"] for memory in second.ask("POST", "/generate", remembering).json["memories"]] != []
    job = second.ask("POST", "/tasks/generate", {"model": "free", "prompt": "say ship"}).json
    ended = family.wait(
        lambda: (state := first.ask("GET", f"/tasks/{job['id']}").json)["state"] == "succeeded" and state, 60
    )
    assert ended["id"] == job["id"]


def test_a_body_that_is_too_large_is_refused_and_a_large_one_is_not(family: WorkerFamily) -> None:
    client = family.client(1)
    text = "word " * 400_000
    assert client.chat("capped", text).json["choices"][0]["message"]["content"] == text
    assert client.chat("free", text).json["choices"][0]["message"]["content"] == text
    client.connection.sock.sendall(
        b"PUT /kv/large HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer %s\r\nContent-Length: 40000000\r\n\r\n{"
        % family.key.encode()
    )
    assert client.connection.sock.recv(1000).startswith(b"HTTP/1.1 413 ")


def test_a_client_that_waits_with_its_body_is_told_to_go_on(family: WorkerFamily) -> None:
    body = json.dumps({"model": "capped", "messages": CHAT}).encode()
    for path, status in (("/v1/chat/completions", b"200"), ("/kv/waits", b"400")):
        sock = family.client(1).connection.sock
        sock.sendall(
            b"%s %s HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer %s\r\nContent-Type: application/json\r\n"
            b"Content-Length: %d\r\nExpect: 100-continue\r\n\r\n"
            % (b"PUT" if path == "/kv/waits" else b"POST", path.encode(), family.key.encode(), len(body))
        )
        assert sock.recv(1000).startswith(b"HTTP/1.1 100 Continue\r\n\r\n")
        sock.sendall(body)
        assert sock.recv(100_000).startswith(b"HTTP/1.1 " + status)
        sock.close()


@pytest.mark.parametrize("model", ["free", "capped"])
def test_a_client_that_leaves_a_front_ends_its_call(family: WorkerFamily, model: str) -> None:
    for stream in (False, True):
        family.upstream.reset()
        family.upstream.stream([chat_chunk("one"), chat_chunk("two")], hang_after=1 if stream else 0)
        client = family.client(1)
        body = {"model": model, "messages": CHAT, "stream": stream}
        if stream:
            assert b"one" in client.begin("POST", "/v1/chat/completions", body).readline()
        else:
            client.connection.request(
                "POST",
                "/v1/chat/completions",
                json.dumps(body),
                {"Authorization": f"Bearer {family.key}", "Content-Type": "application/json"},
            )
            family.upstream.wait_requests(1)
        client.connection.sock.shutdown(socket.SHUT_RDWR)
        client.close()
        family.upstream.wait_closed()


def test_a_stream_comes_through_a_front_piece_by_piece(family: WorkerFamily) -> None:
    for model in ("free", "capped"):
        gate = threading.Event()
        family.upstream.stream([chat_chunk("first"), chat_chunk(None, "stop")], gate=gate, times=1)
        answer = family.client(1).begin(
            "POST", "/v1/chat/completions", {"model": model, "messages": CHAT, "stream": True}
        )
        assert b"first" in answer.readline()
        gate.set()
        assert answer.read().endswith(b"data: [DONE]\n\n")


def test_max_concurrency_holds_over_all_workers(family: WorkerFamily) -> None:
    gate = threading.Event()
    family.upstream.reply(openai_like_body(), gate=gate)
    clients = [family.client(worker) for worker in (0, 1, 1, 0)]
    with ThreadPoolExecutor(4) as pool:
        calls = [pool.submit(client.chat, "capped") for client in clients]
        family.upstream.wait_requests(2)
        end = time.monotonic() + 10
        while sum(call.done() for call in calls) < 2:  # those that found no place in queue_timeout
            assert time.monotonic() < end
            time.sleep(0.02)
        assert len(family.upstream.requests) == 2
        gate.set()
        assert sorted(call.result().status for call in calls) == [200, 200, 503, 503]


def test_limits_hold_over_all_workers(family: WorkerFamily) -> None:
    made = family.client(0).ask("POST", "/auth/keys", {"name": "limited", "limits": {"rpm": 6, "concurrent": 1}}).json
    clients = [family.client(worker, key=made["key"]) for worker in WORKERS]
    answers = [clients[number % 2].chat("free") for number in range(8)]
    assert [answer.status for answer in answers] == [200] * 6 + [429] * 2
    assert [answer.headers["x-ratelimit-remaining-requests"] for answer in answers] == [*"54321000"]
    for answer in answers[6:]:
        assert answer.json["error"]["code"] == "rate_limit_exceeded"
        assert int(answer.headers["retry-after"]) > 30


def openai_like_body() -> Any:
    choice = {"index": 0, "finish_reason": "stop", "message": {"role": "assistant", "content": "x"}}
    return {"id": "1", "object": "chat.completion", "created": 1, "model": "m", "choices": [choice]}


def test_an_engine_is_there_once(family: WorkerFamily) -> None:
    clients = [family.client(worker) for worker in (0, 1, 1, 0)]
    before = len(children(family.owner))
    with ThreadPoolExecutor(4) as pool:
        calls = [pool.submit(client.chat, "tiny", "the cat", max_tokens=3, temperature=0) for client in clients]
        answers = [call.result() for call in calls]
    assert {answer.status for answer in answers} == {200}
    assert len({answer.json["choices"][0]["message"]["content"] for answer in answers}) == 1
    states = [client.ask("GET", "/models/tiny").json for client in clients]
    assert {state["state"] for state in states} == {"ready"}
    assert len({state["loaded_at"] for state in states}) == 1
    assert len(children(family.owner)) == before + 3, "the engine and its two supervisors"
    assert clients[1].ask("POST", "/models/tiny/unload", {}).status == 200


def test_a_model_that_is_added_or_removed_is_so_everywhere_at_once(family: WorkerFamily) -> None:
    for adding, other in ((0, 1), (1, 0)):
        first, second = family.client(adding), family.client(other)
        for model in ("m-one", "m-two"):  # the second time it replaces the first
            body = {"deployments": [{"provider": "one", "model": model}]}
            assert first.ask("POST", "/models/added", body).status in (200, 201)
            assert second.chat("added").headers["x-sage-deployment"] == f"one/{model}"
        assert first.ask("DELETE", "/models/added").status in (200, 204)
        assert second.chat("added").status == 404


def test_a_key_that_is_revoked_over_http_is_refused_by_all_at_once(family: WorkerFamily) -> None:
    for revoking, other in ((0, 1), (1, 0)):
        admin = family.client(revoking)
        made = admin.ask("POST", "/auth/keys", {"name": f"short-{revoking}"}).json
        clients = [family.client(worker, key=made["key"]) for worker in (revoking, other)]
        for client in clients:
            assert client.chat("free").status == 200
        assert admin.ask("DELETE", f"/auth/keys/{made['id']}").status in (200, 204)
        for client in clients:
            assert client.chat("free").status == 401


@pytest.mark.parametrize("model", ["free", "capped"])
def test_a_key_that_is_revoked_ends_its_streams_at_every_worker(family: WorkerFamily, model: str) -> None:
    """A front answers ``free`` itself, and has ``capped`` answered by the owner."""
    family.upstream.stream([chat_chunk("one"), chat_chunk("two")], hang_after=1)
    admin = family.client(0)
    made = admin.ask("POST", "/auth/keys", {"name": f"open-{model}"}).json
    body = {"model": model, "messages": CHAT, "stream": True}
    kept = family.client(1).begin("POST", "/v1/chat/completions", body)
    assert b"one" in kept.readline()
    streams = [family.client(w, key=made["key"]).begin("POST", "/v1/chat/completions", body) for w in WORKERS[-1:]]
    assert all(b"one" in each.readline() for each in streams)
    began = time.monotonic()
    assert admin.ask("DELETE", f"/auth/keys/{made['id']}").status in (200, 204)
    for each in streams:
        rest = each.read()
        assert b'"rights_revoked"' in rest
        assert b"[DONE]" not in rest
    assert time.monotonic() - began < 5
    family.upstream.wait_closed(index=1)
    assert not family.upstream.requests[0].closed.is_set()


def test_a_key_that_is_revoked_ends_the_events_of_jobs_at_every_worker(family: WorkerFamily) -> None:
    family.upstream.stream([chat_chunk("one"), chat_chunk("two")], hang_after=1)
    admin = family.client(0)
    made = admin.ask("POST", "/auth/keys", {"name": "events"}).json
    job = admin.ask("POST", "/tasks/generate", {"model": "free", "requests": [{"prompt": "one"}]}).json
    clients = [family.client(worker, key=made["key"]) for worker in WORKERS]
    streams = [client.begin("GET", f"/tasks/{job['id']}/events") for client in clients]
    assert [each.readline() for each in streams] == [b"event: progress\n"] * 2
    began = time.monotonic()
    assert admin.ask("DELETE", f"/auth/keys/{made['id']}").status in (200, 204)
    assert all(b'"rights_revoked"' in each.read() for each in streams)
    assert time.monotonic() - began < 5
    admin.ask("DELETE", f"/tasks/{job['id']}")


def test_a_key_that_the_command_line_revokes_is_refused_by_all_within_a_second(family: WorkerFamily) -> None:
    made = family.client(0).ask("POST", "/auth/keys", {"name": "cli"}).json
    clients = [family.client(worker, key=made["key"]) for worker in WORKERS]
    for client in clients:
        assert client.chat("free").status == 200
    done = sage(
        ["key", "revoke", made["id"], "--config", str(family.directory / "config.yaml")],
        environment(family.directory / "data"),
        cwd=family.directory,
    )
    assert done.returncode == 0, done.stderr
    deadline = time.monotonic() + 1.0
    for client in clients:
        while client.chat("free").status != 401:
            assert time.monotonic() < deadline
            time.sleep(0.02)


def test_a_key_that_cools_down_does_so_everywhere(family: WorkerFamily) -> None:
    for refused, other in ((1, 0), (0, 1)):
        model = f"cooling-{refused}"
        first, second = family.client(refused), family.client(other)
        body = {"deployments": [{"provider": "one", "model": model}], "retries": 0}
        assert first.ask("POST", f"/models/{model}", body).status in (200, 201)
        family.upstream.reply(status=429, headers={"retry-after": "30"}, times=1)
        assert first.chat(model).status == 429
        before = len(family.upstream.requests)
        time.sleep(0.1)
        answer = second.chat(model)
        assert answer.status == 429
        assert int(answer.headers["retry-after"]) > 20
        assert len(family.upstream.requests) == before, "it was asked, though its key cools down"


def test_a_breaker_that_opens_does_so_everywhere(family: WorkerFamily) -> None:
    first, second = family.client(1), family.client(0)

    def breaker() -> Any:
        return second.ask("GET", "/models/lost").json["deployments"][0]["breaker"]

    assert breaker()["state"] == "closed"
    for _ in range(5):
        assert first.chat("lost").json["error"]["code"] == "connect_failed"
    family.wait(lambda: breaker()["state"] == "open")
    assert 0 < breaker()["opens_for"] <= 5
    assert second.chat("lost").status == 503


def test_a_key_that_is_refused_is_taken_last_everywhere(family: WorkerFamily) -> None:
    first, second = family.client(1), family.client(0)
    family.upstream.reply(status=401, times=1)
    assert first.chat("keys").status == 502  # and no other attempt
    refused = family.upstream.requests[0].headers["authorization"]
    time.sleep(0.1)
    family.upstream.requests.clear()
    for client in (second, first, second, second):
        assert client.chat("keys").status == 200
    assert refused not in {request.headers["authorization"] for request in family.upstream.requests}


def test_a_conversation_stays_where_it_is_cached_whoever_takes_its_next_turn(family: WorkerFamily) -> None:
    def turn(client: Client, messages: list[dict[str, str]]) -> str:
        return client.ask("POST", "/v1/chat/completions", {"model": "pair", "messages": messages}).headers[
            "x-sage-deployment"
        ]

    clients = [family.client(worker) for worker in (0, 1)]
    for number in range(4):
        messages = [{"role": "user", "content": f"conversation {number}"}]
        place = turn(clients[number % 2], messages)
        time.sleep(0.3)
        for client in clients:
            messages += [{"role": "assistant", "content": "yes"}, {"role": "user", "content": "go on"}]
            assert turn(client, messages) == place
            time.sleep(0.3)


def test_metrics_are_the_sum_over_all_and_never_go_down(family: WorkerFamily) -> None:
    name = 'sage_requests_total{model="counted",status="200"}'
    first, second = pair(family)
    body = {"deployments": [{"provider": "one", "model": "counted"}]}
    assert first.ask("POST", "/models/counted", body).status in (200, 201)
    for client in (first, first, second):
        assert client.chat("counted").status == 200
    seen = family.metrics(second)
    changing = ("process_", "sage_process_", "sage_usage_")  # between two looks: the ledger is written meanwhile
    told, told_again = (
        {k: v for k, v in each.items() if not k.startswith(changing)} for each in (seen, family.metrics(first))
    )
    assert told == told_again
    assert seen[name] == 3
    assert seen['sage_request_duration_seconds_count{model="counted"}'] == 3
    assert seen['sage_tokens_total{model="counted",type="completion"}'] == 6
    front = family.front()
    os.kill(front, signal.SIGKILL)
    family.wait(lambda: front not in children(family.owner))
    owner = family.client(0)
    assert family.metrics(owner)[name] == 3
    again = family.client(1)
    assert again.chat("counted").status == 200
    assert family.metrics(owner)[name] == 4
    assert "worker 1 was ended by SIGKILL; another starts" in family.serving.log.read_text()


def test_live_requests_at_a_front_are_seen_by_the_owner(family: WorkerFamily) -> None:
    gate = threading.Event()
    family.upstream.reply(openai_like_body(), gate=gate)
    client = family.client(1)
    with ThreadPoolExecutor(1) as pool:
        call = pool.submit(client.chat, "free")
        family.upstream.wait_requests(1)
        owner = family.client(0)
        family.wait(lambda: owner.ask("GET", "/models/free").json["in_flight"] == 1)
        assert family.metrics(owner)['sage_requests_in_flight{model="free"}'] == 1
        gate.set()
        assert call.result().status == 200
    family.wait(lambda: owner.ask("GET", "/models/free").json["in_flight"] == 0)


def test_calls_under_budgets_are_made_by_the_owner_at_once(family: WorkerFamily) -> None:
    pair_of = pair(family)
    for client in pair_of:
        assert client.chat("free").status == 200
    put = pair_of[1].ask("PUT", "/budgets/model/free", {"tokens": 10, "window": "total"})
    assert put.status == 200, put.body
    for client in pair_of:
        refused = client.chat("free")
        assert (refused.status, json.loads(refused.body)["error"]["code"]) == (429, "budget_exceeded")
    assert pair_of[0].ask("DELETE", "/budgets/model/free").status == 200
    for client in pair_of:
        assert client.chat("free").status == 200
    for each, status in (({"tokens": 1, "window": "total"}, 429), (None, 200)):
        changed = pair_of[1].ask("PATCH", "/auth/teams/default", {"member_budget": each})
        assert changed.status == 200, changed.body
        assert [client.chat("free").status for client in pair_of] == [status, status]
