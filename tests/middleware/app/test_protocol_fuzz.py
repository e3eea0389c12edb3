"""Streams of requests, cut at any byte, sent and read in any pieces: the answers are those of the whole stream."""

from __future__ import annotations

import asyncio
import hashlib
import json
import os
from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from memory_connection import MemoryConnection

from sage.middleware.routers.http.asgi import Message, Receive, Scope, Send

pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore:Generating overly large repr")]
EXAMPLES = 2_000 if os.environ.get("SAGE_TEST_FULL") else 60
INTERIM = b"HTTP/1.1 100 Continue\r\n\r\n"


async def echo(scope: Scope, receive: Receive, send: Send) -> None:
    """Answers with what it was asked; the path says whether it reads the body first, and how it answers."""
    body, more = b"", scope["path"] != "/early"
    while more:
        message = await receive()
        if message["type"] == "http.disconnect":
            return
        body, more = body + message["body"], message["more_body"]
    said = {
        "method": scope["method"],
        "path": scope["path"],
        "query": scope["query_string"].decode(),
        "body": hashlib.sha256(body).hexdigest(),
        "headers": [f"{name.decode()}: {value.decode()}" for name, value in scope["headers"]],
    }
    answer = json.dumps(said).encode()
    if scope["path"] == "/parts":
        await send({"type": "http.response.start", "status": 200, "headers": []})
        for start in range(0, len(answer), 50):
            await send({"type": "http.response.body", "body": answer[start : start + 50], "more_body": True})
            await asyncio.sleep(0)
        await send({"type": "http.response.body"})
        return
    headers = [(b"content-length", b"%d" % len(answer))]
    start: Message = {"type": "http.response.start", "status": 200, "headers": headers}
    if scope["path"] == "/whole":
        await send({**start, "body": answer})
    else:
        await send(start)
        await send({"type": "http.response.body", "body": answer})


@dataclass
class Sent:
    """A request, and what its answer has to say."""

    method: str
    path: str
    query: str
    body: bytes = field(repr=False)
    chunks: list[int] | None
    fields: list[tuple[str, str]]
    trailers: list[tuple[str, str]] = field(default_factory=list)
    is_last: bool = False
    expects: bool = False

    def headers(self) -> list[tuple[str, str]]:
        headers = [("Host", "x"), *self.fields]
        if self.chunks is not None:
            headers.append(("Transfer-Encoding", "chunked"))
        elif self.body or self.method == "POST":
            headers.append(("Content-Length", str(len(self.body))))
        if self.is_last:
            headers.append(("Connection", "close"))
        if self.expects:
            headers.append(("Expect", "100-continue"))
        return headers

    def data(self) -> bytes:
        target = self.path + (f"?{self.query}" if self.query else "")
        head = f"{self.method} {target} HTTP/1.1\r\n" + "".join(f"{n}: {v}\r\n" for n, v in self.headers())
        return head.encode() + b"\r\n" + (self.body if self.chunks is None else self._chunked(self.chunks))

    def _chunked(self, sizes: list[int]) -> bytes:
        data, rest = b"", self.body
        for size in [*sizes, len(rest)]:
            chunk, rest = rest[:size], rest[size:]
            if chunk:
                data += b"%x;ext=1\r\n%b\r\n" % (len(chunk), chunk)
        return data + b"0\r\n" + "".join(f"{n}: {v}\r\n" for n, v in self.trailers).encode() + b"\r\n"

    def expected(self) -> dict[str, Any]:
        body = b"" if self.path == "/early" else self.body
        return {
            "method": self.method,
            "path": self.path,
            "query": self.query,
            "body": hashlib.sha256(body).hexdigest(),
            "headers": [f"{name.lower()}: {value}" for name, value in self.headers()],
        }


def answers_in(data: bytes, methods: list[str]) -> Iterator[tuple[int, dict[str, str], bytes]]:
    """The answers to requests of these methods; interim ones are left out. Whatever is no whole answer fails."""
    for method in methods:
        while data.startswith(INTERIM):
            data = data.removeprefix(INTERIM)
        if not data:
            return
        head, end, data = data.partition(b"\r\n\r\n")
        assert end
        line, *lines = head.decode().split("\r\n")
        assert line.startswith("HTTP/1.1 ")
        headers = dict(line.split(": ", 1) for line in lines)
        body = b""
        if method == "HEAD":
            pass
        elif headers.get("transfer-encoding") == "chunked":
            size = 1
            while size:
                length, _, data = data.partition(b"\r\n")
                size = int(length, 16)
                assert data[size : size + 2] == b"\r\n"
                body, data = body + data[:size], data[size + 2 :]
        else:
            size = int(headers["content-length"])
            assert len(data) >= size
            body, data = data[:size], data[size:]
        yield int(line.split()[1]), headers, body
    assert data == b""


