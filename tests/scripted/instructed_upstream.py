"""An upstream that each request tells in its last message how to be answered, for loads in which many fail.

A message is ``n=NUMBER do=DEED chunks=COUNT pause=SECONDS``; what comes back names the number, so that an answer that
reached the wrong client is noticed. It runs on the event loop of the test, and remembers no request.
"""

from __future__ import annotations

import asyncio
import json
import re
import socket
import struct
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

from raw_server import Connections
from upstream import chat_chunk

_MESSAGE = re.compile(r"n=(\d+) do=(\w+) chunks=(\d+) pause=([\d.]+)")
_LENGTH = re.compile(rb"content-length: *(\d+)", re.IGNORECASE)
_STREAM = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n"

FAILURES = ("500", "503", "close", "cut", "reset", "nonsense", "html", "hang", "stall")
"""What it can be told to do instead of ``answer``; ``hang`` and ``stall`` last until the client leaves. ``hold``
sends half of a stream, and the rest once ``gate`` is set; ``stuck`` is another name for ``stall``; ``tear`` sends a
stream byte by byte."""


def message(number: int, deed: str = "answer", chunks: int = 4, pause: float = 0.0) -> str:
    """What to write in the last message of a request; ``pause`` seconds pass before a whole answer, or a chunk."""
    return f"n={number} do={deed} chunks={chunks} pause={pause:g}"


def whole_text(number: int) -> str:
    """What an answer without a stream says to the request of that number."""
    return f"the answer to {number}"


def chunk_text(number: int, index: int) -> str:
    """What the chunk at ``index`` of a stream says."""
    return f"{number}:{index} "


@dataclass(frozen=True)
class _Told:
    number: int
    deed: str
    chunks: int
    pause: float
    stream: bool


class InstructedUpstream:
    """The server; ``connections`` are open to it now, ``requests`` came so far, ``working`` are being answered, and
    ``held`` wait for ``gate``."""

    def __init__(self) -> None:
        self.url = ""
        self.accepted = self.connections = self.requests = self.working = self.held = 0
        self.gate = asyncio.Event()

    async def connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.accepted += 1
        self.connections += 1
        try:
            while (told := await _read(reader)) is not None:
                self.requests += 1
                self.working += 1
                try:
                    if not await self._answer(told, reader, writer):
                        return
                finally:
                    self.working -= 1
        finally:
            self.connections -= 1

    async def _answer(self, told: _Told, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bool:
        """Does what it was told; returns whether the connection goes on."""
        if told.deed != "hold":
            return await _answer(told, reader, writer)
        _write(writer, _STREAM)
        for index in range(told.chunks):
            if index == told.chunks // 2:
                await self._hold(writer)
            _write(writer, _chunk(told.number, index))
        _write(writer, _END)
        await writer.drain()
        return True

    async def _hold(self, writer: asyncio.StreamWriter) -> None:
        await writer.drain()
        self.held += 1
        try:
            await self.gate.wait()
        finally:
            self.held -= 1


@asynccontextmanager
async def instructed_upstream() -> AsyncIterator[InstructedUpstream]:
    """One on a free port of 127.0.0.1, until the end of the block."""
    upstream = InstructedUpstream()
    connections = Connections(upstream.connected)
    server = await asyncio.start_server(connections.accept, "127.0.0.1", 0, limit=2**26, backlog=4096)
    upstream.url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/v1"
    try:
        yield upstream
    finally:
        server.close()
        await connections.end()


async def _read(reader: asyncio.StreamReader) -> _Told | None:
    """The next request; ``None`` means that the client has left."""
    try:
        head = await reader.readuntil(b"\r\n\r\n")
        length = _LENGTH.search(head)
        assert length is not None, head
        body: dict[str, Any] = json.loads(await reader.readexactly(int(length[1])))
    except (asyncio.IncompleteReadError, ConnectionError):
        return None
    content = body["messages"][-1]["content"]
    text = content if isinstance(content, str) else content[0]["text"]
    told = _MESSAGE.match(text)
    assert told is not None, text[:100]
    number, deed, chunks, pause = told.groups()
    return _Told(int(number), deed, int(chunks), float(pause), bool(body.get("stream")))


async def _answer(told: _Told, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bool:
    """Does what it was told; returns whether the connection goes on."""
    if told.deed in ("close", "hang"):
        if told.deed == "hang":
            await _left(reader)
        return False
    if told.deed.isdigit():
        _write(writer, _plain(int(told.deed), b'{"error":{"message":"as told","type":"told","code":null}}'))
        return True
    if told.deed in ("nonsense", "html"):
        _write(writer, b"+PONG\r\n" if told.deed == "nonsense" else _plain(200, b"<html>no model here</html>"))
        return told.deed == "html"
    if told.deed == "tear":
        await _tear(told, writer)
        return True
    going_on = await (_stream if told.stream else _whole)(told, writer)
    if told.deed in ("stall", "stuck"):
        await _left(reader)
    return going_on


def _write(writer: asyncio.StreamWriter, data: bytes) -> None:
    if writer.is_closing():
        raise ConnectionResetError("the client has left")  # uvloop raises another error where asyncio drops the bytes
    writer.write(data)


def _plain(status: int, body: bytes) -> bytes:
    return b"HTTP/1.1 %d Told\r\ncontent-type: application/json\r\ncontent-length: %d\r\n\r\n%b" % (
        status,
        len(body),
        body,
    )


async def _left(reader: asyncio.StreamReader) -> None:
    """Returns when the client has closed."""
    while await reader.read(65536):
        pass


async def _whole(told: _Told, writer: asyncio.StreamWriter) -> bool:
    if told.pause:
        await asyncio.sleep(told.pause)
    choice = {"index": 0, "finish_reason": "stop", "message": {"role": "assistant", "content": whole_text(told.number)}}
    usage = {"prompt_tokens": 3, "completion_tokens": 4, "total_tokens": 7}
    answer = {"id": "x", "object": "chat.completion", "created": 1, "model": "m", "choices": [choice], "usage": usage}
    data = _plain(200, json.dumps(answer).encode())
    if told.deed == "answer":
        _write(writer, data)
        return True
    _write(writer, data[:-60])
    await writer.drain()
    _end(told, writer)
    return False


async def _stream(told: _Told, writer: asyncio.StreamWriter) -> bool:
    chunks = told.chunks if told.deed == "answer" else told.chunks // 2
    _write(writer, _STREAM)
    for index in range(chunks):
        if told.pause and index:
            await asyncio.sleep(told.pause)
        _write(writer, _chunk(told.number, index))
        if told.pause or index % 64 == 63:
            await writer.drain()
    if told.deed == "answer":
        _write(writer, _END)
        await writer.drain()
        return True
    await writer.drain()
    _end(told, writer)
    return False


def _event(text: str) -> bytes:
    data = b"data: %b\n\n" % text.encode()
    return b"%x\r\n%b\r\n" % (len(data), data)


def _chunk(number: int, index: int) -> bytes:
    return _event(json.dumps(chat_chunk(chunk_text(number, index))))


_END = _event(json.dumps(chat_chunk(None, "stop"))) + _event("[DONE]") + b"0\r\n\r\n"


async def _tear(told: _Told, writer: asyncio.StreamWriter) -> None:
    """Lets the reader run after each byte."""
    for byte in _STREAM + b"".join(_chunk(told.number, index) for index in range(told.chunks)) + _END:
        _write(writer, bytes((byte,)))
        await asyncio.sleep(0.0002)


def _end(told: _Told, writer: asyncio.StreamWriter) -> None:
    if told.deed == "reset":
        writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        writer.transport.abort()
