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
from questions import question
from surfaces import CHAT, Surface
from wire import FIRST_NUMBER, Ask

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
    """The model's name in answers; ``None``: not checked (peers differ)."""
    surface: Surface = CHAT
    head: str = ""
    """Further lines of each request's head, each with its line end."""

    def lines(self) -> str:
        """A request's head but for the length of its body."""
        return (
            f"POST {self.surface.path} HTTP/1.1\r\nhost: 127.0.0.1:{self.port}\r\n"
            f"authorization: Bearer {self.key}\r\ncontent-type: application/json\r\n"
            f"accept: */*\r\nuser-agent: bench/1\r\n{self.head}"
        )


def quantile(values: list[float], share: float) -> float:
    """The value that ``share`` of all do not exceed; not a number when there is none."""
    ordered = sorted(values)
    return ordered[min(int(len(ordered) * share), len(ordered) - 1)] if ordered else float("nan")


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
        return quantile(self.latencies, share)


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

    def send(self, number: int, parts: list[bytes]) -> None:
        assert self.transport is not None
        self.number, self._body, self._first = number, [], 0.0
        self.started = time.perf_counter()
        self.transport.writelines(parts)

    def data_received(self, data: bytes) -> None:
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserError as exc:
            self._end(f"not HTTP: {exc!r:.80}")

    def on_body(self, body: bytes) -> None:
        if not self._first:
            self._first = time.perf_counter()
            self._load.begun += 1
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
            self._load.rested(self)
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
    """Connections to one target, kept over several runs: ``async with Load(…) as load: await load.run(1000)``.

    ``rest`` is how many seconds a connection waits after an answer before it asks again.
    """

    def __init__(
        self,
        target: Target,
        connections: int,
        numbers: Iterator[int] | None = None,
        ask: Ask | None = None,
        rest: float = 0.0,
    ) -> None:
        self._target = target
        self._ask = ask or Ask()
        self._rest = rest
        self._numbers = numbers or itertools.count(FIRST_NUMBER)
        self._connections = [Connection(self) for _ in range(connections)]
        self._tasks: set[asyncio.Task[None]] = set()
        self._questions = [
            question(target.model, target.lines(), self._ask, wants_usage, target.surface.body)
            for wants_usage in (True, False)
        ]
        self._to_send = self._unanswered = 0
        self._result = Result()
        self.begun = 0
        """Answers of which something has come, over all runs."""

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

    async def connect(self) -> None:
        """Opens all connections before the first run, a hundred at a time."""
        loop = asyncio.get_running_loop()
        for start in range(0, len(self._connections), 100):
            some = self._connections[start : start + 100]
            await asyncio.gather(
                *(loop.create_connection(lambda one=one: one, "127.0.0.1", self._target.port) for one in some)
            )

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

    def stop(self) -> None:
        """Lets a run end with the answers that are on their way."""
        self._result.requests -= self._to_send
        self._unanswered -= self._to_send
        self._to_send = 0
        self._end_if_answered()

    def check(self, body: bytes, number: int) -> str | None:
        """What is wrong with the answer; ``None``: nothing."""
        surface, model = self._target.surface, self._target.answers_as
        if self._ask.chunks:
            return surface.stream_fault(body, number, model, self._ask.chunks, number % 2 == 0)
        return surface.answer_fault(body, number, model)

    def next(self, connection: Connection) -> None:
        """Sends a connection's next request, if one is left and none is on its way (a rest may outlast its run)."""
        if connection.number is not None:
            return
        if self._to_send and connection.transport is None:
            self._reconnect(connection)
        elif self._to_send:
            self._to_send -= 1
            number = next(self._numbers)
            connection.send(number, self._questions[number % 2].parts(number))

    def rested(self, connection: Connection) -> None:
        """The same after the rest of this load."""
        if self._rest:
            asyncio.get_running_loop().call_later(self._rest, self.next, connection)
        else:
            self.next(connection)

    def answered(self, fault: str | None, seconds: float, first_byte: float) -> None:
        """Counts one answer."""
        if fault is None:
            self._result.latencies.append(seconds)
            self._result.first_bytes.append(first_byte)
        else:
            self._result.failures[fault] += 1
        self._unanswered -= 1
        self._end_if_answered()

    def unasked(self) -> None:
        """Counts an answer that belongs to no request."""
        self._result.failures["an answer that nobody asked for"] += 1

    def lost(self, connection: Connection) -> None:
        """Opens a connection again that is still needed."""
        if self._to_send:
            self._reconnect(connection)

    def _end_if_answered(self) -> None:
        if self._unanswered == 0 and not self._ended.done():
            self._ended.set_result(None)

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
                if self._to_send:
                    self._to_send -= 1
                    self.answered(f"cannot connect: {exc}", 0.0, 0.0)
                await asyncio.sleep(0.01)
            else:
                return self.next(connection)
        return None
