"""Bodies that are large, or hold very much: refused before they cost, by the limit of each route."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator

import pytest
import requests
from running_gateway import Running
from upstream import Upstream

from sage.errors import InvalidRequest, Unavailable
from sage.middleware.gateway.json_object import MAX_VALUES, check_values, parse_object
from sage.middleware.routers.http.bodies import LargeBodies

pytestmark = pytest.mark.slow  # megabytes


@pytest.fixture(scope="module")
def module_up() -> Iterator[Upstream]:
    with Upstream() as upstream:
        yield upstream


@pytest.fixture(scope="module")
def running(module_gateway: Callable[..., Running], module_up: Upstream) -> Running:
    provider = {"kind": "openai", "base_url": module_up.url, "api_key": "sk-upstream"}
    models = {"bench": {"deployments": [{"provider": "up0", "model": "theirs-0"}]}}
    return module_gateway(llm={"providers": {"up0": provider}, "models": models})


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("/v1/embeddings", b'{"model": "bench", "input": [' + b"1," * 400_000 + b"1]}"),
        ("/v1/embeddings", b'{"model": "bench", "input": [' + b"[1]," * 400_000 + b"[1]]}"),
        ("/v1/chat/completions", b'{"model": "bench", "messages": [], "x": [' + b'"",' * 400_000 + b"0]}"),
        ("/generate", b'{"model": "bench", "prompt": "x", "x": {' + b'"a":1,' * 400_000 + b'"b":1}}'),
        ("/v2/chat", b'{"model": "bench", "messages": [' + b"{}," * 400_000 + b"{}]}"),
        ("/api/chat", b'{"model": "bench", "messages": [' + b"{}," * 400_000 + b"{}]}"),
        ("/collections/c/documents", b'{"documents": [{"text": "", "vector": [' + b"1," * 900_000 + b"1]}]}"),
        ("/vdb/c", b'{"items": [{"vector": [' + b"1," * 900_000 + b"1]}]}"),
        ("/search/batch", b'{"searches": [{"query": "", "vector": [' + b"1," * 900_000 + b"1]}]}"),
        ("/memory", b'{"session_id": "s", "content": "x", "vector": [' + b"1," * 900_000 + b"1]}"),
    ],
)
def test_bodies_of_very_many_values_are_refused_before_they_are_read(
    running: Running, module_up: Upstream, path: str, body: bytes
) -> None:
    answer = running.request("POST", path, data=body, headers={"content-type": "application/json"})
    assert answer.status_code == 400
    assert "values" in (answer.text)
    assert module_up.requests == []


def test_a_line_of_ndjson_is_bounded_as_a_body_is(running: Running) -> None:
    line = b'{"text": "", "vector": [' + b"1," * 900_000 + b"1]}\n"
    answer = running.request(
        "POST", "/collections/c/documents", data=line, headers={"content-type": "application/x-ndjson"}
    )
    assert answer.status_code == 400
    assert answer.json()["error"]["message"].startswith("line 1")


@pytest.mark.parametrize("line", [b"\n", b"  \r\n", b"\t\n"])
def test_empty_lines_of_ndjson_are_bounded(running: Running, line: bytes) -> None:
    headers = {"content-type": "application/x-ndjson"}
    path, document = "/collections/lines/documents", b'{"text": "one"}\n'
    answer = running.request("POST", path, data=line * 11_000 + document, headers=headers)
    assert answer.status_code == 400
    assert answer.json()["error"]["message"] == "line 10001: more than 10000 lines are empty"
    good = running.request("POST", path, data=line * 9_000 + document + line * 900 + document, headers=headers)
    assert good.status_code == 200
    assert good.json()["inserted"] == 2


def test_commas_and_quotes_in_texts_are_no_values() -> None:
    text = 'a,"b",\\c\\\\",' * 100_000
    body = json.dumps({"text": text}).encode()
    assert body.count(b",") > MAX_VALUES / 2
    assert parse_object(body * 1)["text"] == text
    assert parse_object(json.dumps({"text": "," * 2_000_000}).encode())["text"] == "," * 2_000_000
    with pytest.raises(InvalidRequest, match="more than 350000 values"):
        parse_object(b'{"a":"' + b",\\\\" * 200_000 + b'","b":[' + b"1," * 400_000 + b"1]}")


@pytest.mark.parametrize("size", [1_300_000, 2**21])
@pytest.mark.parametrize("unit", [b"[[[[[[1]]]]]]", b"{}", b"[]", b"1"])
def test_values_are_counted_whatever_they_are(unit: bytes, size: int) -> None:
    body = b'{"a":[' + b",".join([unit] * (size // (len(unit) + 1))) + b"]}"
    with pytest.raises(InvalidRequest, match="more than 350000 values"):
        parse_object(body)
    text = body.replace(b"{", b"(").replace(b"}", b")")
    assert len(parse_object(b'{"text":"' + text.replace(b'"', b"") + b'"}')["text"]) > size // 2


def test_large_uploads_of_vectors_are_taken() -> None:
    vector = ",".join(["-0.0123456"] * 1024)
    body = ('{"items":[' + ",".join([f'{{"vector":[{vector}]}}'] * 500) + "]}").encode()
    assert body.count(b",") > MAX_VALUES
    check_values(body, vectors=True)
    with pytest.raises(InvalidRequest):
        check_values(body)


_LIMITS = [
    ("POST", "/auth/token", 20_000),
    ("POST", "/auth/refresh", 20_000),
    ("POST", "/auth/setup", 20_000),
    ("POST", "/auth/keys", 20_000),
    ("POST", "/collections", 2**20 + 1),
    ("POST", "/models/x/load", 2**20 + 1),
    ("POST", "/models/x", 20_000),
    ("POST", "/models/x/explain", 2**20 + 1),
    ("POST", "/api/show", 20_000),
    ("POST", "/search", 2**21 + 1),
    ("POST", "/vdb/c/search", 2**21 + 1),
    ("POST", "/memory/search", 2**21 + 1),
    ("POST", "/v1/detokenize", 2**22 + 1),
    ("PUT", "/kv/k", 2**25 + 1),
    ("POST", "/v1/chat/completions", 2**25 + 1),
]


@pytest.mark.parametrize(
    ("method", "path", "size", "is_chunked"),
    [(*limit, False) for limit in _LIMITS] + [(*limit, True) for limit in _LIMITS if limit[2] < 2**22],
)
def test_each_route_has_a_limit_on_its_bodies(
    running: Running, method: str, path: str, size: int, is_chunked: bool
) -> None:
    media = "application/x-www-form-urlencoded" if path == "/auth/token" else "application/json"
    headers = {**running.headers(), "content-type": media}
    if is_chunked:
        answer = requests.request(
            method, running.url + path, data=iter([b" " * (size - 1), b" "]), headers=headers, timeout=10
        )
    else:
        # Refused by its head: nothing of it is sent.
        answer = requests.request(
            method, running.url + path, headers={**headers, "content-length": str(size)}, data=b"", timeout=10
        )
    if path == "/models/x/load":  # reads no body: it need not come
        assert answer.status_code in (404, 413)
    else:
        assert answer.status_code == 413, answer.text


def test_a_chat_of_some_megabytes_is_answered(running: Running, module_up: Upstream) -> None:
    answer = running.chat(filler=[{"text": "x" * 3_000_000}])
    assert answer.status_code == 200
    assert module_up.requests[-1].body["filler"] == [{"text": "x" * 3_000_000}]
    module_up.reset()


@pytest.mark.parametrize(
    ("path", "body", "param"),
    [
        ("/vdb/c/delete", {"ids": [1] * 100_000}, "ids.0"),
        ("/collections/c/documents/delete", {"ids": ["x", *[1] * 100_000]}, "ids.1"),
        ("/collections/c/documents/delete", {"ids": ["x"] * 30 + [1] * 100_000}, None),
        ("/memory/search", {"query": "x", "vector": ["a"] * 100_000}, "vector.0"),
        ("/search", {"query": "x", "vector": ["a"] * 100_000}, "vector.0"),
        ("/collections/c/documents/delete", {f"x{number}": 1 for number in range(50_000)}, "x0"),
    ],
)
def test_very_many_faults_are_told_by_the_first(running: Running, path: str, body: dict, param: str | None) -> None:
    answer = running.post(path, body)
    assert answer.status_code == 400
    assert answer.json()["error"]["param"] == param


def test_large_bodies_have_places_for_each_caller() -> None:
    bodies = LargeBodies(1000)
    for _ in range(8):
        bodies.take("a", 1000)
    with pytest.raises(Unavailable, match="too many large bodies"):
        bodies.take("a", 1)
    for caller in "bcdefghi":
        bodies.take(caller, 1000)
    with pytest.raises(Unavailable):
        bodies.take("j", 1)
    bodies.release("a", 8000)
    bodies.take("j", 1)


def test_thirty_megabytes_of_anything_cost_little(running: Running) -> None:
    """Each was seconds of the event loop, or of a processor."""
    worst = 0.0
    headers = {"content-type": "application/json"}
    bodies = {
        b'{"model": "bench", "input": [' + b"1," * 15_000_000 + b"1]}": "/v1/embeddings",
        b'{"documents": [{"text": "' + b"[" * 31_000_000 + b'"}]}': "/collections/c/documents",
        b'{"documents": [{"text": "' + b'\\"' * 15_000_000 + b'"}]}': "/collections/c/documents",
        b'{"documents": [{"text": "' + b"," * 31_000_000 + b'"}]}': "/collections/c/documents",
    }
    for body, path in bodies.items():
        began = time.process_time()
        assert running.request("POST", path, data=body, headers=headers).status_code == 400
        worst = max(worst, time.process_time() - began)
    ndjson = {"content-type": "application/x-ndjson"}
    began = time.process_time()
    assert (
        running.request("POST", "/collections/c/documents", data=b"\n" * 31_000_000, headers=ndjson).status_code == 400
    )
    worst = max(worst, time.process_time() - began)
    assert worst < 5.0
