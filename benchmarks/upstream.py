"""A fast OpenAI-compatible upstream that echoes a number of each request; prints ``{"port": …}`` once it listens.

Raw asyncio and httptools, so that it costs far less than what is measured in front of it. The last message of a request
says how it is to be answered (``wire.Ask``). What stands in front of the question is checked against its checksum.
"""

from __future__ import annotations

import argparse
import asyncio
import gc
import json
import signal
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, cast

import httptools
import orjson
import uvloop
from script import Script, stream, unary
from wire import UPSTREAM_KEY, UPSTREAM_MODEL, wishes

_STREAM_HEAD = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n"
_LARGE = 2_000_000
"""From this size on, bodies are images and are read in a thread, so that they do not hold up other answers."""

_IMAGE = b";base64,"


class State:
    """What all connections share."""

    def __init__(self, script: Script, delay: float) -> None:
        self.script = script
        self.delay = delay
        self.loop = asyncio.get_running_loop()
        self._held: list[Callable[[], None]] = []

    def hold(self, resume: Callable[[], None]) -> None:
        """Keeps the rest of a stream back until ``release``."""
        self._held.append(resume)

    def release(self) -> int:
        """Lets all held streams go on; their number."""
        held, self._held = self._held, []
        for resume in held:
            resume()
        return len(held)


def _plain(status: bytes, body: bytes, length: int | None = None) -> bytes:
    head = b"HTTP/1.1 %b\r\ncontent-type: application/json\r\ncontent-length: %d\r\n\r\n"
    return head % (status, len(body) if length is None else length) + body


def _refusal(status: bytes, message: str) -> bytes:
    error = {"error": {"message": message, "type": "invalid_request_error", "param": None, "code": None}}
    return _plain(status, orjson.dumps(error))


@dataclass(frozen=True)
class Received:
    """A request as the upstream understood it; ``wished`` is empty and ``problem`` says why where it did not."""

    wished: dict[str, int]
    problem: str = ""
    streams: bool = False
    wants_usage: bool = False


def _read(body: bytes) -> Received:
    try:
        request = orjson.loads(body)
        wished = wishes(request["messages"][-1]["content"])
        if request["model"] != UPSTREAM_MODEL:
            return Received({}, f"no model {request['model']!r} here")
        if "n" not in wished:
            return Received({}, "no number in the last message")
        if "crc" in wished and zlib.crc32(request["messages"][0]["content"].encode()) != wished["crc"]:
            return Received({}, "what stands before the question is damaged")
    except (ValueError, LookupError, TypeError, AttributeError) as exc:
        return Received({}, f"not a request of the benchmark: {exc!r:.100}")
    wants_usage = (request.get("stream_options") or {}).get("include_usage", False)
    return Received(wished, "", request.get("stream", False), wants_usage)


def _read_image(body: bytes) -> Received:
    """The same for a body that is nearly all image, which is not decoded: that would take as long as what is measured.

    Base64 has one form in JSON, however a gateway writes the rest.
    """
    start = body.find(_IMAGE) + len(_IMAGE)
    end = body.find(b'"', start)
    wished = wishes(body[end:].decode(errors="replace"))
    if b'"%b"' % UPSTREAM_MODEL.encode() not in body[:start] + body[end:]:
        return Received({}, "another model than the upstream's")
    with memoryview(body) as whole:
        damaged = zlib.crc32(whole[start:end]) != wished.get("crc")  # outside of Python's lock
    return Received({}, "the image is damaged") if damaged or "n" not in wished else Received(wished)


