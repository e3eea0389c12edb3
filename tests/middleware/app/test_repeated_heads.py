"""Requests of a connection that have the head of the one before: what they are told is what a parser would tell."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from memory_connection import MemoryConnection

from sage.middleware.app.http.connections import Phase
from sage.middleware.app.http.repeated_head import LONGEST
from sage.middleware.routers.http.asgi import FIELDS, Receive, Scope, Send

HEAD = b"POST /x?a=%%62 HTTP/1.1\r\nHost: h\r\nContent-Length: %d\r\nX-Own: a\r\nx-own: b\r\n\r\n"
SEEN = ("client", "method", "path", "raw_path", "query_string", "headers", "http_version")


class Application:
    """Answers with the number of the request, and remembers what each has said."""

    def __init__(self) -> None:
        self.seen: list[dict[str, Any]] = []
        self.fields: list[Any] = []

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        exchange = scope["sage.exchange"]
        body = exchange.take_body()
        if body is None:
            body, more = b"", True
            while more:
                message = await receive()
                if message["type"] == "http.disconnect":
                    return
                body, more = body + message["body"], message["more_body"]
        assert dict(reversed(scope["headers"])) == scope[FIELDS]
        self.seen.append({name: scope[name] for name in SEEN} | {"body": body})
        self.fields.append(scope[FIELDS])
        if scope[FIELDS].digest is None:
            scope[FIELDS].digest = b"%d" % len(self.seen)
        await send({"type": "http.response.start", "status": 200, "headers": [], "body": b"%d" % len(self.seen)})


def request(body: bytes, head: bytes = HEAD) -> bytes:
    return head % len(body) + body


def seen_of(pieces: list[bytes], *, repeat: bool = True) -> tuple[Application, bytes]:
    """What the application was told of requests that come in ``pieces``, and what the client got."""
    app = Application()

    async def send() -> bytes:
        connection = MemoryConnection(app)
        for piece in pieces:
            if not repeat:
                connection.protocol._repeated = None
            await connection.send([piece], pause=4)
        got = await connection.settle()
        await connection.leave()
        return got

    return app, asyncio.run(send())


def test_the_same_head_is_known_again_and_its_bodies_are_their_own() -> None:
    bodies = [b"one", b"two", b"three", b"", b"four", b"x" * LONGEST, b"y" * (LONGEST + 1), b"five"]
    app, got = seen_of([request(body) for body in bodies])
    assert [seen["body"] for seen in app.seen] == bodies
    assert [dict(seen["headers"])[b"content-length"] for seen in app.seen] == [b"%d" % len(body) for body in bodies]
    assert got.count(b"HTTP/1.1 200 OK\r\n") == len(bodies)
    first, second, third = app.fields[:3]
    assert first is second is not third  # the same object, so what was found in it need not be found again


def test_a_head_is_known_on_another_connection_of_the_same_host_alone() -> None:
    app = Application()

    async def run() -> None:
        first = MemoryConnection(app)
        await first.send([request(b"one")], pause=4)
        second = MemoryConnection(app, ("10.0.0.1", 6), first.connections)
        await second.send([request(b"three")[:-2]], pause=4)
        assert second.protocol.waits_for() is Phase.BODY
        await second.send([b"ee", request(b"four")], pause=4)
        assert second.protocol.waits_for() is Phase.IDLE
        stranger = MemoryConnection(app, ("10.0.0.2", 6), first.connections)
        await stranger.send([request(b"five")], pause=4)
        third = MemoryConnection(app, ("10.0.0.1", 7), first.connections)
        third.protocol.shutdown()  # it closes, and nothing that comes now is a request
        third.protocol.data_received(request(b"nobody"))
        for connection in (third, stranger, second, first):
            await connection.leave()
        assert not first.connections.heads
        late = MemoryConnection(app, connections=first.connections)
        await late.send([request(b"six")], pause=4)
        await late.leave()

    asyncio.run(run())
    assert [seen["body"] for seen in app.seen] == [b"one", b"three", b"four", b"five", b"six"]
    assert [seen["client"] for seen in app.seen] == [
        *[("10.0.0.1", 5), ("10.0.0.1", 6), ("10.0.0.1", 6), ("10.0.0.2", 6), ("10.0.0.1", 5)]
    ]
    assert [dict(seen["headers"])[b"content-length"] for seen in app.seen] == [b"3", b"5", b"4", b"4", b"3"]
    # What was found in a head of the same lines is known; after the last connection of a host nothing is.
    assert [fields.digest for fields in app.fields] == [b"1", b"1", b"1", b"4", b"5"]


@pytest.mark.parametrize(
    "other",
    [
        b"GET /x?a=%%62 HTTP/1.1\r\nHost: h\r\nContent-Length: %d\r\nX-Own: a\r\nx-own: b\r\n\r\n",
        b"POST /y HTTP/1.1\r\nHost: h\r\nContent-Length: %d\r\nX-Own: a\r\nx-own: b\r\n\r\n",
        b"POST /x?a=%%62 HTTP/1.1\r\nHost: h\r\nContent-Length: %d\r\nX-Own: c\r\nx-own: b\r\n\r\n",
        b"POST /x?a=%%62 HTTP/1.1\r\nHost: h\r\nContent-Length: %d\r\nX-Own: a\r\n\r\n",
        b"POST /x?a=%%62 HTTP/1.1\r\nHost: h\r\nContent-Length: 00%d\r\nX-Own: a\r\nx-own: b\r\n\r\n",
        b"POST /x?a=%%62 HTTP/1.0\r\nHost: h\r\nContent-Length: %d\r\nX-Own: a\r\nx-own: b\r\n\r\n",
    ],
)
def test_another_head_is_parsed(other: bytes) -> None:
    pieces = [request(b"abc"), request(b"abc"), request(b"abc", other), request(b"abc")]
    app, got = seen_of(pieces)
    plain, expected = seen_of(pieces, repeat=False)
    assert (app.seen, got) == (plain.seen, expected)
    assert len(app.seen) == (3 if b"HTTP/1.0" in other else 4)


@pytest.mark.parametrize("length", [b"-3", b"+3", b"3 3", b"0x3", b"", b"9" * 30, b"3\r\nContent-Length: 3"])
def test_a_length_that_is_none_is_refused_as_ever(length: bytes) -> None:
    bad = request(b"abc").replace(b"Content-Length: 3", b"Content-Length: " + length)
    app, got = seen_of([request(b"abc"), request(b"abc"), bad])
    assert len(app.seen) == 2
    assert seen_of([request(b"abc"), request(b"abc"), bad], repeat=False)[1] == got


HEADS = [
    b"GET /get HTTP/1.1\r\nHost: h\r\n\r\n",
    b"POST /a HTTP/1.1\r\nHost: h\r\nContent-Length: %d\r\nAuthorization: Bearer ann\r\n\r\n",
    b"POST /b HTTP/1.1\r\nHost: h\r\nContent-Length: %d\r\nAuthorization: Bearer eve\r\n\r\n",
    b"POST /c HTTP/1.1\r\nAuthorization: Bearer bob\r\nContent-Length: %d\r\nHost: h\r\n\r\n",
    b"\r\n\r\nPOST /d HTTP/1.1\r\nHost: h\r\nContent-Length: %d\r\n\r\n",
]


@pytest.mark.parametrize("first", range(5))
@pytest.mark.parametrize("second", range(5))
def test_heads_that_come_together_are_not_taken_for_each_other(first: int, second: int) -> None:
    def sent(number: int, body: bytes) -> bytes:
        return HEADS[number].replace(b"%d", b"%d" % len(body)) + (body if number else b"")

    long = b"\r\n0" * 100
    start = sent(first, b"x")
    together = start + sent(second, long)
    for cut in (len(start), len(start) + 9, len(together) - len(long) + 1, len(together) - 7, len(together)):
        alone = [sent(first, b"y"), sent(second, b"z"), sent(second, b"z"), sent(first, b"y")]
        pieces = [piece for piece in (together[:cut], together[cut:], *alone) if piece]
        app, got = seen_of(pieces)
        plain, expected = seen_of(pieces, repeat=False)
        assert (app.seen, got) == (plain.seen, expected)
        assert len(app.seen) == 6


@settings(max_examples=150, deadline=None)
@given(st.lists(st.sampled_from([b"abc", b"abcd", b"", b"\r\n\r\n", b"POST /"]), min_size=1, max_size=6), st.data())
def test_however_the_bytes_come_the_requests_are_the_same(bodies: list[bytes], data: st.DataObject) -> None:
    whole = b"".join(map(request, bodies))
    cuts = sorted(data.draw(st.sets(st.integers(1, len(whole) - 1), max_size=8)))
    ends = [0]
    for body in bodies:
        ends.append(ends[-1] + len(request(body)))
    if data.draw(st.booleans()):
        cuts = sorted({*cuts, *ends[1:-1]})  # most clients write one request at a time
    pieces = [whole[start:end] for start, end in zip([0, *cuts], [*cuts, len(whole)], strict=True)]
    app, got = seen_of(pieces)
    assert [seen["body"] for seen in app.seen] == bodies
    plain, expected = seen_of(pieces, repeat=False)
    assert (app.seen, got) == (plain.seen, expected)
