"""One request and its answer, as an application sees them: what it may send, what it is told, and when it waits."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any

import pytest
from memory_connection import HIGH_WATER, MemoryConnection

from sage.middleware.routers.http.asgi import ASGIApp, Headers, Message, Receive, Scope, Send

GET = b"GET /x HTTP/1.1\r\nHost: x\r\n\r\n"
POST = b"POST /x HTTP/1.1\r\nHost: x\r\n"


def start(headers: Headers, status: int = 200) -> Message:
    return {"type": "http.response.start", "status": status, "headers": headers}


def body(data: bytes, *, more: bool = False) -> Message:
    return {"type": "http.response.body", "body": data, "more_body": more}


def sends(*messages: Message) -> ASGIApp:
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        for message in messages:
            await send(dict(message))

    return app


def answer_to(app: ASGIApp, *requests: bytes) -> tuple[bytes, bool]:
    """What the client gets, and whether the connection is then closed."""

    async def ask() -> tuple[bytes, bool]:
        connection = MemoryConnection(app)
        await connection.send(requests)
        got = await connection.settle()
        closing = connection.transport.closing
        await connection.leave()
        return got, closing

    return asyncio.run(ask())


def within(test: Callable[[], Coroutine[Any, Any, None]]) -> None:
    asyncio.run(asyncio.wait_for(test(), 10))


def test_an_answer_in_one_message_or_in_two_is_the_same() -> None:
    own, length = (b"x-a", b"b\tc"), (b"content-length", b"2")
    expected = b"HTTP/1.1 201 Created\r\ndate: now\r\nx-a: b\tc\r\ncontent-length: 2\r\n\r\nok"
    assert answer_to(sends(start([own, length], 201), body(b"ok")), GET) == (expected, False)
    assert answer_to(sends({**start([own], 201), "body": b"ok"}), GET) == (expected, False)


def test_an_answer_in_one_message_to_HEAD_and_on_a_connection_that_ends() -> None:
    whole = {**start([], 200), "body": b"ok"}
    head = b"HTTP/1.1 200 OK\r\ndate: now\r\ncontent-length: 2\r\n"
    assert answer_to(sends(whole), GET.replace(b"GET", b"HEAD")) == (head + b"\r\n", False)
    closing = GET.replace(b"\r\n\r\n", b"\r\nConnection: close\r\n\r\n")
    assert answer_to(sends(whole), closing) == (head + b"connection: close\r\n\r\nok", True)


def test_an_answer_of_unknown_length_is_chunked() -> None:
    parts = [body(data, more=True) for data in (b"abc", b"", b"0123456789abcdefg")]
    app = sends(start([]), *parts, body(b""))
    got, closed = answer_to(app, GET)
    head, _, rest = got.partition(b"\r\n\r\n")
    assert head == b"HTTP/1.1 200 OK\r\ndate: now\r\ntransfer-encoding: chunked"
    assert rest == b"3\r\nabc\r\n11\r\n0123456789abcdefg\r\n0\r\n\r\n"
    assert not closed


def test_chunks_that_the_application_announces_are_announced_once() -> None:
    got, _ = answer_to(sends(start([(b"transfer-encoding", b"chunked")]), body(b"abc")), GET)
    assert got.count(b"transfer-encoding: chunked\r\n") == 1
    assert got.endswith(b"\r\n\r\n3\r\nabc\r\n0\r\n\r\n")


def test_http_1_0_knows_no_chunks_and_ends_with_the_connection() -> None:
    request = b"GET /x HTTP/1.0\r\nConnection: keep-alive\r\n\r\n"
    got, closed = answer_to(sends(start([]), body(b"abc", more=True), body(b"def")), request)
    assert got == b"HTTP/1.1 200 OK\r\ndate: now\r\nconnection: close\r\n\r\nabcdef"
    assert closed


@pytest.mark.parametrize("status", [204, 304])
def test_an_answer_that_has_no_body_announces_none(status: int) -> None:
    got, closed = answer_to(sends(start([], status), body(b"")), GET)
    assert got.endswith(b"date: now\r\n\r\n")
    assert not closed


def test_the_answer_to_head_keeps_its_length_and_has_no_body() -> None:
    app = sends(start([(b"content-length", b"3")]), body(b"abc"))
    got, closed = answer_to(app, b"HEAD /x HTTP/1.1\r\nHost: x\r\n\r\n")
    assert got == b"HTTP/1.1 200 OK\r\ndate: now\r\ncontent-length: 3\r\n\r\n"
    assert not closed


@pytest.mark.parametrize("said", [b"close", b"Close", b"keep-alive, close"])
def test_the_application_may_close_the_connection(said: bytes) -> None:
    got, closed = answer_to(sends(start([(b"connection", said), (b"content-length", b"0")]), body(b"")), GET)
    assert closed
    assert got.count(b"connection: ") == 1


FAILED = b"Internal Server Error"
LENGTH_3 = start([(b"content-length", b"3")])


async def raises(scope: Scope, receive: Receive, send: Send) -> None:
    raise ValueError("on purpose")


@pytest.mark.parametrize(
    "app",
    [
        raises,
        sends(),
        sends(body(b"x")),
        sends(start([(b"x-a", b"b\r\nset-cookie: c")])),
        sends(start([(b"x-a", b"b\x00")])),
        sends(start([(b"x-a\n", b"b")])),
        sends(start([(b"content-length", b"many")])),
    ],
)
def test_what_fails_before_the_answer_is_an_answer(app: ASGIApp) -> None:
    got, closed = answer_to(app, GET)
    assert got.startswith(b"HTTP/1.1 500 Internal Server Error\r\n")
    assert got.endswith(b"\r\n\r\n" + FAILED)
    assert b"set-cookie" not in got
    assert b"x-a" not in got
    assert closed


@pytest.mark.parametrize(
    ("messages", "rest"),
    [
        ([LENGTH_3], b""),
        ([LENGTH_3, body(b"ab", more=True)], b"ab"),
        ([LENGTH_3, body(b"ab")], b"ab"),
        ([LENGTH_3, body(b"ab", more=True), body(b"cd")], b"ab"),
        ([LENGTH_3, LENGTH_3], b""),
        ([start([]), body(b"ab", more=True)], b"2\r\nab\r\n"),
    ],
)
def test_an_answer_that_breaks_is_cut_off_and_never_ended(messages: list[Message], rest: bytes) -> None:
    got, closed = answer_to(sends(*messages), GET, GET)
    assert got.startswith(b"HTTP/1.1 200 OK\r\n")
    assert got.partition(b"\r\n\r\n")[2] == rest
    assert closed


def test_nothing_follows_an_answer() -> None:
    got, closed = answer_to(sends(LENGTH_3, body(b"abc"), body(b"def")), GET)
    assert got.endswith(b"\r\n\r\nabc")
    assert not closed


def test_a_body_that_came_with_its_head_is_one_piece() -> None:
    seen: list[Message] = []

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        seen.append(await receive())
        await send({**start([]), "body": b"abc"})
        seen.append(await receive())

    answer_to(app, POST + b"Content-Length: 5\r\n\r\nhello")
    assert seen == [{"type": "http.request", "body": b"hello", "more_body": False}, {"type": "http.disconnect"}]


def test_a_head_in_two_pieces_is_not_taken_for_as_long_as_the_body_behind_it() -> None:
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        size, more = 0, True
        while more:
            message = await receive()
            size, more = size + len(message["body"]), message["more_body"]
        await send({**start([]), "body": b"%6d" % size})

    head = POST + b"Content-Length: 200000\r\n\r\n"
    got, closed = answer_to(app, head[:10], head[10:] + b"y" * 200_000)
    assert got.endswith(b"\r\n\r\n200000")
    assert not closed


def test_two_tasks_may_wait_for_the_client_and_one_may_give_up() -> None:
    async def test() -> None:
        ended: list[str] = []

        async def wait(receive: Receive, name: str) -> None:
            ended.append(name + (await receive())["type"])

        async def app(scope: Scope, receive: Receive, send: Send) -> None:
            await receive()
            first, second = (asyncio.create_task(wait(receive, name)) for name in ("1 ", "2 "))
            await asyncio.sleep(0)
            first.cancel()
            await second

        connection = MemoryConnection(app)
        await connection.send([GET], pause=5)
        await connection.leave()
        assert ended == ["2 http.disconnect"]

    within(test)


def test_the_application_hears_at_once_that_its_client_has_left_and_only_once() -> None:
    async def test() -> None:
        heard: list[bool] = []

        async def app(scope: Scope, receive: Receive, send: Send) -> None:
            exchange = scope["sage.exchange"]
            assert exchange.task is asyncio.current_task()
            exchange.on_disconnect = lambda: heard.append(exchange.disconnected)
            await asyncio.Event().wait() if scope["path"] == "/x" else await send({**start([]), "body": b"abc"})

        connection = MemoryConnection(app)
        await connection.send([GET.replace(b"/x", b"/answered"), GET, GET], pause=3)
        (task,) = connection.state.tasks
        connection.transport.abort()
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        assert heard == [True]
        task.cancel()
        await connection.leave()
        assert heard == [True]

    within(test)


def test_a_client_that_does_not_read_makes_the_application_wait() -> None:
    async def test() -> None:
        sent = 0

        async def app(scope: Scope, receive: Receive, send: Send) -> None:
            nonlocal sent
            await send(start([]))
            for _ in range(200):
                await send(body(b"x" * 10_000, more=True))
                sent += 1
            await send(body(b""))

        connection = MemoryConnection(app)
        await connection.send([GET], pause=50, reads=0)
        assert sent < 10
        assert len(connection.transport.buffer) < HIGH_WATER + 20_000
        got = await connection.settle(30_000)
        assert sent == 200
        assert got.count(b"x" * 10_000) == 200
        await connection.send([GET], pause=50, reads=0)
        assert connection.state.tasks
        await connection.leave()

    within(test)


def test_a_piece_is_written_at_once_only_where_the_client_reads_and_is_there() -> None:
    async def test() -> None:
        taken: list[int] = []
        go_on = asyncio.Event()

        async def app(scope: Scope, receive: Receive, send: Send) -> None:
            write = scope["sage.exchange"].write
            await send(start([]))
            await send(body(b"first", more=True))
            while write(b"z" * 10_000):
                pass
            taken.append(len(connection.transport.buffer))
            await send(body(b"after a wait", more=True))
            assert write(b"last")
            await go_on.wait()
            assert not write(b"to nobody")
            taken.append(len(connection.transport.buffer))

        connection = MemoryConnection(app)
        await connection.send([GET], pause=50, reads=0)
        assert HIGH_WATER < taken[0] < HIGH_WATER + 20_000
        got = await connection.settle(30_000)
        assert got.index(b"5\r\nfirst\r\n2710\r\nzzz") > 0
        assert got.endswith(b"zzz\r\nc\r\nafter a wait\r\n4\r\nlast\r\n")
        connection.transport.abort()
        await asyncio.sleep(0)
        go_on.set()
        await connection.leave()
        assert taken[1:] == [0]

    within(test)


def test_a_body_that_nobody_takes_is_not_read_on() -> None:
    async def test() -> None:
        go_on, taken = asyncio.Event(), 0

        async def app(scope: Scope, receive: Receive, send: Send) -> None:
            nonlocal taken
            await go_on.wait()
            more = True
            while more:
                message = await receive()
                taken, more = taken + len(message["body"]), message["more_body"]
            await send({**start([]), "body": b"abc"})

        connection = MemoryConnection(app)
        pieces = [POST + b"Content-Length: 1000000\r\n\r\n", *[b"y" * 10_000] * 100]
        sending = asyncio.create_task(connection.send(pieces))
        for _ in range(300):
            await asyncio.sleep(0)
        assert connection.transport.paused
        assert connection.protocol.moved(connection.protocol.waits_for()) < 80_000
        go_on.set()
        await sending
        assert (await connection.settle()).endswith(b"abc")
        assert taken == 1_000_000
        assert not connection.transport.paused
        await connection.leave()

    within(test)


@pytest.mark.parametrize(("behind", "closed"), [(16, False), (17, True)])
def test_sixteen_requests_may_wait_behind_one(behind: int, closed: bool) -> None:
    async def test() -> None:
        go_on = asyncio.Event()

        async def app(scope: Scope, receive: Receive, send: Send) -> None:
            await go_on.wait()
            await send({**start([]), "body": b"abc"})

        connection = MemoryConnection(app)
        await connection.send([GET * (1 + behind)], pause=5)
        assert connection.transport.closing is closed
        go_on.set()
        if not closed:
            assert (await connection.settle()).count(b"HTTP/1.1 200 OK") == 1 + behind
        await connection.leave()

    within(test)


def test_a_server_that_ends_closes_idle_connections_and_finishes_running_answers() -> None:
    async def test() -> None:
        go_on = asyncio.Event()

        async def app(scope: Scope, receive: Receive, send: Send) -> None:
            await go_on.wait()
            await send({**start([]), "body": b"abc"})

        busy, idle, half = (MemoryConnection(app) for _ in range(3))
        await busy.send([GET], pause=5)
        await half.send([GET[:20]], pause=5)
        for connection in (busy, idle, half):
            connection.protocol.shutdown()
        assert [connection.transport.closing for connection in (busy, idle, half)] == [False, True, True]
        go_on.set()
        got = await busy.settle()
        assert got == b"HTTP/1.1 200 OK\r\ndate: now\r\ncontent-length: 3\r\nconnection: close\r\n\r\nabc"
        assert busy.transport.closing
        for connection in (busy, idle, half):
            await connection.leave()

    within(test)