words = st.text("abcXYZ019-_.", min_size=1, max_size=12)
fields = st.lists(st.tuples(words.map("X-".__add__), words), max_size=3)
bodies = st.one_of(st.binary(max_size=40), st.integers(0, 150_000).map(lambda size: b"\r\n0" * (size // 3)))


@st.composite
def requests(draw: st.DrawFn) -> Sent:
    method = draw(st.sampled_from(["GET", "POST", "POST", "PUT", "HEAD"]))
    body = draw(bodies) if method in ("POST", "PUT") else b""
    chunked = method in ("POST", "PUT") and draw(st.booleans())
    return Sent(
        method,
        draw(st.sampled_from(["/two", "/whole", "/parts", "/early"])),
        draw(st.sampled_from(["", "a=1", "a=%20&b"])),
        body,
        draw(st.lists(st.integers(1, 60_000), max_size=4)) if chunked else None,
        draw(fields),
        draw(fields) if chunked else [],
        expects=method in ("POST", "PUT") and draw(st.booleans()),
    )


@dataclass
class Cutting:
    """How a stream comes and goes: where it is cut, turns of the loop between pieces, bytes read at a turn."""

    places: list[float]
    pause: int
    reads: int

    def pieces(self, data: bytes) -> list[bytes]:
        cuts = sorted({0, len(data), *(int(place * len(data)) for place in self.places)})
        return [data[start:end] for start, end in pairwise(cuts)]


cuttings = st.builds(
    Cutting,
    st.lists(st.floats(0, 1), max_size=12),
    st.integers(0, 3),
    st.sampled_from([2**30, 5000, 997]),
)


async def exchange(pieces: list[bytes], pause: int, reads: int) -> bytes:
    connection = MemoryConnection(echo)
    await connection.send(pieces, pause=pause, reads=reads)
    got = await connection.settle(reads)
    await connection.leave()
    return got


def check_all_answered(sent: list[Sent], got: bytes) -> None:
    answers = list(answers_in(got, [request.method for request in sent]))
    assert len(answers) == len(sent)
    for request, (status, headers, body) in zip(sent, answers, strict=True):
        assert status == 200
        assert headers["date"] == "now"
        assert ("connection" in headers) is request.is_last
        if request.method != "HEAD":
            assert json.loads(body) == request.expected()


@settings(max_examples=EXAMPLES)
@given(st.lists(requests(), min_size=1, max_size=6), cuttings, st.booleans())
def test_answers_do_not_depend_on_how_requests_are_cut(sent: list[Sent], cutting: Cutting, ends: bool) -> None:
    sent[-1].is_last = ends
    data = b"".join(request.data() for request in sent)
    got = asyncio.run(exchange(cutting.pieces(data), cutting.pause, cutting.reads))
    check_all_answered(sent, got)
    assert got.count(INTERIM) == sum(request.expects and request.path != "/early" for request in sent)


@settings(max_examples=max(10, EXAMPLES // 10))
@given(st.lists(requests(), min_size=1, max_size=3), st.sampled_from([1, 7]))
def test_one_byte_at_a_time(sent: list[Sent], reads: int) -> None:
    for request in sent:
        request.body = request.body[:300]
    data = b"".join(request.data() for request in sent)
    check_all_answered(sent, asyncio.run(exchange([data[i : i + 1] for i in range(len(data))], 1, reads)))


broken = st.sampled_from(
    [
        b"\x00nonsense\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost : x\r\n\r\n",
        b"GET / HTTP/3.1\r\nHost: x\r\n\r\n",
        b"GET /two HTTP/1.1\r\nHost: x\r\nX: a\x00b\r\n\r\n",
        b"GET /two HTTP/1.1\r\nHost: x\r\nUpgrade: websocket\r\n\r\n",
        b"POST /two HTTP/1.1\r\nHost: x\r\nContent-Length: 3\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        b"POST /two HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nabc\r\n0\r\n\r\n",
        b"POST /parts HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n",
        b"POST /two HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: gzip\r\n\r\n",
        b"GET /two HTTP/1.1\r\nHost: x\r\nX-Pad: " + b"y" * 70_000 + b"\r\n\r\n",
    ]
)


@settings(max_examples=EXAMPLES)
@given(st.lists(requests(), max_size=4), broken, st.lists(requests(), max_size=2), cuttings)
def test_what_is_broken_costs_no_answer_before_it(
    sent: list[Sent], wrong: bytes, behind: list[Sent], cutting: Cutting
) -> None:
    """What is whole and runs is answered, the fault too unless the connection closes before; nothing behind it is.

    An answer that is sent in parts is cut off instead, so there is none here.
    """
    for request in sent:
        request.path = request.path.replace("/parts", "/two")
    data = b"".join(request.data() for request in sent) + wrong + b"".join(request.data() for request in behind)
    got = asyncio.run(exchange(cutting.pieces(data), cutting.pause, cutting.reads))
    answers = list(answers_in(got, [*(request.method for request in sent), "GET"]))
    good = answers[: len(sent)]
    if len(answers) <= len(sent):  # cut off behind a whole request, whose answer says so
        assert good[-1][1]["connection"] == "close"
        assert good[-1][0] == 200
    else:
        status, headers, body = answers[-1]
        assert status in (400, 431)
        assert headers["connection"] == "close"
        assert json.loads(body)["error"]["code"]
    for request, (status, _, body) in zip(sent, good, strict=False):
        assert status == 200
        if request.method != "HEAD":
            assert json.loads(body) == request.expected()


@settings(max_examples=EXAMPLES)
@given(st.lists(requests(), min_size=1, max_size=4), cuttings, st.floats(0, 1))
def test_a_client_may_leave_at_any_byte(sent: list[Sent], cutting: Cutting, place: float) -> None:
    """No task and no connection stay; `leave` asserts it."""
    data = b"".join(request.data() for request in sent)
    data = data[: int(place * len(data))]
    asyncio.run(exchange(cutting.pieces(data), cutting.pause, cutting.reads))
