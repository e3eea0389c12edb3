"""A scripted upstream of OpenAI's routes for sounds and images. It reads bodies as they come and answers as they say.

Forms are parsed while they come in, so that a file is never held: a test sees its digest, and when its first byte came.
Shapes are those of OpenAI's API reference (audio, images, moderations).
"""

from __future__ import annotations

import asyncio
import base64
import hashlib
import json
import threading
import time
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field
from typing import Any, Self

from python_multipart.multipart import MultipartParser, parse_options_header
from raw_server import RawServer

SOUND = bytes(range(256)) * 1024
PICTURE = base64.b64encode(b"\x89PNG" + bytes(200_000)).decode()


@dataclass
class Part:
    """One part of a form."""

    name: str
    filename: str | None
    content_type: str
    size: int = 0
    text: bytes = b""
    """Of a part that is no file."""
    digest: Any = field(default_factory=hashlib.sha256)

    @property
    def sha256(self) -> str:
        return str(self.digest.hexdigest())


@dataclass
class Sent:
    """One request as it comes."""

    path: str
    headers: dict[str, str]
    parts: list[Part] = field(default_factory=list)
    body: Any = None
    begun: threading.Event = field(default_factory=threading.Event)
    """Set with the first byte of a file."""
    ended: threading.Event = field(default_factory=threading.Event)
    """Set once all of the body has come."""
    left: threading.Event = field(default_factory=threading.Event)
    """Set when the gateway closed the connection before the answer was whole."""

    @property
    def fields(self) -> dict[str, str]:
        return {part.name: part.text.decode() for part in self.parts if part.filename is None}

    @property
    def files(self) -> list[Part]:
        return [part for part in self.parts if part.filename is not None]


Answer = AsyncIterator[bytes]
Handler = Callable[[Sent], Answer]


def head(content_type: str, status: int = 200) -> bytes:
    return (
        f"HTTP/1.1 {status} OK\r\nContent-Type: {content_type}\r\nTransfer-Encoding: chunked\r\n"
        "Connection: close\r\n\r\n"
    ).encode()


def chunk(data: bytes) -> bytes:
    return b"%x\r\n%b\r\n" % (len(data), data)


def event(data: dict[str, Any]) -> bytes:
    return b"event: " + str(data["type"]).encode() + b"\ndata: " + json.dumps(data).encode() + b"\n\n"


async def whole(content_type: str, body: bytes, status: int = 200) -> Answer:
    yield head(content_type, status) + chunk(body) + b"0\r\n\r\n"


async def events(*said: dict[str, Any], cut: bool = False) -> Answer:
    yield head("text/event-stream")
    for each in said:
        yield chunk(event(each))
        await asyncio.sleep(0.002)
    if not cut:
        yield b"0\r\n\r\n"