class Connection(asyncio.Protocol):
    """One keep-alive connection."""

    def __init__(self, state: State) -> None:
        self._state = state
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
        self._body: list[bytes] = []

    def on_url(self, url: bytes) -> None:
        self._url += url

    def on_header(self, name: bytes, value: bytes) -> None:
        if name.lower() == b"authorization":
            self._key = value

    def on_body(self, body: bytes) -> None:
        self._body.append(body)

    def on_message_complete(self) -> None:
        if self._url == b"/v1/chat/completions":
            if self._key != b"Bearer " + UPSTREAM_KEY.encode():
                return self._write(_refusal(b"401 Unauthorized", "not the upstream's key"))
            return self._chat(b"".join(self._body))
        return self._write(_page(self._url, self._state))

    def _chat(self, body: bytes) -> None:
        if len(body) < _LARGE:
            return self._answer(_read(body))
        reading = self._state.loop.run_in_executor(None, _read_image, body)
        reading.add_done_callback(lambda done: self._answer(done.result()))
        return None

    def _answer(self, received: Received) -> None:
        if received.problem:
            return self._write(_refusal(b"400 Bad Request", received.problem))
        wished, fault = received.wished, self._state.script.fault()
        if received.streams:
            return self._stream(wished, received.wants_usage, fault)
        body = unary(wished["n"], fault)
        delay = self._state.delay or wished.get("wait", 0) / 1000
        if fault and fault % 3 == 0:
            self._write(_plain(b"200 OK", body[: len(body) // 2], len(body)))
            self._transport.close()
        elif delay:
            self._state.loop.call_later(delay, self._write, _plain(b"200 OK", body))
        else:
            self._write(_plain(b"200 OK", body))
        return None

    def _write(self, data: bytes) -> None:
        if not self._transport.is_closing():
            self._transport.write(data)

    def _stream(self, wished: dict[str, int], include_usage: bool, fault: int) -> None:
        writes = stream(wished["n"], wished.get("chunks", 1), wished.get("burst", 8), include_usage, fault)
        self._transport.write(_STREAM_HEAD)
        pause = wished.get("pause", 0) / 1000
        if wished.get("hold"):
            self._write_chunk(writes.pop(0), last=False)
            self._state.hold(lambda: self._write_next(writes, 0, pause))
        else:
            self._write_next(writes, 0, pause)

    def _write_next(self, writes: list[bytes], at: int, pause: float) -> None:
        """One burst, then a pause, so that each reaches the reader by itself whatever the load."""
        last = at + 1 == len(writes)
        self._write_chunk(writes[at], last)
        if not last and not self._transport.is_closing():
            self._state.loop.call_later(pause, self._write_next, writes, at + 1, pause)

    def _write_chunk(self, data: bytes, last: bool) -> None:
        self._write(b"%x\r\n%b\r\n%b" % (len(data), data, b"0\r\n\r\n" if last else b""))


def _page(url: bytes, state: State) -> bytes:
    """What is not a chat: the list of models, what routers ask of their workers, and ``/release``."""
    model = {"id": UPSTREAM_MODEL, "object": "model", "created": 0, "owned_by": "us"}
    pages: dict[bytes, Any] = {
        b"/v1/models": {"object": "list", "data": [model]},
        b"/health": {},
        b"/ready": {},
    }
    if url == b"/release":
        return _plain(b"200 OK", orjson.dumps({"released": state.release()}))
    return _plain(b"200 OK", orjson.dumps(pages[url])) if url in pages else _refusal(b"404 Not Found", "no such path")


async def serve(port: int, corrupt: float, delay: float) -> None:
    """Serves on loopback until SIGTERM or SIGINT."""
    loop = asyncio.get_running_loop()
    ended = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, ended.set)
    state = State(Script(corrupt), delay)
    # A thousand streams may start at once.
    server = await loop.create_server(lambda: Connection(state), "127.0.0.1", port, backlog=4096)
    print(json.dumps({"port": server.sockets[0].getsockname()[1]}), flush=True)
    await ended.wait()
    server.close()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--port", type=int, default=0, help="0: any that is free")
    parser.add_argument("--corrupt", type=float, default=0.0, help="share of answers to spoil, 0 to 1")
    parser.add_argument("--delay", type=float, default=0.0, help="seconds before an answer that does not stream")
    options = parser.parse_args()
    gc.disable()  # a pause of ours would be seen as the server's
    uvloop.run(serve(options.port, options.corrupt, options.delay))


if __name__ == "__main__":
    main()
