"""A closed-loop load over keep-alive connections that checks every answer completely.

Each request carries a number of its own. Status, JSON, echoed number, model, usage and, in streams, every chunk in
order and exactly once, the finish and ``[DONE]``: whatever is not right counts as a failure.
"""

from __future__ import annotations

import asyncio
import itertools
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from types import TracebackType
from typing import Self, cast

import httptools
import orjson
from wire import FIRST_NUMBER, answer, piece, usage

NUMBERS = "@@@@@@@@"
ANSWER_LIMIT = 30.0
"""Seconds after which an unanswered request is a failure."""


@dataclass(frozen=True)
class Target:
    """Where requests go and what comes back."""

    name: str
    port: int
    model: str
    key: str
    answers_as: str | None
    """The model's name in answers; none: not checked (peers differ)."""
    path: str = "/v1/chat/completions"
    head: str = ""
    """Further lines of each request's head, each with its line end."""


@dataclass
class Result:
    """What one run saw: latencies in seconds, and each kind of failure with an example."""

    requests: int = 0
    seconds: float = 0.0
    latencies: list[float] = field(default_factory=list)
    first_bytes: list[float] = field(default_factory=list)
    failures: Counter[str] = field(default_factory=Counter)

    def quantile(self, share: float) -> float:
        """The latency, in seconds, that ``share`` of the good answers keep."""
        ordered = sorted(self.latencies)
        return ordered[min(int(len(ordered) * share), len(ordered) - 1)] if ordered else float("nan")


def _fault(body: bytes, number: int, target: Target) -> str | None:
    """What is wrong with a whole answer that does not stream; none if nothing is."""
    try:
        reply = orjson.loads(body)
        choice = reply["choices"][0]
        if choice["message"]["content"] != answer(number):
            return f"wrong text {choice['message']['content']!r:.60}"
        if choice["finish_reason"] != "stop":
            return f"finish_reason {choice['finish_reason']!r}"
        if target.answers_as and reply["model"] != target.answers_as:
            return f"model {reply['model']!r}"
        counted = {name: reply["usage"][name] for name in usage(number)}
        return None if counted == usage(number) else f"wrong usage {counted}"
    except (orjson.JSONDecodeError, LookupError, TypeError) as exc:
        return f"not an answer ({exc!r:.60}): {body[:120]!r}"


def _stream_fault(body: bytes, number: int, target: Target, chunks: int, wants_usage: bool) -> str | None:
    """What is wrong with a whole stream; none if nothing is."""
    events = body.split(b"\n\n")
    if events[-2:] != [b"data: [DONE]", b""]:
        return f"stream ends with {body[-60:]!r}"
    index, finishes, counted = 0, 0, None
    try:
        for event in events[:-2]:
            if not event.startswith(b"data: "):
                return f"not an event: {event[:80]!r}"
            chunk = orjson.loads(event[6:])
            if target.answers_as and chunk["model"] != target.answers_as:
                return f"model {chunk['model']!r} in a stream"
            if chunk["choices"]:
                choice = chunk["choices"][0]
                if text := choice["delta"].get("content"):
                    if text != piece(number, index):
                        return f"wrong chunk {text!r:.40} at {index} of a stream"
                    index += 1
                finishes += choice.get("finish_reason") == "stop"
            if chunk.get("usage"):
                counted = {name: chunk["usage"][name] for name in usage(number)}
    except (orjson.JSONDecodeError, LookupError, TypeError, AttributeError) as exc:
        return f"not a chunk ({exc!r:.60}): {event[:120]!r}"
    if (index, finishes) != (chunks, 1):
        return f"{index} of {chunks} chunks and {finishes} finishes in a stream"
    expected = usage(number) if wants_usage else None
    return None if counted == expected else f"usage {counted} in a stream, expected {expected}"


class Connection(asyncio.Protocol):
    """One keep-alive connection: sends the next request as soon as an answer is whole."""

    def __init__(self, load: Load) -> None:
        self._load = load
        self.number: int | None = None
        self.transport: asyncio.Transport | None = None
        self.started = self._first = 0.0
        self._body: list[bytes] = []

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.Transport, transport)
        self._parser = httptools.HttpResponseParser(self)

    def send(self, number: int, data: bytes) -> None:
        assert self.transport is not None
        self.number, self._body, self._first = number, [], 0.0
        self.started = time.perf_counter()
        self.transport.write(data)

    def data_received(self, data: bytes) -> None:
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserError as exc:
            self._end(f"not HTTP: {exc!r:.80}")

    def on_body(self, body: bytes) -> None:
        self._first = self._first or time.perf_counter()
        self._body.append(body)

    def on_message_complete(self) -> None:
        if self.number is None:
            self._load.unasked()
            return self._lose()
        ended, body, number = time.perf_counter(), b"".join(self._body), self.number
        status = self._parser.get_status_code()
        fault = self._load.check(body, number) if status == 200 else f"status {status}: {body[:120]!r}"
        self.number = None
        keep = self._parser.should_keep_alive()
        self._parser = httptools.HttpResponseParser(self)
        self._load.answered(fault, ended - self.started, self._first - self.started)
        if keep:
            self._load.next(self)
        else:
            self._lose()
        return None

    def connection_lost(self, exc: Exception | None) -> None:
        self.transport = None
        if self.number is not None:
            self._end("connection closed before the answer was whole")

    def _end(self, fault: str) -> None:
        """Counts a request as failed and goes on with a new connection."""
        self.number = None
        self._load.answered(fault, 0.0, 0.0)
        self._lose()

    def _lose(self) -> None:
        transport, self.transport = self.transport, None
        if transport is not None:
            transport.abort()
        self._load.lost(self)

    def expire(self, now: float) -> None:
        """Gives a request up that has been without an answer for too long."""
        if self.number is not None and now - self.started > ANSWER_LIMIT:
            self._end(f"no answer in {ANSWER_LIMIT:.0f} s")


