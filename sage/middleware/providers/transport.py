"""Sends requests to upstreams: a protocol small enough to fake, and the fake."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from typing import Protocol

from sage.middleware.providers.base import Answering, ReadInChunks, UpstreamRequest, UpstreamResponse


class Transport(Answering, Protocol):
    """Sends requests to upstreams."""

    async def close(self) -> None:
        """Ends every exchange; none begins from now on."""
        ...


class FakeResponse(ReadInChunks):
    """An answer from memory. Each call returns the next of ``chunks``; an exception among them is raised."""

    def __init__(
        self, status: int = 200, chunks: list[bytes | Exception] | None = None, headers: Mapping[str, str] | None = None
    ) -> None:
        self.status = status
        self.headers = headers or {}
        self.closed = False
        self._chunks = list(chunks or [])

    async def read(self) -> bytes:
        body = b""
        while data := await self.chunk():
            body += data
        return body

    async def chunk(self) -> bytes:
        await asyncio.sleep(0)
        if not self._chunks:
            return b""
        item = self._chunks.pop(0)
        if isinstance(item, Exception):
            raise item
        return item

    def close(self) -> None:
        self.closed = True


class FakeTransport:
    """For tests and examples: ``handler`` answers each request from memory; ``sent`` holds the requests."""

    def __init__(self, handler: Callable[[UpstreamRequest], FakeResponse]) -> None:
        self._handler = handler
        self.sent: list[UpstreamRequest] = []

    async def send(self, request: UpstreamRequest) -> UpstreamResponse:
        self.sent.append(request)
        return self._handler(request)

    async def close(self) -> None:
        return None


@asynccontextmanager
async def sending(transport: Transport, request: UpstreamRequest) -> AsyncIterator[UpstreamResponse]:
    """``transport.send``; the answer is closed when the block ends, however it ends."""
    response = await transport.send(request)
    try:
        yield response
    finally:
        response.close()
