"""Clients that leave, at every surface and moment: the upstream's call ends at once, and nothing is done for nobody."""

from __future__ import annotations

import asyncio
import json
import socket
import struct
import threading
import time
from contextlib import ExitStack
from typing import Any

import pytest
from departing import asking
from running_gateway import Running
from shared_gateway import PATIENT
from upstream import Received, Script, Upstream, chat_chunk, stream

pytestmark = pytest.mark.slow

SOON = 2.0
"""Seconds within which the upstream's connection is closed, on a busy machine."""
_HEAD = b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: 2\r\n\r\n{}"

MESSAGES = {"messages": [{"role": "user", "content": "x"}]}
CALLS: dict[str, tuple[str, dict[str, Any]]] = {
    "chat": ("/v1/chat/completions", MESSAGES),
    "completion": ("/v1/completions", {"prompt": "x"}),
    "embedding": ("/v1/embeddings", {"input": "x"}),
    "generate": ("/generate", {"prompt": "x"}),
    "ollama chat": ("/api/chat", {**MESSAGES, "stream": False}),
    "ollama generate": ("/api/generate", {"prompt": "x", "stream": False}),
    "ollama embed": ("/api/embed", {"input": "x"}),
    "cohere chat": ("/v2/chat", MESSAGES),
}
STREAMS: dict[str, tuple[str, dict[str, Any]]] = {
    "chat": ("/v1/chat/completions", {**MESSAGES, "stream": True}),
    "completion": ("/v1/completions", {"prompt": "x", "stream": True}),
    "generate": ("/generate", {"prompt": "x", "stream": True}),
    "ollama chat": ("/api/chat", MESSAGES),
    "ollama generate": ("/api/generate", {"prompt": "x"}),
    "cohere chat": ("/v2/chat", {**MESSAGES, "stream": True}),
}


def sections(up: Upstream) -> dict[str, Any]:
    """The model ``bench`` has two deployments, so that another attempt would have where to go."""
    provider = {"kind": "openai", "base_url": up.url, "api_key": "sk-upstream"}
    deployments = [{"provider": name, "model": "theirs"} for name in ("up0", "up1")]
    models = {"bench": {"deployments": deployments}, "other": {"deployments": deployments}}
    models["bench"]["fallbacks"] = ["other"]  # type: ignore[assignment]
    return {"llm": {"providers": {"up0": provider, "up1": provider}, "models": models, "routing": PATIENT}}


@pytest.fixture(autouse=True)
def all_ends(running: Running, up: Upstream) -> Any:
    """After each test the gateway has no request, no connection but those of the test's own session, and no task of
    either: whoever has left, left nothing behind."""
    yield
    until = time.monotonic() + 10
    while tasks := _tasks(running):
        assert time.monotonic() < until, "\n".join(tasks)
        time.sleep(0.01)


_AT_REST = {
    *("Server.serve", "LifespanOn.main", "Authenticator.follow", "follow_captures"),
    *("AuditUpkeep.run", "BudgetUpkeep._run", "KeptResponses.keep_purged", "StoreUpkeep.run"),
}
"""The server's own task, that of its lifespan, and what goes on as long as the gateway does."""


def _tasks(running: Running) -> list[str]:
    """What runs beside the tasks of a gateway at rest."""

    async def names() -> list[str]:
        others = asyncio.all_tasks() - {asyncio.current_task()}
        running = (task.get_coro().__qualname__ for task in others)
        return [name for name in running if name not in _AT_REST]

    return asyncio.run_coroutine_threadsafe(names(), running.edge.app.state.gateway.loop).result(10)


def left_with(running: Running) -> float:
    """How many requests were counted as those of clients that left."""
    for line in running.get("/metrics").text.splitlines():
        if line.startswith('sage_requests_total{model="bench",status="499"}'):
            return float(line.rpartition(" ")[2])
    return 0.0


def check_ended(running: Running, up: Upstream, before: float, left: float, requests: int = 1) -> None:
    """The one call upstream was closed at once, was counted as given up, and no other followed it."""
    closed_at = up.wait_closed(10, index=0).closed_at
    assert closed_at is not None
    assert closed_at - left < SOON
    until = time.monotonic() + 10
    while left_with(running) < before + requests:
        assert time.monotonic() < until
        time.sleep(0.01)
    assert 'sage_requests_in_flight{model="bench"} 0.0' in running.get("/metrics").text
    assert len(up.requests) == requests


