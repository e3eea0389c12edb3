"""A fast OpenAI-compatible upstream that echoes a number of each request; prints ``{"port": …}`` once it listens.

Raw asyncio and httptools, so that it costs far less than what is measured in front of it.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import re
import signal
from typing import cast

import httptools
import orjson
import uvloop
from wire import UPSTREAM_KEY, UPSTREAM_MODEL, answer, piece, usage

_NUMBER = re.compile(r"n=(\d+)")
_MARK = "@N@"
_DONE = b"data: [DONE]\n\n"
_STREAM_HEAD = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n"


def _event(number: str, delta: dict[str, str], finish: str | None, tokens: dict[str, int] | None = None) -> bytes:
    choices = [] if tokens else [{"index": 0, "delta": delta, "logprobs": None, "finish_reason": finish}]
    chunk = {
        "id": f"chatcmpl-{number}",
        "object": "chat.completion.chunk",
        "created": 1_760_000_000,
        "model": UPSTREAM_MODEL,
        "system_fingerprint": "fp_bench",
        "choices": choices,
    }
    return b"data: " + orjson.dumps(chunk | ({"usage": tokens} if tokens else {})) + b"\n\n"


class Script:
    """What every connection answers with: the events of a stream, made once, and how often an answer is spoilt."""

    def __init__(self, chunks: int, burst: int, pause: float, corrupt: float, delay: float = 0.0) -> None:
        self.delay = delay
        self.events = [
            _event(_MARK, ({"role": "assistant"} if not i else {}) | {"content": piece(_MARK, i)}, None)
            for i in range(chunks)
        ]
        self.burst = burst
        self.pause = pause
        self.bursts = self._join(self.events)
        self.every = round(1 / corrupt) if corrupt else 0
        self.answered = 0

    def _join(self, events: list[bytes]) -> list[bytes]:
        return [b"".join(events[i : i + self.burst]) for i in range(0, len(events), self.burst)]

    def fault(self) -> int:
        """0 for a true answer, else a number that chooses how this one is spoilt."""
        self.answered += 1
        return self.answered // self.every if self.every and self.answered % self.every == 0 else 0

    def stream(self, number: int, include_usage: bool, fault: int) -> list[bytes]:
        """The writes of one stream, before HTTP's chunks are put around them."""
        digits = str(number)
        bursts = self.bursts
        if fault:
            middle = len(self.events) // 2
            events = self.events.copy()
            events[middle : middle + 1] = [[], [events[middle]] * 2, [events[middle]]][fault % 3]
            bursts = self._join(events)
        writes = [burst.replace(_MARK.encode(), digits.encode()) for burst in bursts]
        finish = _event(digits, {}, "stop") if not (fault and fault % 3 == 2) else b""
        tokens = _event(digits, {}, None, usage(number)) if include_usage else b""
        return [*writes, finish + tokens + _DONE]

    def unary(self, number: int, fault: int) -> bytes:
        """The whole body of an answer that does not stream."""
        body = {
            "id": f"chatcmpl-{number}",
            "object": "chat.completion",
            "created": 1_760_000_000,
            "model": UPSTREAM_MODEL,
            "choices": [
                {
                    "index": 0,
                    "message": {"role": "assistant", "content": answer(number + (fault % 3 == 1))},
                    "logprobs": None,
                    "finish_reason": "stop",
                }
            ],
            "usage": usage(number + (fault % 3 == 2)),
            "system_fingerprint": "fp_bench",
        }
        return orjson.dumps(body)


def _plain(status: bytes, body: bytes, length: int | None = None) -> bytes:
    head = b"HTTP/1.1 %b\r\ncontent-type: application/json\r\ncontent-length: %d\r\n\r\n"
    return head % (status, len(body) if length is None else length) + body