class Load:
    """Connections to one target, kept over several runs: ``async with Load(…) as load: await load.run(1000)``."""

    def __init__(
        self, target: Target, connections: int, numbers: Iterator[int] | None = None, *, chunks: int = 0
    ) -> None:
        self._target = target
        self._chunks = chunks
        self._numbers = numbers or itertools.count(FIRST_NUMBER)
        self._connections = [Connection(self) for _ in range(connections)]
        self._tasks: set[asyncio.Task[None]] = set()
        self._requests = [self._request(wants_usage) for wants_usage in (True, False)]
        self._to_send = self._unanswered = 0
        self._result = Result()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        for task in self._tasks:
            task.cancel()
        for connection in self._connections:
            connection.number = None
            if connection.transport is not None:
                connection.transport.abort()

    async def run(self, requests: int) -> Result:
        """Sends that many requests, as fast as the connections answer, and returns what came back."""
        self._to_send = self._unanswered = requests
        self._result = Result(requests)
        self._ended = asyncio.get_running_loop().create_future()
        started = time.perf_counter()
        for connection in self._connections:
            if connection.transport is None:
                self._reconnect(connection)
            else:
                self.next(connection)
        while not self._ended.done():
            await asyncio.wait([self._ended], timeout=1.0)
            for connection in self._connections:
                connection.expire(time.perf_counter())
        self._result.seconds = time.perf_counter() - started
        return self._result

    def check(self, body: bytes, number: int) -> str | None:
        if self._chunks:
            return _stream_fault(body, number, self._target, self._chunks, number % 2 == 0)
        return _fault(body, number, self._target)

    def next(self, connection: Connection) -> None:
        if self._to_send:
            self._to_send -= 1
            number = next(self._numbers)
            connection.send(number, self._requests[number % 2].replace(NUMBERS.encode(), b"%d" % number))

    def answered(self, fault: str | None, seconds: float, first_byte: float) -> None:
        if fault is None:
            self._result.latencies.append(seconds)
            self._result.first_bytes.append(first_byte)
        else:
            self._result.failures[fault] += 1
        self._unanswered -= 1
        if self._unanswered == 0:
            self._ended.set_result(None)

    def unasked(self) -> None:
        self._result.failures["an answer that nobody asked for"] += 1

    def lost(self, connection: Connection) -> None:
        if self._to_send:
            self._reconnect(connection)

    def _reconnect(self, connection: Connection) -> None:
        task = asyncio.get_running_loop().create_task(self._connect(connection))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _connect(self, connection: Connection) -> None:
        loop = asyncio.get_running_loop()
        while self._to_send:
            try:
                await loop.create_connection(lambda: connection, "127.0.0.1", self._target.port)
            except OSError as exc:
                self._to_send -= 1
                self.answered(f"cannot connect: {exc}", 0.0, 0.0)
                await asyncio.sleep(0.01)
            else:
                return self.next(connection)
        return None

    def _request(self, wants_usage: bool) -> bytes:
        """The bytes of a request, with a mark where its number goes; in streams even numbers ask for usage."""
        body = {
            "model": self._target.model,
            "messages": [
                {"role": "system", "content": "You are a helpful assistant. Answer with the number of the question."},
                {"role": "user", "content": f"What is the number of this question? n={NUMBERS}"},
            ],
            "temperature": 0.2,
            "max_tokens": 256,
        }
        if self._chunks:
            body |= {"stream": True} | ({"stream_options": {"include_usage": True}} if wants_usage else {})
        data = orjson.dumps(body)
        head = (
            f"POST {self._target.path} HTTP/1.1\r\nhost: 127.0.0.1:{self._target.port}\r\n"
            f"authorization: Bearer {self._target.key}\r\ncontent-type: application/json\r\n"
            f"accept: */*\r\nuser-agent: bench/1\r\n{self._target.head}content-length: {len(data)}\r\n\r\n"
        )
        return head.encode() + data
