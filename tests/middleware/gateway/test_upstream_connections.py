"""Connections to upstreams and the heads of their answers: what is taken, and the true reason where it is not."""

from __future__ import annotations

import asyncio
import gzip
import json
import threading
import zlib
from collections.abc import Callable, Iterator
from contextlib import ExitStack

import pytest
from raw_server import RawServer
from upstream import Upstream, chat_chunk, openai_like

pytestmark = [pytest.mark.slow, pytest.mark.each_transport]

GOOD = {
    "model": "m",
    "choices": [{"index": 0, "message": {"role": "assistant", "content": "good"}, "finish_reason": "stop"}],
}


@pytest.fixture
def ups() -> Iterator[Callable[[], Upstream]]:
    with ExitStack() as stack:
        yield lambda: stack.enter_context(Upstream())


def test_a_kept_connection_that_is_closed_as_it_is_used_is_nobodys_failure(ups: Callable, gateway: Callable) -> None:
    up = ups()
    providers = {"up0": {"kind": "openai", "base_url": up.url, "retries": 0}}
    models = {"bench": {"deployments": [{"provider": "up0", "model": "m"}]}}
    running = gateway(llm={"providers": providers, "models": models, "routing": {"breaker_failures": 1}})
    for streamed in (False, True):
        assert running.chat().status_code == 200
        up.close_at_once(times=1)
        answer = running.chat(stream=streamed)
        assert answer.status_code == 200, answer.text
        assert "hello" in answer.text
        assert answer.headers["x-sage-attempts"] == "2"
    assert len(up.requests) == 6
    shown = running.get("/models/bench").json()["deployments"][0]["breaker"]
    assert (shown["state"], shown["failures"]) == ("closed", 0)
    assert running.chat().status_code == 200
    up.close_at_once(times=3)
    assert running.chat().status_code == 502  # the fresh connection broke too, which is the upstream's failure
    assert len(up.requests) == 9


@pytest.mark.slow
def test_an_upstream_that_closes_each_connection_soon_after_its_answer(upstreams: Callable) -> None:
    """As servers do whose keep-alive time is shorter than ours: the close meets the next request now and then."""
    body = json.dumps(GOOD).encode()

    class Closing(RawServer):
        @property
        def url(self) -> str:
            return f"http://127.0.0.1:{self.port}/v1"

        async def connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            while True:
                head = await reader.readuntil(b"\r\n\r\n")
                length = next(line for line in head.lower().split(b"\r\n") if line.startswith(b"content-length"))
                await reader.readexactly(int(length.split(b":")[1]))
                writer.write(b"HTTP/1.1 200 OK\r\ncontent-length: %d\r\n\r\n%b" % (len(body), body))
                asyncio.get_running_loop().call_later(0.005, writer.transport.abort)

    with Closing() as server:
        running = upstreams(server)
        statuses = [running.chat().status_code for _ in range(300) if not threading.Event().wait(0.0045)]
    assert statuses == [200] * 300
    assert running.get("/models/bench").json()["deployments"][0]["breaker"]["failures"] == 0


@pytest.mark.parametrize("status", [200, 429])
def test_large_heads_are_taken(ups: Callable, upstreams: Callable, status: int) -> None:
    up = ups()
    running = upstreams(up)
    for headers in (
        {"set-cookie": "c" * 9000},
        {"content-security-policy": "p" * 60_000},
        {f"x-{number}": "v" for number in range(200)},
        {f"x-{number}": "v" for number in range(500)},
    ):
        up.reset()
        up.reply(GOOD if status == 200 else None, status=status, headers={"retry-after": "0.001", **headers})
        assert running.chat().status_code == status


@pytest.mark.parametrize(
    ("headers", "code", "reason"),
    [
        ({"x-large": "secret" * 12_000}, "upstream_head_too_large", "a header of more than 65536 bytes"),
        ({f"x-{number}": "v" for number in range(600)}, "upstream_head_too_large", "more than 512 headers"),
        ({"content-encoding": "br"}, "upstream_encoding", "compressed with 'br'"),
        ({"content-encoding": "zstd"}, "upstream_encoding", "compressed with 'zstd'"),
        ({"content-encoding": "gzip"}, "upstream_encoding", "compressed answer is damaged"),
    ],
)
def test_a_head_that_cannot_be_taken_is_told(
    ups: Callable, upstreams: Callable, headers: dict[str, str], code: str, reason: str
) -> None:
    up = ups()
    up.reply(GOOD, headers=headers)
    error = upstreams(up, provider={"retries": 0}).chat().json()["error"]
    assert error["code"] == code
    assert reason in error["message"]
    assert "secret" not in error["message"]


