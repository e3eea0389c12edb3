"""``/collections`` over HTTP: made, shown, embedded anew, copied, brought back, deleted."""

from __future__ import annotations

import gzip
import json
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from secrets import token_hex
from typing import Any
from urllib.parse import quote, urlsplit

import orjson
import pytest
import requests
from running_gateway import Running, run_gateway
from upstream import Received, Script, Upstream, openai_like, reply

from sage.middleware.settings.settings import Settings

pytestmark = pytest.mark.slow

KEYWORDS = {"defaults": {"embedder": "none"}}
BYTES = {"Content-Type": "application/octet-stream"}


@pytest.fixture
def running(gateway: Callable[..., Running]) -> Running:
    return gateway(retrieval=KEYWORDS)


@pytest.fixture
def up() -> Iterator[Upstream]:
    with Upstream() as upstream:
        yield upstream


def fill(running: Running, name: str = "default", count: int = 3) -> None:
    documents = [{"id": f"d{n}", "text": f"document {n}", "metadata": {"n": n}} for n in range(count)]
    assert running.post(f"/collections/{quote(name)}/documents", {"documents": documents}).status_code == 200


def names(running: Running, **options: Any) -> list[str]:
    return [collection["name"] for collection in running.get("/collections", **options).json()["collections"]]


def error(answer: requests.Response, status: int = 400) -> dict[str, Any]:
    assert answer.status_code == status, answer.text
    return dict(answer.json()["error"])


def delete(running: Running, name: str, **options: Any) -> requests.Response:
    url = f"{running.url}/collections/{quote(name)}"
    return requests.delete(url, headers=running.headers(options.get("key")), timeout=30)


def put(running: Running, name: str, data: Any, **headers: str) -> requests.Response:
    url = f"{running.url}/collections/{quote(name)}/snapshot"
    return requests.put(url, data=data, headers={**running.headers(), **BYTES, **headers}, timeout=60)


def events(answer: requests.Response) -> list[Any]:
    parts = [part.removeprefix("data: ") for part in answer.text.split("\n\n") if part]
    return [part if part == "[DONE]" else json.loads(part) for part in parts]


# Made, shown, deleted


def test_a_collection_is_made_shown_and_deleted(running: Running) -> None:
    options = {
        "metric": "dot",
        "dimension": 2,
        "keywords": {"variant": "okapi", "k1": 1.5},
        "analysis": {"stem": False},
    }
    made = running.post("/collections", {"name": "笔记", **options})
    assert made.status_code == 201, made.text
    created = made.json()
    assert (created["name"], created["documents"], created["dimension"], created["embedder"]) == ("笔记", 0, 2, None)
    assert created["metric"] == "dot"
    assert created["options"]["keywords"] | options["keywords"] == created["options"]["keywords"]
    assert created["options"]["analysis"]["stem"] is False
    assert abs(created["created_at"] - time.time()) < 60
    fill(running, "笔记")
    shown = running.get(f"/collections/{quote('笔记')}").json()
    assert (shown["documents"], shown["bytes"] > 0, shown["reembedding"]) == (3, True, None)
    assert names(running) == ["笔记"]
    assert delete(running, "笔记").status_code == 204
    assert names(running) == []
    assert error(running.get(f"/collections/{quote('笔记')}"), 404)["code"] == "collection_not_found"
    assert error(delete(running, "笔记"), 404)["code"] == "collection_not_found"


def test_the_first_write_makes_the_collection(running: Running) -> None:
    assert error(running.post("/search", {"query": "x"}), 404)["code"] == "collection_not_found"
    fill(running)
    assert names(running) == ["default"]
    assert running.post("/search", {"query": "document"}).json()["total"] == 3