@pytest.mark.parametrize("seconds", [0.0, 0.1])
@pytest.mark.parametrize("call", [*CALLS, *(f"{name}, streamed" for name in STREAMS)])
def test_who_leaves_before_the_first_byte_ends_the_call(
    running: Running, up: Upstream, call: str, seconds: float
) -> None:
    """Also within the first milliseconds, before watching over a call has begun under another server than ours."""
    name, _, streamed = call.partition(",")
    path, body = (STREAMS if streamed else CALLS)[name]
    up.use(Script(((0.0, _HEAD),), gate=threading.Event()))
    before = left_with(running)
    with asking(running, path, **body):
        up.wait_requests(1)
        time.sleep(seconds)
    check_ended(running, up, before, time.monotonic())


@pytest.mark.each_transport
@pytest.mark.parametrize("how", ["closes", "resets"])
@pytest.mark.parametrize("call", STREAMS)
def test_who_leaves_in_mid_stream_ends_the_call(running: Running, up: Upstream, call: str, how: str) -> None:
    path, body = STREAMS[call]
    pieces = [{**chat_chunk("one"), "choices": [{"index": 0, "text": "one", "delta": {"content": "one"}}]}] * 2
    up.use(stream(pieces, gate=threading.Event()))
    before = left_with(running)
    with asking(running, path, **body) as sock:
        got = b""
        while b"one" not in got:
            got += sock.recv(65536)
        if how == "resets":
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    check_ended(running, up, before, time.monotonic())


def test_who_leaves_during_an_upload_asks_nothing(running: Running, up: Upstream) -> None:
    host, port = running.url.removeprefix("http://").split(":")
    head = f"POST /v1/chat/completions HTTP/1.1\r\nhost: x\r\nauthorization: Bearer {running.key}\r\n"
    for size in (0, 10, 3_000_000):
        with socket.create_connection((host, int(port)), timeout=10) as sock:
            sock.sendall(f"{head}content-length: 4000000\r\n\r\n".encode() + b'{"model":"bench",'[:size] + b" " * size)
    until = time.monotonic() + 10
    while running.server.server_state.tasks:
        assert time.monotonic() < until
        time.sleep(0.01)
    assert up.requests == []
    assert running.chat().status_code == 200


def test_who_leaves_with_requests_behind_the_running_one_ends_it_and_starts_none(
    running: Running, up: Upstream
) -> None:
    up.use(stream([chat_chunk("one"), chat_chunk("two")], gate=threading.Event()))
    before = left_with(running)
    body = json.dumps({"model": "bench", **MESSAGES}).encode()
    behind = f"POST /v1/chat/completions HTTP/1.1\r\nhost: x\r\nauthorization: Bearer {running.key}\r\n"
    with asking(running, **MESSAGES, stream=True) as sock:
        sock.sendall((f"{behind}content-length: {len(body)}\r\n\r\n".encode() + body) * 4)
        got = b""
        while b"one" not in got:
            got += sock.recv(65536)
    check_ended(running, up, before, time.monotonic())


@pytest.mark.parametrize("streamed", [False, True])
def test_who_leaves_between_two_attempts_gets_no_second_one(running: Running, up: Upstream, streamed: bool) -> None:
    """Each upstream fails a moment after its client has left: nobody waits for another attempt."""
    gate = threading.Event()
    up.handler = lambda request: Script(((0.0, b"HTTP/1.1 503 Busy\r\ncontent-length: 0\r\n\r\n"),), gate=gate)
    with ExitStack() as stack:
        for _ in range(20):
            stack.enter_context(asking(running, **MESSAGES, stream=streamed))
        up.wait_requests(20)
        threading.Timer(0.005, gate.set).start()
    until = time.monotonic() + 10
    while running.server.server_state.tasks:
        assert time.monotonic() < until
        time.sleep(0.01)
    assert len(up.requests) == 20


@pytest.mark.each_transport
def test_an_answer_that_comes_as_its_client_leaves_is_somebodys_or_nobodys(running: Running, up: Upstream) -> None:
    """Answers and departures meet at every moment; those that stay have their own answers."""

    def handler(request: Received) -> Script:
        text = request.body["messages"][-1]["content"]
        return stream([chat_chunk(text), chat_chunk(None, "stop")], delay=0.001 * (len(up.requests) % 7))

    up.handler = handler
    for number in range(60):
        with asking(running, messages=[{"role": "user", "content": f"gone {number}"}], stream=True):
            time.sleep(0.001 * (number % 12))
        answer = running.chat(messages=[{"role": "user", "content": f"here {number}"}], stream=True)
        assert answer.status_code == 200
        assert f'"here {number}"' in answer.text
        assert "gone" not in answer.text
        assert answer.text.endswith("data: [DONE]\n\n")