def test_what_is_not_http_is_told(ups: Callable, upstreams: Callable) -> None:
    up = ups()
    up.raw(b"SSH-2.0-OpenSSH_9\r\n")
    error = upstreams(up, provider={"retries": 0}).chat().json()["error"]
    assert error["code"] == "upstream_nonsense"
    assert error["message"] == "the provider 'up0' answered with something that is not HTTP/1.1"


def test_a_refusal_that_cannot_be_read_keeps_its_status(ups: Callable, upstreams: Callable) -> None:
    up = ups()
    up.reply(status=429, headers={"content-encoding": "br", "retry-after": "9"})
    answer = upstreams(up).chat()
    assert (answer.status_code, answer.headers["retry-after"]) == (429, "9")


def raw_deflate(data: bytes) -> bytes:
    packer = zlib.compressobj(wbits=-15)
    return packer.compress(data) + packer.flush()


@pytest.mark.parametrize(
    ("encoding", "pack"),
    [
        ("gzip", gzip.compress),
        ("x-gzip", gzip.compress),
        ("GZIP", lambda data: gzip.compress(data[:9]) + gzip.compress(data[9:])),
        ("deflate", zlib.compress),
        ("deflate", raw_deflate),
        ("identity", bytes),
    ],
)
def test_answers_that_come_compressed_are_read(
    ups: Callable, upstreams: Callable, encoding: str, pack: Callable[[bytes], bytes]
) -> None:
    up = ups()
    running = upstreams(up)
    up.reply(body=pack(json.dumps(GOOD).encode()), headers={"content-encoding": encoding}, times=1)
    assert running.chat().json()["choices"][0]["message"]["content"] == "good"
    events = [chat_chunk("one "), chat_chunk("two", "stop"), "[DONE]"]
    text = b"".join(
        b"data: " + (event if isinstance(event, str) else json.dumps(event)).encode() + b"\n\n" for event in events
    )
    packed = pack(text)
    up.stream([packed[:20], packed[20:]], no_done=True, headers={"content-encoding": encoding}, times=1)
    answer = running.chat(stream=True)
    assert answer.status_code == 200
    assert answer.text.endswith("data: [DONE]\n\n")
    assert "two" in answer.text
    up.reply(body=pack(b'{"error": {"message": "because"}}'), status=400, headers={"content-encoding": encoding})
    assert running.chat().json()["error"]["message"] == "the provider 'up0' answered 400: because"


def test_a_compressed_answer_that_is_cut_is_no_answer(ups: Callable, upstreams: Callable) -> None:
    up = ups()
    up.reply(body=gzip.compress(json.dumps(GOOD).encode())[:-12], headers={"content-encoding": "gzip"})
    error = upstreams(up, provider={"retries": 0}).chat().json()["error"]
    assert error["message"] == "the provider 'up0': its compressed answer is cut off"


@pytest.mark.slow
def test_the_first_byte_of_a_whole_answer_may_take_its_whole_time(ups: Callable, upstreams: Callable) -> None:
    up = ups()
    running = upstreams(up, provider={"retries": 0, "timeouts": {"first_byte": 0.05, "between_chunks": 0.05}})
    up.reply(GOOD, delay=0.15)
    assert running.chat().status_code == 200
    answer = running.chat(stream=True)
    assert answer.status_code == 504
    assert answer.json()["error"]["code"] == "read_timeout"
    up.reset()
    up.handler = lambda request: openai_like(request)
    assert running.post("/v1/embeddings", {"model": "bench", "input": "x"}).status_code == 200


def test_why_an_upstream_cannot_be_reached_is_told(upstreams: Callable) -> None:
    class Nowhere:
        url = "http://127.0.0.1:9/v1"

    message = upstreams(Nowhere, provider={"retries": 0}).chat().json()["error"]["message"]
    assert message == "the provider 'up0' cannot be reached at 127.0.0.1:9: Connection refused"