@pytest.mark.parametrize(
    ("body", "param"),
    [
        ({}, "name"),
        ({"name": 5}, "name"),
        ({"name": ""}, "collection"),
        ({"name": "a/b"}, "collection"),
        ({"name": "../up"}, "collection"),
        ({"name": ".hidden"}, "collection"),
        ({"name": "x" * 65}, "collection"),
        ({"name": "a\nb"}, "collection"),
        ({"name": "a", "metric": "l1"}, "metric"),
        ({"name": "a", "dimension": 0}, "dimension"),
        ({"name": "a", "keywords": {"k1": -1}}, "keywords.k1"),
        ({"name": "a", "colour": "red"}, None),
        ({"name": "a", "embedder": ""}, "embedder"),
    ],
)
def test_bad_collections_name_their_field(running: Running, body: dict[str, Any], param: str | None) -> None:
    assert error(running.post("/collections", body))["param"] == param
    assert names(running) == []


def test_a_name_is_taken_once(running: Running) -> None:
    assert running.post("/collections", {"name": "a"}).status_code == 201
    assert error(running.post("/collections", {"name": "a"}), 409)["code"] == "collection_exists"


def test_an_unknown_embedder_makes_nothing(running: Running) -> None:
    assert running.post("/collections", {"name": "a", "embedder": "nope"}).status_code == 404
    assert names(running) == []


def test_tenants_do_not_meet(running: Running) -> None:
    fill(running, "shared")
    other = running.new_key(tenant="other", scopes=["search", "collections:write"])
    assert names(running, key=other) == []
    assert error(delete(running, "shared", key=other), 404)["code"] == "collection_not_found"
    assert running.post("/collections", {"name": "shared"}, key=other).status_code == 201
    assert running.get("/collections/shared", key=other).json()["documents"] == 0
    assert running.get("/collections/shared").json()["documents"] == 3
    assert error(running.get("/collections/shared/snapshot", key=running.new_key(tenant="third")), 404)


def test_the_number_of_collections_is_bounded(gateway: Callable[..., Running]) -> None:
    running = gateway(retrieval={**KEYWORDS, "limits": {"max_collections": 2}})
    fill(running, "a")
    fill(running, "b")
    refusal = error(running.post("/collections", {"name": "c"}), 409)
    assert refusal["code"] == "too_many_collections"
    assert names(running) == ["a", "b"]


def test_what_was_written_is_there_after_a_restart(tmp_path: Path) -> None:
    data = {"data_dir": tmp_path, "api": {"port": 0, "access_log": False}, "retrieval": KEYWORDS}
    for turn in range(3):
        with run_gateway(Settings.model_validate(data)) as running:
            if turn == 0:
                fill(running)
            assert running.get("/collections/default").json()["documents"] == 3
            assert running.post("/search", {"query": "document"}).json()["total"] == 3


def test_optimizing_keeps_what_is_found(running: Running) -> None:
    fill(running, count=50)
    optimized = running.post("/collections/default/optimize")
    assert (optimized.status_code, optimized.json()["documents"]) == (200, 50)
    assert running.post("/search", {"query": "document", "top_k": 100}).json()["total"] == 50


# Snapshots


def test_a_snapshot_comes_back_under_another_name(running: Running) -> None:
    fill(running, count=300)
    answer = running.get("/collections/default/snapshot")
    assert answer.headers["content-type"] == "application/octet-stream"
    assert "attachment" in answer.headers["content-disposition"]
    fill(running, "default", 5)
    made = put(running, "复制", answer.content)
    assert made.status_code == 201, made.text
    assert (made.json()["name"], made.json()["documents"]) == ("复制", 300)
    answer = running.post("/search", {"query": "document", "collection": "复制", "top_k": 1})
    assert answer.json()["total"] == 300
    assert error(put(running, "复制", answer.content), 409)["code"] == "collection_exists"