class Connection(asyncio.Protocol):
    """One keep-alive connection."""

    def __init__(self, script: Script, loop: asyncio.AbstractEventLoop) -> None:
        self._script = script
        self._loop = loop
        self._parser = httptools.HttpRequestParser(self)

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)

    def data_received(self, data: bytes) -> None:
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserError:
            self._transport.close()

    def on_message_begin(self) -> None:
        self._url = b""
        self._key = b""
        self._body = b""

    def on_url(self, url: bytes) -> None:
        self._url += url

    def on_header(self, name: bytes, value: bytes) -> None:
        if name.lower() == b"authorization":
            self._key = value

    def on_body(self, body: bytes) -> None:
        self._body += body

    def on_message_complete(self) -> None:
        if self._url == b"/v1/models":
            body = {
                "object": "list",
                "data": [{"id": UPSTREAM_MODEL, "object": "model", "created": 0, "owned_by": "us"}],
            }
            self._transport.write(_plain(b"200 OK", orjson.dumps(body)))
        elif self._url != b"/v1/chat/completions":
            self._refuse(b"404 Not Found", "no such path")
        elif self._key != b"Bearer " + UPSTREAM_KEY.encode():
            self._refuse(b"401 Unauthorized", "not the upstream's key")
        else:
            self._chat()

    def _refuse(self, status: bytes, message: str) -> None:
        error = {"error": {"message": message, "type": "invalid_request_error", "param": None, "code": None}}
        self._transport.write(_plain(status, orjson.dumps(error)))

    def _chat(self) -> None:
        request = orjson.loads(self._body)
        if request["model"] != UPSTREAM_MODEL:
            return self._refuse(b"404 Not Found", f"no model {request['model']!r} here")
        match = _NUMBER.search(request["messages"][-1]["content"])
        if match is None:
            return self._refuse(b"400 Bad Request", "no number in the last message")
        number, fault = int(match[1]), self._script.fault()
        if request.get("stream"):
            asked = (request.get("stream_options") or {}).get("include_usage", False)
            self._transport.write(_STREAM_HEAD)
            self._write_next(self._script.stream(number, asked, fault), 0)
            return None
        body = self._script.unary(number, fault)
        if fault and fault % 3 == 0:
            self._transport.write(_plain(b"200 OK", body[: len(body) // 2], len(body)))
            self._transport.close()
        elif self._script.delay:
            self._loop.call_later(self._script.delay, self._answer, _plain(b"200 OK", body))
        else:
            self._transport.write(_plain(b"200 OK", body))
        return None

    def _answer(self, data: bytes) -> None:
        if not self._transport.is_closing():
            self._transport.write(data)

    def _write_next(self, writes: list[bytes], at: int) -> None:
        """One burst, then a pause, so that each reaches the reader by itself whatever the load."""
        data = writes[at]
        last = at + 1 == len(writes)
        self._transport.write(b"%x\r\n%b\r\n%b" % (len(data), data, b"0\r\n\r\n" if last else b""))
        if not last and not self._transport.is_closing():
            self._loop.call_later(self._script.pause, self._write_next, writes, at + 1)


async def serve(port: int, script: Script) -> None:
    """Serves on loopback until SIGTERM or SIGINT."""
    loop = asyncio.get_running_loop()
    ended = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, ended.set)
    server = await loop.create_server(lambda: Connection(script, loop), "127.0.0.1", port)
    print(json.dumps({"port": server.sockets[0].getsockname()[1]}), flush=True)
    await ended.wait()
    server.close()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--port", type=int, default=0, help="0: any that is free")
    parser.add_argument("--chunks", type=int, default=200, help="chunks of text in a stream")
    parser.add_argument("--burst", type=int, default=8, help="chunks in one write")
    parser.add_argument("--pause", type=float, default=0.005, help="seconds between two writes of a stream")
    parser.add_argument("--corrupt", type=float, default=0.0, help="share of answers to spoil, 0 to 1")
    parser.add_argument("--delay", type=float, default=0.0, help="seconds before an answer that does not stream")
    options = parser.parse_args()
    uvloop.run(
        serve(options.port, Script(options.chunks, options.burst, options.pause, options.corrupt, options.delay))
    )


if __name__ == "__main__":
    main()
