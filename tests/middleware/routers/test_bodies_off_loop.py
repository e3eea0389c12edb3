"""A body that is parsed away from the event loop, since it is large, is answered exactly as a small one."""

from __future__ import annotations

import re
from typing import Any

import pytest
from running_gateway import Running
from upstream import Upstream, openai_like

from sage.middleware.routers.http.bodies import SMALL_BODY

pytestmark = pytest.mark.slow  # megabytes

PADDING = b" " * (SMALL_BODY + 1000)
_PLACE = re.compile(r"line \d+ column \d+ \(char \d+\)")
CHAT = b'{"model":"bench","messages":[{"role":"user","content":"hello"}]'

BODIES: dict[str, bytes] = {
    "good": CHAT + b"}",
    "good stream": CHAT + b',"stream":true}',
    "nothing": b"",
    "no JSON": b"hello",
    "no object": b"[1,2]",
    "ends early": CHAT,
    "goes on": CHAT + b"}}",
    "no UTF-8": CHAT.replace(b"hello", b"\xff\xfe") + b"}",
    "a control character": CHAT.replace(b"hello", b"a\x00b") + b"}",
    "half of a pair": CHAT.replace(b"hello", b"\\ud83d") + b"}",
    "NaN": CHAT + b',"temperature":NaN}',
    "a long number": CHAT + b',"seed":' + b"1" * 400 + b"}",
    "a number too large": CHAT + b',"seed":1e999}',
    "very deep": CHAT + b',"x":' + b"[" * 2000 + b"]" * 2000 + b"}",
    "very many values": CHAT + b',"x":[' + b"1," * 400_000 + b"1]}",
    "a key twice": CHAT + b',"model":"other"}',
    "no model": CHAT.replace(b'"model":"bench",', b"") + b"}",
    "an unknown model": CHAT.replace(b'"bench"', b'"unknown"') + b"}",
    "a model that is no text": CHAT.replace(b'"bench"', b"7") + b"}",
    "messages that are none": b'{"model":"bench","messages":"hello"}',
    "a message that is none": b'{"model":"bench","messages":[7]}',
    "a flag that is none": CHAT + b',"stream":"yes"}',
    "a field out of range": CHAT + b',"temperature":-7}',
}


def send(running: Running, path: str, body: bytes) -> tuple[int, dict[str, str], Any]:
    answer = running.request("POST", path, data=body, headers={"content-type": "application/json"})
    kept = {name: value for name, value in answer.headers.items() if name.lower() not in ("date", "x-request-id")}
    kept.pop("content-length", None)  # places in the body have more digits
    return answer.status_code, kept, _PLACE.sub("", answer.text)


@pytest.mark.parametrize("body", BODIES)
def test_a_large_chat_is_answered_as_a_small_one(running: Running, up: Upstream, body: str) -> None:
    small, large = (send(running, "/v1/chat/completions", BODIES[body] + padding) for padding in (b" ", PADDING))
    assert large == small
    asked = [request.body for request in up.requests if request.method == "POST"]
    assert asked[1:] == asked[:1]


@pytest.mark.parametrize("path", ["/v1/completions", "/v1/embeddings", "/generate", "/api/chat", "/v2/chat"])
def test_faults_of_large_bodies_are_the_same_on_every_surface(running: Running, up: Upstream, path: str) -> None:
    for name, body in BODIES.items():
        if "good" not in name:
            small, large = (send(running, path, body + padding) for padding in (b" ", PADDING))
            assert large[0] == small[0] < 500, name
            assert large[0] == 200 or large == small, name  # an answer of Ollama's tells the time


def test_a_text_of_megabytes_goes_on_as_it_is(running: Running, up: Upstream) -> None:
    up.handler = openai_like
    text = 'Grüße, 世界 \\ " \n \U0001f600 ' * 60_000
    answer = running.chat(messages=[{"role": "user", "content": text}], max_tokens=5)
    assert answer.json()["choices"][0]["message"]["content"] == text
    assert up.requests[0].body["messages"][0]["content"] == text