def test_a_snapshot_that_is_none_leaves_nothing(running: Running) -> None:
    fill(running, count=20)
    whole = running.get("/collections/default/snapshot").content
    for data in (b"", b"nonsense", whole[: len(whole) // 2], whole[:-1], bytes([whole[0] ^ 1]) + whole[1:]):
        assert put(running, "copy", data).status_code == 400
    assert names(running) == ["default"]
    assert list(running.settings.data_dir.glob("collections/*")) == [running.settings.data_dir / "collections/default"]


def test_a_snapshot_has_a_bound_of_its_own(gateway: Callable[..., Running]) -> None:
    running = gateway(retrieval=KEYWORDS, api={"max_body_bytes": 20_000})
    for start in range(0, 400, 50):
        documents = [{"id": f"d{n}", "text": f"document {n} {token_hex(60)}"} for n in range(start, start + 50)]
        assert running.post("/collections/default/documents", {"documents": documents}).status_code == 200
    whole = running.get("/collections/default/snapshot").content
    assert len(whole) > 20_000
    assert put(running, "copy", whole).json()["documents"] == 400
    assert put(running, "chunked", iter([whole[:5000], whole[5000:]])).json()["documents"] == 400
    small = gateway(retrieval={**KEYWORDS, "limits": {"max_snapshot": 20_000}})
    for data in (whole, iter([whole[:15_000], whole[15_000:]])):
        assert error(put(small, "copy", data), 413)["code"] == "payload_too_large"
    assert names(small) == []
    path = f"{running.url}/collections/copy/documents/x/snapshot"
    answer = requests.post(path, data=b"x" * 30_000, headers=running.headers(), timeout=30)
    assert answer.status_code == 413, "only a snapshot that is restored is exempt"


def test_a_snapshot_has_the_limits_of_every_write(running: Running, gateway: Callable[..., Running]) -> None:
    fill(running, count=20)
    whole = running.get("/collections/default/snapshot").content
    strict = gateway(retrieval={**KEYWORDS, "limits": {"max_text": 3}})
    for where, path in ((strict, "/collections/c/snapshot"), (strict, "/collections/c/snapshot?shards=2")):
        refusal = error(where.request("PUT", path, data=whole), 400)
        assert refusal["code"] == "over_limits"
        assert "retrieval.limits.max_text" in refusal["message"]
        assert error(where.get("/collections/c"), 404)
    lines = gzip.decompress(whole).splitlines(keepends=True)
    lines[0] = orjson.dumps({**orjson.loads(lines[0]), "bytes": 10**18}) + b"\n"
    refusal = error(running.request("PUT", "/collections/c/snapshot", data=gzip.compress(b"".join(lines))), 400)
    assert refusal["code"] == "bad_snapshot"


def test_without_auth_a_snapshot_must_say_what_it_is(gateway: Callable[..., Running]) -> None:
    running = gateway(auth={"enabled": False}, retrieval=KEYWORDS)
    fill(running)
    whole = running.get("/collections/default/snapshot").content
    for kind in ("text/plain", "application/json", "application/x-www-form-urlencoded"):
        assert error(put(running, "copy", whole, **{"Content-Type": kind}))["code"] == "content_type"
    assert put(running, "copy", whole, Origin="http://evil.example").status_code == 400
    assert put(running, "copy", whole).status_code == 201
    body = b'{"query": "document"}'
    answer = requests.post(f"{running.url}/search", data=body, headers=BYTES, timeout=30)
    assert error(answer)["code"] == "content_type"


def test_a_client_that_leaves_in_mid_snapshot_frees_its_thread(running: Running) -> None:
    documents = [{"id": f"d{n}", "text": token_hex(40_000)} for n in range(200)]  # 8 MB that no compression makes less
    for start in range(0, 200, 50):
        running.post("/collections/default/documents", {"documents": documents[start : start + 50]})
    address = urlsplit(running.url)
    head = f"GET /collections/default/snapshot HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {running.key}\r\n\r\n"
    for _ in range(10):  # more than there are threads for it
        with socket.socket() as client:
            client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 65_536)
            client.settimeout(30)
            client.connect((address.hostname, address.port))
            client.sendall(head.encode())
            assert client.recv(100).startswith(b"HTTP/1.1 200")
    answer = running.get("/collections/default/snapshot")
    assert answer.status_code in (200, 503)
    deadline = time.monotonic() + 30
    while answer.status_code == 503 and time.monotonic() < deadline:
        answer = running.get("/collections/default/snapshot")
    assert answer.status_code == 200


# Embedded anew


def by_length(request: Received) -> Script:
    """Embeddings of two numbers; the second model's have three."""
    if not request.path.endswith("/embeddings"):
        return openai_like(request)
    extra = [1.0] if request.body["model"] == "theirs-1" else []
    data = [
        {"object": "embedding", "index": n, "embedding": [float(len(text)), 1.0, *extra]}
        for n, text in enumerate(request.body["input"])
    ]
    return reply({"object": "list", "model": "m", "data": data, "usage": {"prompt_tokens": 1, "total_tokens": 1}})


@pytest.fixture
def embedding(up: Upstream, upstreams: Callable[..., Running]) -> Running:
    """A gateway whose new collections have vectors of ``bench``; ``second`` makes others."""
    up.handler = by_length
    second = {"second": {"deployments": [{"provider": "up0", "model": "theirs-1"}]}}
    models = {"bench": {"deployments": [{"provider": "up0", "model": "theirs-0"}]}, **second}
    return upstreams(up, llm={"models": models}, retrieval={"defaults": {"embedder": "bench"}})


def test_embedding_anew_tells_its_progress(embedding: Running) -> None:
    fill(embedding)
    assert embedding.get("/collections/default").json()["dimension"] == 2
    progress = events(embedding.post("/collections/default/reembed", {"embedder": "second"}))
    assert progress[-1] == "[DONE]"
    assert progress[-2] == {"status": "done", "completed": 3, "total": 3}
    assert {event["status"] for event in progress[:-1]} <= {"embedding", "done"}
    shown = embedding.get("/collections/default").json()
    assert (shown["dimension"], shown["embedder"], shown["reembedding"]) == (3, "second@theirs-1", None)
    assert embedding.post("/search", {"query": "document", "mode": "dense"}).json()["total"] == 3


def test_embedding_anew_goes_on_without_its_client(embedding: Running, up: Upstream) -> None:
    fill(embedding)
    gate = threading.Event()

    def waiting(request: Received) -> Script:
        if request.path.endswith("/embeddings") and request.body["model"] == "theirs-1":
            answered = by_length(request)
            return Script(answered.writes, gate=gate)
        return by_length(request)

    up.handler = waiting
    begun = embedding.post("/collections/default/reembed?wait=false", {"embedder": "second"})
    assert begun.status_code == 202
    assert begun.json()["reembedding"]["embedder"] == "second"
    refusal = error(embedding.post("/collections/default/reembed", {"embedder": "bench"}), 409)
    assert refusal["code"] == "reembedding_runs"
    answer = embedding.post("/search", {"query": "document 1", "mode": "dense"}).json()
    assert answer["total"] == 3, "searches go on with the old vectors"
    follower = embedding.post("/collections/default/reembed", {"embedder": "second"}, stream=True)
    gate.set()  # its head is here, so it has joined
    assert events(follower)[-1] == "[DONE]"
    assert embedding.get("/collections/default").json()["embedder"] == "second@theirs-1"
    assert len([r for r in up.requests if r.body and r.body.get("model") == "theirs-1"]) == 1


def test_embedding_anew_is_stopped_and_goes_on(embedding: Running, up: Upstream) -> None:
    fill(embedding)
    gate, arrived = threading.Event(), threading.Event()

    def waiting(request: Received) -> Script:
        if request.path.endswith("/embeddings") and request.body["model"] == "theirs-1":
            arrived.set()
            return Script(by_length(request).writes, gate=gate)
        return by_length(request)

    up.handler = waiting
    path = "/collections/default/reembed"
    assert error(embedding.request("DELETE", path), 404)["code"] == "no_reembedding"
    follower = embedding.post(path, {"embedder": "second"}, stream=True)
    assert arrived.wait(20)
    assert embedding.request("DELETE", path).status_code == 204
    gate.set()
    assert events(follower)[-1]["error"]["code"] == "reembedding_stopped"
    assert embedding.get("/collections/default").json()["embedder"] == "bench@theirs-0"
    assert events(embedding.post("/collections/default/reembed", {"embedder": "second"}))[-1] == "[DONE]"


def test_embedding_anew_that_cannot_is_told(embedding: Running, up: Upstream) -> None:
    fill(embedding)
    path = "/collections/default/reembed"
    assert embedding.post(path, {"embedder": "nope"}).status_code == 404
    assert error(embedding.post(path, {}))["param"] == "embedder"
    assert error(embedding.post(path, {"embedder": "second", "x": 1}))["param"] == "x"
    assert error(embedding.post("/collections/nope/reembed", {"embedder": "second"}), 404)
    up.handler = lambda request: reply(status=400)
    answer = embedding.post(path, {"embedder": "second"})
    failure = answer.json() if answer.status_code != 200 else events(answer)[-1]
    assert failure["error"]["type"] in ("upstream_error", "invalid_request_error")
    up.handler = by_length
    assert events(embedding.post(path, {"embedder": "second"}))[-1] == "[DONE]"


# Life


def test_a_gateway_that_nobody_searches_loads_nothing_for_it() -> None:
    code = (
        "import sys, tempfile; from pathlib import Path\n"
        "from sage.middleware.app.main import create_app\n"
        "from sage.middleware.settings.settings import Settings\n"
        "with tempfile.TemporaryDirectory() as directory:\n"
        "    app = create_app(Settings(data_dir=Path(directory)))\n"
        "    assert not (Path(directory) / 'collections').exists()\n"
        "    app.app.state.accounts.close()\n"
        "heavy = {'numpy', 'faiss', 'numba', 'onnxruntime', 'tokenizers', 'Stemmer', 'sqlite3.dump', 'xxhash'}\n"
        "print(sorted(heavy & set(sys.modules)))\n"
        "room = 'sage.middleware.retrieval.'\n"
        "named = {'embedding', 'embedding.kind', 'embedding.builtin', 'text', 'text.languages'}  # models too\n"
        "loaded = {name.removeprefix(room) for name in sys.modules if name.startswith(room)}\n"
        "print(sorted(loaded - named))\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert done.stdout == "[]\n[]\n", done.stdout + done.stderr


def test_deleting_waits_for_nobody_that_works_on_it(embedding: Running, up: Upstream) -> None:
    """A reembedding is ended by the deletion of its collection, at its next batch."""
    fill(embedding)
    gate, arrived = threading.Event(), threading.Event()

    def waiting(request: Received) -> Script:
        if request.path.endswith("/embeddings") and request.body["model"] == "theirs-1":
            arrived.set()
            return Script(by_length(request).writes, gate=gate)
        return by_length(request)

    up.handler = waiting
    embedding.post("/collections/default/reembed?wait=false", {"embedder": "second"})
    assert arrived.wait(20)
    deleted: list[int] = []
    deleting = threading.Thread(target=lambda: deleted.append(delete(embedding, "default").status_code))
    deleting.start()
    gate.set()
    deleting.join(30)
    assert deleted == [204]
    assert names(embedding) == []


@pytest.mark.slow
def test_a_hanging_embedder_does_not_hold_up_the_end(tmp_path: Path, up: Upstream) -> None:
    up.handler = by_length
    models = {name: {"deployments": [{"provider": "up", "model": name}]} for name in ("first", "second")}
    data = {
        "data_dir": tmp_path,
        "api": {"port": 0, "access_log": False, "shutdown_grace": 1},
        "llm": {"providers": {"up": {"kind": "openai", "base_url": up.url}}, "models": models},
        "retrieval": {"defaults": {"embedder": "first"}},
    }
    with run_gateway(Settings.model_validate(data)) as running:
        fill(running)
        never, arrived = threading.Event(), threading.Event()

        def hanging(request: Received) -> Script:
            arrived.set()
            return Script(by_length(request).writes, gate=never)

        up.handler = hanging
        running.post("/collections/default/reembed?wait=false", {"embedder": "second"})
        assert arrived.wait(20)
        begun = time.monotonic()
    assert time.monotonic() - begun < 25
    never.set()
    up.handler = by_length
    with run_gateway(Settings.model_validate(data)) as running:
        assert running.get("/collections/default").json()["embedder"] == "first"
        assert events(running.post("/collections/default/reembed", {"embedder": "second"}))[-1] == "[DONE]"
        assert running.get("/collections/default").json()["dimension"] == 2
