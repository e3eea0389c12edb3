"""Clients of a gateway before an ``InstructedUpstream``, which check every answer, and some of which leave early."""

from __future__ import annotations

import asyncio
import contextlib
import json
import random
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any

from instructed_upstream import chunk_text, message, whole_text

PATIENCE = 30.0
"""Seconds that a client waits for the next bytes."""
WHOLE = ("answer", "hold", "tear")
"""What an upstream is told that ends well."""
_LEAVING = (ConnectionError, asyncio.IncompleteReadError)


@dataclass(frozen=True)
class Question:
    """One request: what the upstream does with it, and when its client leaves (``None``: it stays)."""

    number: int
    deed: str = "answer"
    stream: bool = False
    chunks: int = 4
    pause: float = 0.0
    filler: int = 0
    """Bytes of further text in the request."""
    leaves: str | None = None
    """``head`` or ``body``: while it sends; ``sent``: as soon as all is sent, ``waiting``: some ms after that;
    ``reading``: after the first bytes of the answer."""
    after: float = 0.0
    """What of it is done by then, 0 to 1; of ``waiting``, seconds."""
    model: str | None = None
    """``None`` means ``hasty`` for what would last until the client leaves, else ``bench``."""
    picture: int = 0
    """Bytes of a picture in the request."""

    def data(self, key: str) -> tuple[bytes, bytes]:
        """Its head and its body."""
        model = self.model or ("hasty" if self.deed in ("hang", "stall") else "bench")
        text = message(self.number, self.deed, self.chunks, self.pause) + " " + "x" * self.filler
        content: Any = text
        if self.picture:
            url = "data:image/png;base64," + "iVBORw0KGgoA" * (self.picture // 12)
            content = [{"type": "text", "text": text}, {"type": "image_url", "image_url": {"url": url}}]
        body: dict[str, Any] = {"model": model, "messages": [{"role": "user", "content": content}]}
        if self.stream:
            body["stream"] = True
        data = json.dumps(body).encode()
        head = f"POST /v1/chat/completions HTTP/1.1\r\nhost: gateway\r\nauthorization: Bearer {key}\r\n"
        return f"{head}content-type: application/json\r\ncontent-length: {len(data)}\r\n\r\n".encode(), data


@dataclass
class Seen:
    """What came back: how many answers were good, of each status failed, or were not waited for, and what was wrong."""

    good: int = 0
    left: int = 0
    failed: Counter[int] = field(default_factory=Counter)
    broken: Counter[str] = field(default_factory=Counter)
    """Streams that ended with an error event, by its code."""
    faults: list[str] = field(default_factory=list)

    def fault(self, question: Question, text: str) -> None:
        """Notes what was wrong with the answer to ``question``."""
        self.faults.append(f"{question} {text}"[:600])

    async def check(self, question: Question, reader: asyncio.StreamReader) -> bool:
        """Reads one answer and checks all of it; returns whether the connection may be used again."""
        status, headers = await _head(reader)
        answer = await _body(reader, headers)
        fault = self._check(question, status, answer)
        if fault is not None:
            self.fault(question, f"{fault}: {status} {answer[-300:]!r}")
        return fault is None and headers.get("connection") != "close"

    def _check(self, question: Question, status: int, answer: bytes) -> str | None:
        """What is wrong with a whole answer; ``None`` means nothing."""
        if status != 200:
            self.failed[status] += 1
            if question.deed in WHOLE:
                return "failed"
            error = json.loads(answer)["error"]
            return None if status >= 429 and error["code"] and error["message"] else "is no error of ours"
        if not question.stream:
            self.good += 1
            text = json.loads(answer)["choices"][0]["message"]["content"]
            return None if (question.deed, text) == ("answer", whole_text(question.number)) else "is another answer"
        return self._check_stream(question, answer)

    def _check_stream(self, question: Question, answer: bytes) -> str | None:
        *events, last = [part for part in answer.split(b"\n\n") if part and not part.startswith(b":")]
        texts, finish = [], None
        for event in events:
            choice = json.loads(event.removeprefix(b"data: "))["choices"][0]
            texts.append(choice["delta"].get("content"))
            finish = choice["finish_reason"]
        if question.deed in WHOLE and b"[DONE]" in last:
            self.good += 1
            wanted = [chunk_text(question.number, index) for index in range(question.chunks)]
            good = texts == [*wanted, None] and finish == "stop" and last == b"data: [DONE]"
            return None if good else "is another stream"
        if not last.startswith(b'data: {"error"'):
            return "is falsely finished"
        self.broken[json.loads(last.removeprefix(b"data: "))["error"]["code"]] += 1
        wanted = [chunk_text(question.number, index) for index in range(question.chunks // 2)]
        good = texts == wanted[: len(texts)] and finish is None
        if question.deed in WHOLE:
            return "has no good end"
        return None if good else "is another stream before its error"


class Client:
    """One client with one connection, which it keeps while it can: ``await client.ask(question)``."""

    def __init__(self, port: int, key: str, seen: Seen) -> None:
        self._port = port
        self._key = key
        self._seen = seen
        self._streams: tuple[asyncio.StreamReader, asyncio.StreamWriter] | None = None

    async def ask(self, question: Question) -> None:
        """Asks, and notes what came back."""
        try:
            async with asyncio.timeout(PATIENCE):
                await (self._ask(question) if question.leaves is None else self._ask_and_leave(question))
        except _LEAVING as exc:
            self._seen.fault(question, f"was cut off: {exc!r:.200}")
            self.close()
        except TimeoutError:
            self._seen.fault(question, f"had no answer in {PATIENCE:g} s")
            self.close()

    def close(self) -> None:
        """Leaves."""
        if self._streams is not None:
            self._streams[1].transport.abort()
            self._streams = None

    async def _connected(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        if self._streams is None:
            self._streams = await asyncio.open_connection("127.0.0.1", self._port, limit=2**20)
        return self._streams

    async def _ask(self, question: Question) -> None:
        reader, writer = await self._connected()
        writer.write(b"".join(question.data(self._key)))
        if not await self._seen.check(question, reader):
            self.close()

    async def _ask_and_leave(self, question: Question) -> None:
        self._seen.left += 1
        try:
            reader, writer = await self._connected()
            head, body = question.data(self._key)
            if question.leaves in ("head", "body"):
                writer.write(head[: int(question.after * len(head))] if question.leaves == "head" else head)
                if question.leaves == "body":
                    writer.write(body[: int(question.after * len(body))])
                await writer.drain()
                return
            writer.write(head + body)
            await writer.drain()
            if question.leaves == "waiting":
                await asyncio.sleep(question.after)
            elif question.leaves == "reading":
                await reader.read(1 + int(question.after * 2000))
        finally:
            self.close()


async def _head(reader: asyncio.StreamReader) -> tuple[int, dict[str, str]]:
    first, *lines = (await reader.readuntil(b"\r\n\r\n")).decode().split("\r\n")
    headers = dict(line.lower().split(": ", 1) for line in lines if line)
    return int(first.split()[1]), headers


async def _body(reader: asyncio.StreamReader, headers: dict[str, str]) -> bytes:
    if "content-length" in headers:
        return await reader.readexactly(int(headers["content-length"]))
    parts = []
    while size := int(await reader.readuntil(b"\n"), 16):
        parts.append((await reader.readexactly(size + 2))[:-2])
    await reader.readuntil(b"\n")
    return b"".join(parts)


async def ask_all(port: int, key: str, questions: Iterable[Question], clients: int) -> Seen:
    """Asks all of them, with so many clients at a time."""
    seen = Seen()
    waiting: Iterator[Question] = iter(questions)

    async def work() -> None:
        client = Client(port, key, seen)
        with contextlib.closing(client):
            for question in waiting:
                await client.ask(question)

    await asyncio.gather(*(work() for _ in range(clients)))
    return seen


def mixed(
    numbers: Iterable[int], seed: int, deeds: tuple[str, ...], leaving: float, failing: float
) -> Iterator[Question]:
    """A mix of plain requests, streams and large bodies, of which shares leave and fail."""
    dice = random.Random(seed)
    for number in numbers:
        deed = dice.choice(deeds) if dice.random() < failing else "answer"
        stream = dice.random() < 0.4 or deed == "stall"
        chunks, filler = dice.choice((2, 4, 4, 40)), 0
        if dice.random() < 0.02:
            filler = dice.choice((20_000, 100_000, 100_000, 1_500_000))
        leaves, after, pause = None, dice.random(), 0.0
        if dice.random() < leaving:
            leaves = dice.choice(("head", "body", "sent", "waiting", "reading"))
            pause = dice.choice((0.0, 0.005, 0.03))
            after = 0.04 * after if leaves == "waiting" else after
        yield Question(number, deed, stream, chunks, pause, filler, leaves, after)
