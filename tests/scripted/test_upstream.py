"""The scripted upstream does what its scripts say, so that tests which rely on it mean something."""

from __future__ import annotations

import contextlib
import json
import socket
import threading
import time

import openai
import pytest
import requests
from upstream import Received, Script, Upstream, chat_chunk, raw, reply, stream, usage, usage_chunk

CHAT = {"model": "m", "messages": [{"role": "user", "content": "one two three"}]}


def send(up: Upstream, body: dict[str, object] = CHAT, path: str = "/v1/chat/completions") -> socket.socket:
    """A raw connection on which a request has gone out."""
    data = json.dumps(body).encode()
    connection = socket.create_connection(("127.0.0.1", up.port), timeout=5)
    connection.sendall(
        b"POST %b HTTP/1.1\r\nhost: x\r\nX-Own: Yes\r\ncontent-length: %d\r\n\r\n%b" % (path.encode(), len(data), data)
    )
    return connection


def read_all(connection: socket.socket) -> bytes:
    """Everything up to the end of the connection; a reset raises."""
    received = b""
    with connection:
        while data := connection.recv(65536):
            received += data
    return received


def payload(answer: bytes) -> bytes:
    """The body of a chunked answer, whole or cut."""
    rest, body = answer.split(b"\r\n\r\n", 1)[1], b""
    while b"\r\n" in rest:
        size, rest = rest.split(b"\r\n", 1)
        if int(size, 16) == 0:
            break
        body, rest = body + rest[: int(size, 16)], rest[int(size, 16) + 2 :]
    return body


def test_unscripted_answers_satisfy_the_official_client():
    with Upstream() as up, openai.OpenAI(base_url=up.url, api_key="k", max_retries=0) as client:
        answer = client.chat.completions.create(**CHAT)
        assert answer.choices[0].message.content == "one two three"
        assert (answer.model, answer.usage.total_tokens) == ("m", 7)
        chunks = list(client.chat.completions.create(**CHAT, stream=True, stream_options={"include_usage": True}))
        assert "".join(c.choices[0].delta.content or "" for c in chunks if c.choices) == "one two three"
        assert [c.choices[0].finish_reason for c in chunks if c.choices] == [None, None, None, "stop"]
        assert chunks[-1].usage.completion_tokens == 3
        assert client.completions.create(model="m", prompt="a b").choices[0].text == "a b"
        vectors = client.embeddings.create(model="m", input=["ab", "abc"]).data
        assert [v.embedding for v in vectors] == [[2.0, 0.0, 1.0], [3.0, 1.0, 1.0]]
        assert [m.id for m in client.models.list()] == ["upstream-model"]
        assert [r.path for r in up.requests] == [
            *["/v1/chat/completions"] * 2,
            *["/v1/completions", "/v1/embeddings", "/v1/models"],
        ]
        assert up.requests[0].headers["authorization"] == "Bearer k"


def test_stream_without_include_usage_has_no_usage():
    with Upstream() as up:
        text = requests.post(f"{up.url}/chat/completions", json={**CHAT, "stream": True}, timeout=5).text
    assert '"usage"' not in text
    assert text.endswith("data: [DONE]\n\n")


def test_requests_are_recorded_as_they_came():
    with Upstream() as up:
        with send(up, {"model": "é", "x": 1}, "/v1/nothing") as connection:
            assert connection.recv(65536).startswith(b"HTTP/1.1 404 Not Found\r\n")
        request = up.wait_requests(1)[0]
        assert (request.method, request.path, request.body, request.headers["x-own"]) == (
            "POST",
            "/v1/nothing",
            {"model": "é", "x": 1},
            "Yes",
        )
        assert request.answered.wait(5)
        assert not request.closed.is_set()


def test_a_chunked_request_body_is_read():
    with Upstream() as up:
        parts = iter([b'{"model": "m", ', b'"prompt": "p"}'])
        answer = requests.post(f"{up.url}/completions", data=parts, timeout=5).json()
    assert answer["choices"][0]["text"] == "p"


def test_behaviours_are_used_in_order_and_then_the_handler():
    with Upstream() as up, requests.Session() as session:
        up.handler = lambda request: reply({"echo": request.body["n"]})
        up.reply(status=429, headers={"retry-after": "7"}, times=2)
        up.reply({"a": 1}, times=1)
        answers = [session.post(f"{up.url}/x", json={"n": n}, timeout=5) for n in range(5)]
        assert [a.status_code for a in answers] == [429, 429, 200, 200, 200]
        assert answers[0].headers["retry-after"] == "7"
        assert answers[0].json()["error"]["message"] == "scripted 429"
        assert [a.json() for a in answers[2:]] == [{"a": 1}, {"echo": 3}, {"echo": 4}]
        assert up.accepted == 1  # all on one kept connection
        up.reply(body=b"not json")
        assert [session.post(f"{up.url}/x", json={}, timeout=5).text for _ in range(2)] == ["not json"] * 2


def test_stream_sends_events_of_every_kind():
    events = [chat_chunk("é", id="own"), '{"k": 1}', b": ping\r\n\r\n", usage_chunk(3, 4)]
    with Upstream() as up:
        up.stream(events)
        answer = requests.post(f"{up.url}/chat/completions", json=CHAT, timeout=5)
    lines = answer.content.decode().split("\n\n")
    assert json.loads(lines[0].removeprefix("data: "))["choices"][0]["delta"] == {"content": "é"}
    assert json.loads(lines[0].removeprefix("data: "))["id"] == "own"
    assert lines[1] == 'data: {"k": 1}'
    assert lines[2].startswith(": ping\r\n\r\ndata: ")
    assert json.loads(lines[2].partition("data: ")[2])["usage"] == usage(3, 4)
    assert lines[3:] == ["data: [DONE]", ""]


