"""A scripted upstream for tests: answers like OpenAI until told to misbehave, down to the socket.

with Upstream() as up:
    up.reply(status=500, times=1)          # then the next behaviour, or OpenAI's
    up.stream([chat_chunk("Hi")], cut_after=0)
    ...                                    # talk to up.url
    assert up.requests[0].body["model"] == "m"
"""

from __future__ import annotations

import asyncio
import base64
import contextlib
import json as jsonlib
import socket
import struct
import threading
import time
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Self

from raw_server import RawServer

Event = dict[str, Any] | str | bytes
_REASONS = {200: "OK", 400: "Bad Request", 401: "Unauthorized", 404: "Not Found", 429: "Too Many Requests"}
_STEP = 0.005


@dataclass
class Received:
    """One request as it came, and how its connection went on."""

    method: str
    path: str
    headers: dict[str, str]
    """Names in lower case."""
    raw: bytes
    body: Any
    """The parsed JSON; none if there is none."""
    at: float = field(default_factory=time.monotonic)
    closed_at: float | None = None
    """When the client left before its answer was whole (``time.monotonic``)."""
    closed: threading.Event = field(default_factory=threading.Event)
    """Set when the client left before its answer was whole."""
    answered: threading.Event = field(default_factory=threading.Event)
    """Set once everything that the script says was sent."""


@dataclass(frozen=True)
class Script:
    """What one request gets: writes as (seconds to wait before, bytes), then how the connection ends."""

    writes: tuple[tuple[float, bytes], ...] = ()
    end: str = "keep"
    """``keep``, ``close``, ``reset`` or ``hang``."""
    gate: threading.Event | None = None
    """The last write waits for it."""

    @property
    def fails(self) -> bool:
        """Whether it is no whole answer of success."""
        return self.end != "keep" or not self.writes or not self.writes[0][1].startswith(b"HTTP/1.1 2")


def chat_chunk(text: str | None, finish_reason: str | None = None, **extra: Any) -> dict[str, Any]:
    """One chunk of a chat stream; ``extra`` goes to the top level, over what is there."""
    delta = {} if text is None else {"content": text}
    choice = {"index": 0, "delta": delta, "logprobs": None, "finish_reason": finish_reason}
    return {**_head("chat.completion.chunk"), "choices": [choice], **extra}


def usage_chunk(prompt_tokens: int, completion_tokens: int) -> dict[str, Any]:
    """The chunk without choices that carries a stream's usage."""
    return {**_head("chat.completion.chunk"), "choices": [], "usage": usage(prompt_tokens, completion_tokens)}


def usage(prompt_tokens: int, completion_tokens: int) -> dict[str, int]:
    total = prompt_tokens + completion_tokens
    return {"prompt_tokens": prompt_tokens, "completion_tokens": completion_tokens, "total_tokens": total}


def _head(kind: str, model: str = "upstream-model") -> dict[str, Any]:
    return {"id": "chatcmpl-1", "object": kind, "created": 1_760_000_000, "model": model}


def reply(
    json: Any = None,
    *,
    status: int = 200,
    headers: dict[str, str] | None = None,
    body: bytes | None = None,
    delay: float = 0.0,
    gate: threading.Event | None = None,
) -> Script:
    """A whole answer, after ``delay`` seconds and once ``gate`` is set; without ``json`` and ``body`` an error's."""
    if body is None:
        failure = {"message": f"scripted {status}", "type": "scripted", "param": None, "code": None}
        body = jsonlib.dumps({"error": failure} if json is None else json).encode()
    sent = {"content-type": "application/json", "content-length": str(len(body))} | (headers or {})
    return Script(((delay, _start(status, sent) + body),), gate=gate)