async def sound(data: bytes = SOUND, gate: threading.Event | None = None) -> Answer:
    """Half of it, and the rest once ``gate`` is set."""
    yield head("audio/mpeg") + chunk(data[: len(data) // 2])
    while gate is not None and not gate.is_set():
        await asyncio.sleep(0.005)
    yield chunk(data[len(data) // 2 :]) + b"0\r\n\r\n"


def openai_media(request: Sent) -> Answer:
    """As OpenAI answers, with usage where it tells one."""
    route = request.path.removeprefix("/v1/")
    said = request.body if request.body is not None else request.fields
    stream = said.get("stream") in (True, "true")
    if route == "audio/speech":
        return sound() if said.get("stream_format") != "sse" else events(*_speech())
    if route == "audio/transcriptions" and stream:
        return events(*_transcript())
    if route.startswith("audio/"):
        return _transcription(said.get("response_format", "json"))
    if route == "moderations":
        return whole("application/json", json.dumps(_moderation()).encode())
    if stream:
        return events(*_images(route.removeprefix("images/")))
    count = int(said.get("n") or 1)
    tokens = {"input_tokens": 20, "input_tokens_details": {"image_tokens": 8, "text_tokens": 12}}
    usage = {**tokens, "output_tokens": 100 * count, "total_tokens": 20 + 100 * count}
    data = [{"b64_json": PICTURE} for _ in range(count)]
    return whole("application/json", json.dumps({"created": 1, "data": data, "usage": usage}).encode())


def _speech() -> list[dict[str, Any]]:
    usage = {"input_tokens": 5, "output_tokens": 50, "total_tokens": 55}
    return [
        {"type": "speech.audio.delta", "audio": base64.b64encode(SOUND[:900]).decode()},
        {"type": "speech.audio.done", "usage": usage},
    ]


def _transcript() -> list[dict[str, Any]]:
    details = {"text_tokens": 0, "audio_tokens": 40}
    usage = {"type": "tokens", "input_tokens": 40, "input_token_details": details, "output_tokens": 3}
    return [
        {"type": "transcript.text.delta", "delta": "hello "},
        {"type": "transcript.text.delta", "delta": "there"},
        {"type": "transcript.text.done", "text": "hello there", "usage": {**usage, "total_tokens": 43}},
    ]


def _transcription(response_format: str) -> Answer:
    if response_format in ("text", "srt", "vtt"):
        return whole("text/plain; charset=utf-8", b"hello there\n")
    answer: dict[str, Any] = {"text": "hello there", "usage": {"type": "duration", "seconds": 90.2}}
    if response_format == "verbose_json":
        answer |= {"task": "transcribe", "language": "english", "duration": 90.2, "segments": []}
    return whole("application/json", json.dumps(answer).encode())


def _moderation() -> dict[str, Any]:
    result = {"flagged": False, "categories": {}, "category_scores": {}, "category_applied_input_types": {}}
    return {"id": "modr-1", "model": "omni-moderation-2024-09-26", "results": [result]}


def _images(route: str) -> list[dict[str, Any]]:
    kind = "image_generation" if route == "generations" else "image_edit"
    common = {"created_at": 1, "size": "1024x1024", "quality": "low", "background": "opaque", "output_format": "png"}
    usage = {"input_tokens": 20, "input_tokens_details": {"image_tokens": 0, "text_tokens": 20}}
    usage |= {"output_tokens": 272, "total_tokens": 292}
    return [
        {"type": f"{kind}.partial_image", "b64_json": PICTURE, "partial_image_index": 0, **common},
        {"type": f"{kind}.completed", "b64_json": PICTURE, "usage": usage, **common},
    ]


class MediaUpstream(RawServer):
    """The server; ends with its block. ``handler`` answers, ``before`` says what to do before a body is read."""

    def __init__(self) -> None:
        super().__init__()
        self.requests: list[Sent] = []
        self.handler: Handler = openai_media
        self.refuse: list[int] = []
        """Statuses that the next requests get as soon as their heads have come."""
        self.may_read = threading.Event()
        self.may_read.set()
        """While it is not set, bodies are not read."""

    def __enter__(self) -> Self:
        super().__enter__()
        self.url = f"http://127.0.0.1:{self.port}/v1"
        return self

    def reset(self) -> None:
        self.requests, self.handler, self.refuse = [], openai_media, []
        self.may_read.set()

    def wait_request(self, count: int = 1, timeout: float = 10.0) -> Sent:
        """The request of that number, once its head has come."""
        deadline = time.monotonic() + timeout
        while len(self.requests) < count:
            assert time.monotonic() < deadline, f"{len(self.requests)} of {count} requests came in {timeout} s"
            time.sleep(0.002)
        return self.requests[count - 1]

    async def connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        lines = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").split("\r\n")
        headers = {
            name.lower(): value.strip() for name, _, value in (line.partition(":") for line in lines[1:] if line)
        }
        request = Sent(lines[0].split(" ")[1], headers)
        self.requests.append(request)
        try:
            if self.refuse:
                body = json.dumps({"error": {"message": "scripted", "type": "x", "code": None}}).encode()
                async for piece in whole("application/json", body, self.refuse.pop(0)):
                    writer.write(piece)
                await writer.drain()
                return
            if not self.may_read.is_set():
                writer.transport.pause_reading()  # type: ignore[attr-defined]
                while not self.may_read.is_set():
                    await asyncio.sleep(0.005)
                writer.transport.resume_reading()  # type: ignore[attr-defined]
            await self._read_body(request, reader)
            request.ended.set()
            async for piece in self.handler(request):
                writer.write(piece)
                await writer.drain()
        except BaseException:
            request.left.set()
            raise

    async def _read_body(self, request: Sent, reader: asyncio.StreamReader) -> None:
        content_type = request.headers.get("content-type", "")
        kind, options = parse_options_header(content_type)
        if kind != b"multipart/form-data":
            data = b"".join([piece async for piece in _pieces(request, reader)])
            request.body = json.loads(data) if data else None
            return
        parser = form_parser(request, options[b"boundary"])
        async for piece in _pieces(request, reader):
            parser.write(piece)
        assert request.parts


async def _pieces(request: Sent, reader: asyncio.StreamReader) -> AsyncIterator[bytes]:
    if request.headers.get("transfer-encoding") == "chunked":
        while size := await _size(reader):
            yield (await reader.readexactly(size + 2))[:-2]
        await reader.readline()
        return
    left = int(request.headers.get("content-length", "0"))
    while left:
        data = await reader.read(min(left, 2**16))
        if not data:
            raise asyncio.IncompleteReadError(b"", left)
        left -= len(data)
        yield data


async def _size(reader: asyncio.StreamReader) -> int:
    line = await reader.readline()
    if not line:
        raise asyncio.IncompleteReadError(b"", None)
    return int(line, 16)


def form_parser(request: Sent, boundary: bytes) -> MultipartParser:
    header, value, headers = bytearray(), bytearray(), {}

    def end_header() -> None:
        headers[bytes(header).lower()] = bytes(value)
        header.clear()
        value.clear()

    def begin() -> None:
        _, options = parse_options_header(headers[b"content-disposition"])
        filename = options.get(b"filename")
        content_type = headers.get(b"content-type", b"").decode()
        name = filename.decode() if filename is not None else None
        request.parts.append(Part(options[b"name"].decode(), name, content_type))
        headers.clear()

    def data(piece: bytes, start: int, end: int) -> None:
        part = request.parts[-1]
        part.size += end - start
        part.digest.update(piece[start:end])
        if part.filename is None:
            part.text += piece[start:end]
        elif end > start:
            request.begun.set()

    callbacks = {
        "on_header_field": lambda piece, start, end: header.extend(piece[start:end]),
        "on_header_value": lambda piece, start, end: value.extend(piece[start:end]),
        "on_header_end": end_header,
        "on_headers_finished": begin,
        "on_part_data": data,
    }
    return MultipartParser(boundary, callbacks)  # type: ignore[arg-type]