def test_no_done_ends_the_body_in_good_form():
    with Upstream() as up:
        up.stream(["a"], no_done=True)
        assert requests.post(f"{up.url}/chat/completions", json=CHAT, timeout=5).text == "data: a\n\n"


def test_cut_after_closes_inside_a_line():
    with Upstream() as up:
        up.stream(["first", "0123456789"], cut_after=1)
        answer = read_all(send(up))
    assert payload(answer) == b"data: first\n\ndata: 012"
    assert not answer.endswith(b"0\r\n\r\n")


def test_a_clean_cut_is_whole_to_http():
    with Upstream() as up:
        up.stream(["first", "0123456789"], cut_after=1, clean=True)
        assert requests.post(f"{up.url}/chat/completions", json=CHAT, timeout=5).text == "data: first\n\ndata: 012"


def test_reset_ends_by_rst():
    with Upstream() as up:
        up.stream(["first", "second"], cut_after=1, reset=True)
        with pytest.raises(ConnectionResetError):
            read_all(send(up))


def test_hang_after_sends_that_many_events_and_stays_open():
    with Upstream() as up:
        up.stream(["a", "b", "c"], hang_after=2)
        with send(up) as connection:
            received = b""
            while b"data: b\n\n" not in received:
                received += connection.recv(65536)
            connection.settimeout(0.1)
            with pytest.raises(TimeoutError):
                connection.recv(1)
            assert payload(received) == b"data: a\n\ndata: b\n\n"
        assert up.wait_closed().closed_at is not None


def test_hang_takes_the_request_and_notices_the_client_leaving():
    with Upstream() as up:
        up.hang()
        connection = send(up)
        request = up.wait_requests(1)[0]
        assert not request.closed.is_set()
        departure = time.monotonic()
        connection.close()
        closed = up.wait_closed()
        assert closed is request
        assert departure <= closed.closed_at < departure + 1
        assert not closed.answered.is_set()


def test_wait_closed_fails_while_the_client_stays():
    with Upstream() as up:
        up.hang()
        with send(up), pytest.raises(AssertionError, match="did not close"):
            up.wait_closed(timeout=0.1)


def test_a_client_that_resets_has_left_too():
    with Upstream() as up:
        up.stream(["a"] * 1000, delay=0.01)
        connection = send(up)
        connection.recv(100)
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\x01\0\0\0\0\0\0\0")
        connection.close()
        assert not up.wait_closed().answered.is_set()


def test_close_at_once_and_raw():
    with Upstream() as up:
        up.close_at_once(times=1)
        up.raw(b"HTTP/1.1 200 OK\r\ncontent-length: 99\r\n\r\nshort", times=1)
        up.handler = lambda request: raw(b"nonsense\r\n\r\n")
        assert read_all(send(up)) == b""
        assert read_all(send(up)).endswith(b"\r\n\r\nshort")
        assert read_all(send(up)) == b"nonsense\r\n\r\n"


@pytest.mark.slow
def test_delays_come_where_they_are_asked():
    with Upstream() as up:
        up.stream(["a", "b"], first_byte_delay=0.2, delay=0.1)
        with send(up) as connection:
            started = time.monotonic()
            received = connection.recv(65536)
            first = time.monotonic() - started
            while not received.endswith(b"0\r\n\r\n"):
                received += connection.recv(65536)
            assert first >= 0.19
            assert time.monotonic() - started >= 0.39  # two pauses: before b and before [DONE]


def test_split_tears_the_bytes_at_the_offsets():
    with Upstream() as up:
        up.stream(["é"], split=[3, 7])  # inside "data:", and inside the letter's two bytes
        answer = read_chunks(send(up))
    assert answer == [b"dat", b"a: \xc3", b"\xa9\n\ndata: [DONE]\n\n"]


def read_chunks(connection: socket.socket) -> list[bytes]:
    """The HTTP chunks of an answer, one by one."""
    with connection, connection.makefile("rb") as answer:
        while answer.readline() != b"\r\n":
            pass
        chunks = []
        while size := int(answer.readline(), 16):
            chunks.append(answer.read(size))
            answer.readline()
        return chunks


def test_a_gate_holds_the_last_write():
    gate = threading.Event()
    with Upstream() as up:
        up.reply({"late": True}, gate=gate)
        with send(up) as connection:
            up.wait_requests(1)
            connection.settimeout(0.1)
            with pytest.raises(TimeoutError):
                connection.recv(1)
            gate.set()
            connection.settimeout(5)
            assert connection.recv(65536).endswith(b'{"late": true}')


def test_a_handler_may_choose_by_request():
    def choose(request: Received) -> Script:
        return stream(["s"]) if request.body.get("stream") else reply({"w": 1}, status=418)

    with Upstream() as up:
        up.handler = choose
        assert requests.post(f"{up.url}/x", json={"stream": True}, timeout=5).text == "data: s\n\ndata: [DONE]\n\n"
        assert requests.post(f"{up.url}/x", json={}, timeout=5).status_code == 418


def test_the_end_of_the_block_ends_hanging_connections():
    with contextlib.ExitStack() as stack:
        up = stack.enter_context(Upstream())
        up.hang()
        connection = stack.enter_context(contextlib.closing(send(up)))
        up.wait_requests(1)
        up.__exit__()
        stack.pop_all()
        assert connection.recv(1) == b""
        connection.close()
        with pytest.raises(ConnectionRefusedError):
            socket.create_connection(("127.0.0.1", up.port), timeout=5)