def stream(
    events: Sequence[Event] | None = None,
    *,
    delay: float = 0.0,
    first_byte_delay: float = 0.0,
    cut_after: int | None = None,
    hang_after: int | None = None,
    reset: bool = False,
    clean: bool = False,
    no_done: bool = False,
    split: Sequence[int] = (),
    headers: dict[str, str] | None = None,
    gate: threading.Event | None = None,
) -> Script:
    """A stream of server-sent events, with ``[DONE]`` at its end unless ``no_done``.

    ``cut_after=K`` sends K whole events and half of the next one, then closes (``reset``: by RST; ``clean``: as a
    well-formed end of the HTTP body); ``hang_after=K`` sends K events and then nothing more. ``delay`` seconds pass
    between events, ``first_byte_delay`` before the status line. ``split`` are offsets in the joined events at which
    the bytes are torn into packets of their own. ``gate`` holds back the last write.
    """
    encoded = [_encode(event) for event in (DEFAULT_STREAM if events is None else events)]
    if not no_done:
        encoded.append(b"data: [DONE]\n\n")
    end = "keep"
    if cut_after is not None:
        broken = encoded[cut_after]
        encoded = [*encoded[:cut_after], broken[: len(broken) // 2]]
        end = "reset" if reset else "keep" if clean else "close"
    elif hang_after is not None:
        encoded, end = encoded[:hang_after], "hang"
    if split:
        joined, edges = b"".join(encoded), sorted({0, *split})
        encoded = [joined[a:b] for a, b in zip(edges, [*edges[1:], len(joined)], strict=True)]
        delay = delay or 2 * _STEP
    sent = {"content-type": "text/event-stream", "transfer-encoding": "chunked"} | (headers or {})
    writes = [(first_byte_delay, _start(200, sent))]
    writes += [(delay if i else 0.0, b"%x\r\n%b\r\n" % (len(part), part)) for i, part in enumerate(encoded) if part]
    if end == "keep":
        wait, last = writes.pop()
        writes.append((wait, last + b"0\r\n\r\n"))
    return Script(tuple(writes), end, gate)


def raw(data: bytes) -> Script:
    """These bytes, then the end of the connection."""
    return Script(((0.0, data),), "close")


DEFAULT_STREAM: tuple[Event, ...] = (
    chat_chunk("Hello"),
    chat_chunk(" world"),
    chat_chunk(None, "stop"),
    usage_chunk(3, 2),
)


def _start(status: int, headers: dict[str, str]) -> bytes:
    lines = [f"HTTP/1.1 {status} {_REASONS.get(status, 'Scripted')}", *(f"{k}: {v}" for k, v in headers.items())]
    return "\r\n".join([*lines, "", ""]).encode()


def _encode(event: Event) -> bytes:
    if isinstance(event, bytes):
        return event
    text = event if isinstance(event, str) else jsonlib.dumps(event, ensure_ascii=False)
    return f"data: {text}\n\n".encode()


def openai_like(request: Received) -> Script:
    """What an OpenAI-compatible server would answer: chat, completions and embeddings that echo, and a model list."""
    body = request.body if isinstance(request.body, dict) else {}
    model = body.get("model", "upstream-model")
    if request.path == "/v1/models":
        return reply(
            {"object": "list", "data": [{"id": "upstream-model", "object": "model", "created": 1, "owned_by": "up"}]}
        )
    if request.path == "/v1/embeddings":
        return reply(_embeddings(body, model))
    if request.path not in ("/v1/chat/completions", "/v1/completions"):
        return reply(status=404)
    chat = request.path == "/v1/chat/completions"
    text = _last_text(body) if chat else str(body.get("prompt", ""))
    counted = usage(len(text.split()) + 1, len(text.split()))
    if body.get("stream"):
        return stream(_echo_events(body, model, text, counted, chat))
    choice: dict[str, Any] = {"index": 0, "finish_reason": "stop", "logprobs": None}
    choice |= {"message": {"role": "assistant", "content": text}} if chat else {"text": text}
    return reply(
        {**_head("chat.completion" if chat else "text_completion", model), "choices": [choice], "usage": counted}
    )


def _last_text(body: dict[str, Any]) -> str:
    content = body["messages"][-1]["content"]
    return content if isinstance(content, str) else "".join(part.get("text", "") for part in content)


def _echo_events(body: dict[str, Any], model: str, text: str, counted: dict[str, int], chat: bool) -> list[Event]:
    kind = "chat.completion.chunk" if chat else "text_completion"

    def event(piece: str, finish: str | None) -> dict[str, Any]:
        own = {"delta": {"content": piece} if finish is None else {}} if chat else {"text": piece}
        return {**_head(kind, model), "choices": [{"index": 0, **own, "finish_reason": finish}]}

    words = text.split(" ")
    events: list[Event] = [event(word + " " * (i + 1 < len(words)), None) for i, word in enumerate(words)]
    events.append(event("", "stop"))
    if (body.get("stream_options") or {}).get("include_usage"):
        events.append({**_head(kind, model), "choices": [], "usage": counted})
    return events


def _embeddings(body: dict[str, Any], model: str) -> dict[str, Any]:
    """Vectors of three numbers: the length of the text, its place, and 1."""
    texts = body["input"] if isinstance(body["input"], list) else [body["input"]]
    data = []
    for index, text in enumerate(texts):
        vector: Any = [float(len(text)), float(index), 1.0]
        if body.get("encoding_format") == "base64":
            vector = base64.b64encode(struct.pack("<3f", *vector)).decode()
        data.append({"object": "embedding", "index": index, "embedding": vector})
    tokens = sum(len(str(text).split()) for text in texts)
    return {"object": "list", "data": data, "model": model, "usage": {"prompt_tokens": tokens, "total_tokens": tokens}}


class Upstream(RawServer):
    """The server; ends with its ``with`` block.

    Behaviours are used in the order in which they were given, each for ``times`` requests (none: for all that
    follow); where none is left, ``handler`` answers.
    """

    def __init__(self) -> None:
        super().__init__()
        self.requests: list[Received] = []
        self.accepted = 0
        """Connections so far."""
        self.failed = False
        """Whether an answer since :meth:`reset` was an error, or no whole answer."""
        self.handler: Callable[[Received], Script] = openai_like
        self._scripts: list[tuple[Script, int | None]] = []
        self._arrived = threading.Condition()

    def __enter__(self) -> Self:
        super().__enter__()
        self.url = f"http://127.0.0.1:{self.port}/v1"
        return self

    def reply(self, json: Any = None, *, times: int | None = None, **options: Any) -> None:
        """Answers as :func:`reply` says."""
        self.use(reply(json, **options), times)

    def stream(self, events: Sequence[Event] | None = None, *, times: int | None = None, **options: Any) -> None:
        """Answers as :func:`stream` says."""
        self.use(stream(events, **options), times)

    def hang(self, times: int | None = None) -> None:
        """Takes the request and never answers."""
        self.use(Script(end="hang"), times)

    def close_at_once(self, times: int | None = None) -> None:
        """Takes the request and closes without a byte."""
        self.use(Script(end="close"), times)

    def raw(self, data: bytes, times: int | None = None) -> None:
        """Answers with these bytes and closes."""
        self.use(raw(data), times)

    def use(self, script: Script, times: int | None = None) -> None:
        self._scripts.append((script, times))

    def reset(self) -> None:
        """Forgets the requests and what was scripted."""
        self.requests = []
        self._scripts = []
        self.handler = openai_like
        self.failed = False

    def wait_requests(self, count: int = 1, timeout: float = 10.0) -> list[Received]:
        """The requests so far, once there are ``count`` of them."""
        with self._arrived:
            arrived = self._arrived.wait_for(lambda: len(self.requests) >= count, timeout)
        assert arrived, f"{len(self.requests)} of {count} requests came in {timeout} s"
        return self.requests

    def wait_closed(self, timeout: float = 5.0, index: int = -1) -> Received:
        """The request at ``index``, once its client has left before the answer was whole."""
        request = self.wait_requests(max(1, index + 1), timeout)[index]
        assert request.closed.wait(timeout), f"the client did not close {request.path} in {timeout} s"
        return request

    async def connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.accepted += 1
        async for request in _requests(reader):
            with self._arrived:
                self.requests.append(request)
                script = self._next(request)
                self.failed = self.failed or script.fails
                self._arrived.notify_all()
            if not await self._answer(request, script, reader, writer):
                break

    def _next(self, request: Received) -> Script:
        if not self._scripts:
            return self.handler(request)
        script, times = self._scripts[0]
        if times is not None:
            self._scripts[:1] = [(script, times - 1)] if times > 1 else []
        return script

    async def _answer(
        self, request: Received, script: Script, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> bool:
        """Plays the script while watching for the client to leave; tells whether the connection goes on."""
        playing = asyncio.ensure_future(_play(script, writer))
        leaving = asyncio.ensure_future(_left(reader))
        try:
            await asyncio.wait([playing, leaving], return_when=asyncio.FIRST_COMPLETED)
            if not playing.done() or playing.exception() is not None:
                request.closed_at = time.monotonic()
                request.closed.set()
                return False
            request.answered.set()
            return script.end == "keep"
        finally:
            for task in (playing, leaving):
                task.cancel()
            await asyncio.gather(playing, leaving, return_exceptions=True)


async def _play(script: Script, writer: asyncio.StreamWriter) -> None:
    for i, (wait, data) in enumerate(script.writes):
        await asyncio.sleep(wait)
        while script.gate is not None and i + 1 == len(script.writes) and not script.gate.is_set():
            await asyncio.sleep(_STEP)
        writer.write(data)
        await writer.drain()
    if script.end == "hang":
        await asyncio.Event().wait()
    if script.end == "reset":
        linger = struct.pack("ii", 1, 0)
        writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
        writer.transport.abort()


async def _left(reader: asyncio.StreamReader) -> None:
    """Returns when the peer has closed; what it sends meanwhile stays for the next request."""
    while not reader.at_eof():
        if reader.exception() is not None:
            return
        await asyncio.sleep(_STEP)


async def _requests(reader: asyncio.StreamReader) -> AsyncIterator[Received]:
    with contextlib.suppress(asyncio.IncompleteReadError, ConnectionError):
        while True:
            first, *lines = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").split("\r\n")
            method, path, _ = first.split(" ")
            headers = {
                name.lower(): value.strip() for name, _, value in (line.partition(":") for line in lines if line)
            }
            body = await _body(reader, headers)
            try:
                parsed = jsonlib.loads(body) if body else None
            except ValueError:
                parsed = None
            yield Received(method, path, headers, body, parsed)


async def _body(reader: asyncio.StreamReader, headers: dict[str, str]) -> bytes:
    if headers.get("transfer-encoding", "").lower() != "chunked":
        return await reader.readexactly(int(headers.get("content-length", "0")))
    body = b""
    while size := int(await reader.readline(), 16):
        body += (await reader.readexactly(size + 2))[:-2]
    await reader.readline()
    return body
