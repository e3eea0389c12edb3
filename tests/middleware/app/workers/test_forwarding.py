"""A request that a front forwards is for the application what it was for the front, piece by piece."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Awaitable, Callable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sage.middleware.app.workers.forwarded_requests import ForwardedConnection
from sage.middleware.app.workers.forwarding import Forwarder
from sage.middleware.app.workers.frames import FrameProtocol, body_frames, frame
from sage.middleware.app.workers.passed_sockets import PassedSockets
from sage.middleware.app.workers.shared_metrics import FamilyMetrics
from sage.middleware.gateway.metrics import ModelMetrics, RetrievalMetrics
from sage.middleware.providers.base import Usage

Message = dict[str, Any]
App = Callable[..., Awaitable[None]]
SCOPE = {
    "type": "http",
    "method": "POST",
    "path": "/kv/ä",
    "raw_path": b"/kv/%C3%A4",
    "query_string": b"a=1",
    "headers": [(b"host", b"x"), (b"x-twice", b"1"), (b"x-twice", b"2")],
    "http_version": "1.1",
    "scheme": "http",
    "client": ("192.0.2.7", 4000),
    "server": ("127.0.0.1", 8000),
}


class Frames(FrameProtocol):
    def __init__(self) -> None:
        super().__init__()
        self.seen: list[tuple[int, bytes]] = []

    def frame_received(self, kind: int, payload: bytes) -> None:
        self.seen.append((kind, payload))


@given(st.lists(st.tuples(st.integers(0, 255), st.binary(max_size=40)), max_size=8), st.data())
def test_frames_come_as_they_were_sent_however_they_are_cut(sent: list[tuple[int, bytes]], data: st.DataObject) -> None:
    stream = b"".join(frame(kind, payload) for kind, payload in sent)
    protocol, position = Frames(), 0
    while position < len(stream):
        step = data.draw(st.integers(1, len(stream) - position))
        protocol.data_received(stream[position : position + step])
        position += step
    assert protocol.seen == sent


def test_a_long_body_is_cut_into_frames() -> None:
    protocol, body = Frames(), bytes(range(256)) * 4096
    for each in body_frames(2, body):
        protocol.data_received(each)
    assert b"".join(payload for _, payload in protocol.seen) == body
    assert len(protocol.seen) == 4
    assert body_frames(2, b"") == []


class Pair:
    """A front's forwarder and an owner's application, over real sockets in one loop."""

    def __init__(self, app: App) -> None:
        loop = asyncio.get_running_loop()
        doorway, other = socket.socketpair()
        self.tasks: set[asyncio.Task[None]] = set()
        self.connections = 0
        self._adopting: set[asyncio.Task[Any]] = set()

        def taken(sock: socket.socket) -> None:
            self.connections += 1
            sock.setblocking(False)
            adopted = loop.create_unix_connection(lambda: ForwardedConnection(app, 1, self.tasks), sock=sock)
            self._adopting.add(loop.create_task(adopted))

        self._passed = PassedSockets(other, taken)
        self.forwarder = Forwarder(doorway)

    async def ask(
        self, *body: bytes, scope: dict[str, Any] = SCOPE, leave: asyncio.Event | None = None
    ) -> list[Message]:
        """The messages of the answer to a request whose body comes in these pieces."""
        parts = [{"type": "http.request", "body": part, "more_body": True} for part in body]
        parts.append({"type": "http.request", "body": b"", "more_body": False})
        sent: list[Message] = []

        async def receive() -> Message:
            if parts:
                return parts.pop(0)
            await (leave or asyncio.Event()).wait()
            return {"type": "http.disconnect"}

        async def send(message: Message) -> None:
            sent.append(message)

        await self.forwarder.forward(dict(scope), receive, send)
        return sent

    def close(self) -> None:
        self.forwarder.close()
        self._passed.close()


async def read(receive: Any) -> bytes:
    body = b""
    while True:
        message = await receive()
        body += message.get("body", b"")
        if not message.get("more_body"):
            return body


async def echo(scope: dict[str, Any], receive: Any, send: Any) -> None:
    body = await read(receive)
    await send({"type": "http.response.start", "status": 201, "headers": [(b"x-path", scope["path"].encode())]})
    for start in range(0, len(body), 100_000):
        await send({"type": "http.response.body", "body": body[start : start + 100_000], "more_body": True})
    await send({"type": "http.response.body", "body": b""})


def run(app: App, work: Callable[[Pair], Awaitable[None]]) -> None:
    async def main() -> None:
        pair = Pair(app)
        try:
            await asyncio.wait_for(work(pair), 20)
        finally:
            pair.close()
            await asyncio.sleep(0)

    asyncio.run(main())


def test_the_application_sees_the_request_as_it_came() -> None:
    seen: list[dict[str, Any]] = []

    async def app(scope: dict[str, Any], receive: Any, send: Any) -> None:
        seen.append(dict(scope))
        await echo(scope, receive, send)

    async def work(pair: Pair) -> None:
        sent = await pair.ask(b"one", b"two")
        assert sent[0] == {
            "type": "http.response.start",
            "status": 201,
            "headers": [(b"x-path", "/kv/ä".encode())],
        }
        assert b"".join(message["body"] for message in sent[1:]) == b"onetwo"
        assert sent[-1] == {"type": "http.response.body", "body": b""}
        assert {name: seen[0][name] for name in SCOPE} == SCOPE
        assert seen[0]["state"] == {"log": {"worker": 1}}

    run(app, work)


def test_large_bodies_and_many_requests_go_over_few_connections() -> None:
    async def work(pair: Pair) -> None:
        large = bytes(range(256)) * 20_000
        for body in (large, b"", large[:1000]) * 3:
            sent = await pair.ask(body[: len(body) // 2], body[len(body) // 2 :])
            assert b"".join(message["body"] for message in sent[1:]) == body
        assert pair.connections == 1
        bodies = [b"%d" % number * 1000 for number in range(20)]
        answers = await asyncio.gather(*(pair.ask(body) for body in bodies))
        assert [b"".join(message["body"] for message in sent[1:]) for sent in answers] == bodies
        assert pair.connections <= 20

    run(echo, work)


def test_an_answer_before_the_end_of_the_body_ends_the_connection_and_not_the_next_request() -> None:
    async def refuse(scope: dict[str, Any], receive: Any, send: Any) -> None:
        if scope["path"] == "/refused":
            await send({"type": "http.response.start", "status": 413, "headers": []})
            await send({"type": "http.response.body", "body": b"no"})
        else:
            await echo(scope, receive, send)

    async def work(pair: Pair) -> None:
        for _ in range(3):
            sent = await pair.ask(*[bytes(200_000)] * 20, scope={**SCOPE, "path": "/refused"})
            assert sent[0]["status"] == 413
            sent = await pair.ask(b"next")
            assert b"".join(message["body"] for message in sent[1:]) == b"next"

    run(refuse, work)


def test_a_whole_answer_in_one_message_arrives() -> None:
    async def app(scope: dict[str, Any], receive: Any, send: Any) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": [], "body": b"whole"})

    async def work(pair: Pair) -> None:
        for _ in range(2):
            sent = await pair.ask()
            assert [message.get("body", b"") for message in sent] == [b"", b"whole", b""]
        assert pair.connections == 1

    run(app, work)


def test_a_body_is_asked_for_only_when_the_application_wants_it() -> None:
    asked: list[str] = []

    async def app(scope: dict[str, Any], receive: Any, send: Any) -> None:
        asked.append("begun")
        if scope["path"] == "/reads":
            await read(receive)
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b""})

    async def work(pair: Pair) -> None:
        for path, wants in (("/refuses", False), ("/reads", True)):
            reading: list[str] = []

            async def receive(reading: list[str] = reading) -> Message:
                reading.append("asked")
                if len(reading) > 1:
                    await asyncio.Event().wait()
                return {"type": "http.request", "body": b"x", "more_body": False}

            async def send(message: Message) -> None:
                pass

            scope = {**SCOPE, "path": path, "headers": [(b"expect", b"100-continue")]}
            await pair.forwarder.forward(scope, receive, send)
            assert bool(reading) is wants

    run(app, work)


def test_a_client_that_leaves_is_known_to_the_application_at_once() -> None:
    left = asyncio.Event()

    async def app(scope: dict[str, Any], receive: Any, send: Any) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b"first", "more_body": True})
        await read(receive)
        called: list[bool] = []
        scope["sage.exchange"].on_disconnect = lambda: called.append(True)
        assert (await receive())["type"] == "http.disconnect"
        assert called == [True]
        left.set()

    async def work(pair: Pair) -> None:
        leave = asyncio.Event()
        asyncio.get_running_loop().call_later(0.05, leave.set)
        sent = await pair.ask(b"x", leave=leave)
        assert [message["type"] for message in sent] == ["http.response.start", "http.response.body"]
        await left.wait()

    run(app, work)


def test_an_application_that_fails_midway_never_ends_an_answer() -> None:
    async def app(scope: dict[str, Any], receive: Any, send: Any) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b"half", "more_body": True})
        raise RuntimeError("scripted")

    async def work(pair: Pair) -> None:
        sent = await pair.ask()
        assert [message.get("more_body") for message in sent[1:]] == [True]

    run(app, work)


def test_an_owner_that_is_gone_is_an_error() -> None:
    async def work(pair: Pair) -> None:
        pair.close()
        sent: list[Message] = []

        async def send(message: Message) -> None:
            sent.append(message)

        async def receive() -> Message:
            return {"type": "http.disconnect"}

        await pair.forwarder.forward(dict(SCOPE), receive, send)
        assert sent[0]["status"] == 503
        assert b"shutting_down" in sent[-1]["body"]

    run(echo, work)


@pytest.mark.parametrize("ends", [False, True])
def test_counts_of_fronts_are_added_and_stay_when_they_end(ends: bool) -> None:
    def counted(requests: int) -> dict[str, ModelMetrics]:
        metrics = ModelMetrics()
        metrics.in_flight = requests + 1
        for _ in range(requests):
            metrics.settle(200, 0.2, Usage(3, 4))
        return {"m": metrics}

    running = [counted(2)]
    family = FamilyMetrics(lambda: running)
    if ends:
        family.front_ended(running.pop(), RetrievalMetrics())
    own = counted(1)
    total = family.with_fronts(own)["m"]
    assert (total.statuses[200], total.prompt_tokens, total.completion_tokens) == (3, 9, 12)
    assert total.in_flight == (1 if ends else 2)
    assert sum(total.duration.counts) == 3
    assert total.duration.total == pytest.approx(0.6)
    assert own["m"].statuses[200] == 1, "what is added up is not changed"
