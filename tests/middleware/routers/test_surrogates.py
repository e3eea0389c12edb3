"""Halves of surrogate pairs in a request: replaced by U+FFFD, and noted, on every surface."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest
import requests
from running_gateway import Running
from upstream import Upstream

from sage.surrogates import replace_halves

HALF = "cut \ud83d here"
MENDED = "cut \ufffd here"


def send(running: Running, path: str, body: Any, method: str = "POST") -> requests.Response:
    data = body if isinstance(body, bytes) else json.dumps(body).encode()
    return running.request(method, path, data=data, headers={"content-type": "application/json"})


SURFACES: list[tuple[str, dict[str, Any]]] = [
    ("/v1/chat/completions", {"messages": [{"role": "user", "content": HALF}]}),
    ("/v1/chat/completions", {"messages": [{"role": "user", "content": HALF}], "stream": True}),
    ("/v1/completions", {"prompt": HALF}),
    ("/v1/embeddings", {"input": HALF}),
    ("/generate", {"prompt": HALF}),
    ("/api/chat", {"messages": [{"role": "user", "content": HALF}], "stream": False}),
    ("/api/generate", {"prompt": HALF, "stream": False}),
    ("/api/embed", {"input": HALF}),
    ("/v2/chat", {"messages": [{"role": "user", "content": HALF}]}),
]


@pytest.mark.parametrize(("path", "body"), SURFACES)
def test_every_surface_takes_a_half_and_says_so(
    up: Upstream, running: Running, path: str, body: dict[str, Any]
) -> None:
    answer = send(running, path, {"model": "bench", **body})
    assert answer.status_code == 200, answer.text
    assert answer.headers["x-sage-replaced-text"] == "1"
    assert MENDED in json.dumps(up.requests[-1].body, ensure_ascii=False)


def test_a_session_with_a_half_in_its_history_goes_on(up: Upstream, running: Running) -> None:
    history = [
        {"role": "user", "content": "\ude00 begins"},
        {"role": "assistant", "content": None, "tool_calls": [tool_call('{"text": "a\ud83d"}')]},
        {"role": "tool", "tool_call_id": "c", "content": "ends \ud83d"},
    ]
    answer = send(running, "/v1/chat/completions", {"model": "bench", "messages": history})
    assert answer.status_code == 200
    assert answer.headers["x-sage-replaced-text"] == "3"
    assert up.requests[-1].body["messages"][1]["tool_calls"][0]["function"]["arguments"] == '{"text": "a\ufffd"}'


def tool_call(arguments: str) -> dict[str, Any]:
    return {"id": "c", "type": "function", "function": {"name": "f", "arguments": arguments}}


def test_whole_characters_are_left_alone(up: Upstream, running: Running) -> None:
    for text in ("😀 whole", "\\ud83d is written out", "ud83d"):
        answer = running.chat(messages=[{"role": "user", "content": text}])
        assert answer.status_code == 200
        assert "x-sage-replaced-text" not in answer.headers
        assert up.requests[-1].body["messages"][0]["content"] == text


def test_errors_have_the_header_too(running: Running) -> None:
    answer = send(running, "/v1/chat/completions", {"model": "bench", "messages": [], "user": HALF})
    assert (answer.status_code, answer.headers["x-sage-replaced-text"]) == (400, "1")
    answer = send(running, "/v1/chat/completions", b'{"model": "\\ud83d')
    assert (answer.status_code, answer.json()["error"]["code"]) == (400, "invalid_json")


def test_what_is_stored_is_mended_too(running: Running) -> None:
    answer = send(running, "/kv/surrogates", {"value": HALF}, "PUT")
    assert answer.status_code in (200, 201), answer.text
    assert answer.headers["x-sage-replaced-text"] == "1"
    assert running.get("/kv/surrogates").json()["value"] == MENDED


@pytest.mark.parametrize(
    ("text", "mended", "count"),
    [
        (rb'"\ud83d"', rb'"\ufffd"', 1),
        (rb'"\uD83D\uD83D\uDE00"', rb'"\ufffd\uD83D\uDE00"', 1),
        (rb'"\ude00\ud83d"', rb'"\ufffd\ufffd"', 2),
        (rb'"\\ud83d"', rb'"\\ud83d"', 0),
        (rb'"\\\ud83d"', rb'"\\\ufffd"', 1),
        (rb'"\ud83d\u0041"', rb'"\ufffd\u0041"', 1),
        (b'"\xed\xa0\xbd"', '"\ufffd"'.encode(), 1),
        (b'"\xed\xa0\xbd\xed\xb8\x80"', '"😀"'.encode(), 0),
        (b'"\xed\x95\x9c\xea\xb5\xad"', b'"\xed\x95\x9c\xea\xb5\xad"', 0),
        (b'"\xff"', b'"\xff"', 0),
    ],
)
def test_halves_are_found(text: bytes, mended: bytes, count: int) -> None:
    assert replace_halves(text) == (mended, count)


@pytest.mark.slow
def test_a_large_body_is_mended(up: Upstream, upstreams: Callable) -> None:
    running = upstreams(up)
    answer = send(running, "/v1/embeddings", {"model": "bench", "input": "x" * 3_000_000 + "\ud83d"})
    assert answer.status_code == 200, answer.text[:300]
    assert answer.headers["x-sage-replaced-text"] == "1"
