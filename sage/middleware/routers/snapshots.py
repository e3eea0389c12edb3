"""Snapshots over HTTP: a collection's file as it is written, and one that is received to disk before it is read."""

from __future__ import annotations

import asyncio
import contextlib
import io
import tempfile
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any, BinaryIO, cast
from urllib.parse import quote

from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response

from sage.errors import DeadlineExceeded, InvalidRequest, PayloadTooLarge, SageError, Unavailable
from sage.middleware.auth.principal import Principal
from sage.middleware.gateway.collections.collections import CollectionGateway
from sage.middleware.gateway.watch import ClientLeft
from sage.middleware.routers.http.asgi import Receive, Scope, Send, caller
from sage.middleware.routers.http.openapi_bodies import BYTES

_PIECE = 2**18
_AHEAD = 4  # pieces that may be written before the client has read the first
_PATIENCE = 60.0  # seconds that a client may take for a piece


class _ReaderLeft(SageError):
    """The client left, or reads too slowly."""


class Pipe(io.RawIOBase):
    """A file that a thread writes to and an event loop reads: a few pieces at a time, so that memory stays bounded."""

    def __init__(self) -> None:
        super().__init__()
        self._loop = asyncio.get_running_loop()
        self._pieces: asyncio.Queue[bytes] = asyncio.Queue(_AHEAD)
        self._unsent = bytearray()
        self._abandoned = False

    def writable(self) -> bool:
        return True

    def write(self, data: Any) -> int:
        """On the writer's thread; waits for the reader. Raises when the client no longer reads."""
        self._unsent += data
        while len(self._unsent) >= _PIECE:
            piece = bytes(self._unsent[:_PIECE])
            del self._unsent[:_PIECE]
            self._put(piece)
        return len(data)

    def _put(self, piece: bytes) -> None:
        if self._abandoned:
            raise _ReaderLeft("the client no longer reads this snapshot")
        try:
            asyncio.run_coroutine_threadsafe(self._take(piece), self._loop).result()
        except TimeoutError:
            raise DeadlineExceeded(f"the client took nothing of the snapshot for {_PATIENCE:g} s") from None

    async def _take(self, piece: bytes) -> None:
        async with asyncio.timeout(_PATIENCE):
            await self._pieces.put(piece)
        if self._abandoned:
            raise _ReaderLeft("the client no longer reads this snapshot")

    async def end(self) -> None:
        """On the loop, once the writer has written everything."""
        for piece in (bytes(self._unsent), b""):
            if not self._abandoned:
                await self._pieces.put(piece)

    async def piece(self) -> bytes:
        """The next piece; empty at the end."""
        return await self._pieces.get()

    def abandon(self) -> None:
        """The reader leaves: the writer's next write fails."""
        self._abandoned = True
        while not self._pieces.empty():  # so that a write that waits goes on to its end
            self._pieces.get_nowait()


class SnapshotStream(Response):
    """A file of unknown size as it is written; one that breaks ends short, which clients tell from its end."""

    media_type = BYTES

    def __init__(self, name: str) -> None:
        super().__init__()
        disposition = f"attachment; filename*=UTF-8''{quote(name, safe='')}.snapshot"
        self._head = [(b"content-type", BYTES.encode()), (b"content-disposition", disposition.encode())]
        self._pipe = Pipe()

    async def begin(self, write: Callable[[BinaryIO], Awaitable[None]]) -> None:
        """Returns with the first piece; what fails before it is raised, so that it gets a status of its own."""
        self._work = asyncio.ensure_future(self._written(write))
        # Perhaps no caller is left to see its error.
        self._work.add_done_callback(lambda work: work.cancelled() or work.exception())
        first = asyncio.ensure_future(self._pipe.piece())
        try:
            await asyncio.wait((self._work, first), return_when=asyncio.FIRST_COMPLETED)
            if not first.done():
                self._work.result()
            self._first = await first
        except BaseException:
            first.cancel()
            self._pipe.abandon()
            raise

    async def _written(self, write: Callable[[BinaryIO], Awaitable[None]]) -> None:
        await write(cast(BinaryIO, self._pipe))
        await self._pipe.end()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        disconnect = asyncio.ensure_future(_wait_for_disconnect(receive))
        sending = asyncio.ensure_future(self._send(scope, send))
        try:
            await asyncio.wait((sending, disconnect), return_when=asyncio.FIRST_COMPLETED)
            if not sending.done():
                raise ClientLeft
        finally:
            self._pipe.abandon()
            for task in (sending, disconnect):
                task.cancel()
            await asyncio.gather(sending, disconnect, self._work, return_exceptions=True)
        sending.result()

    async def _send(self, scope: Scope, send: Send) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": self._head})
        piece = self._first
        while piece:
            await send({"type": "http.response.body", "body": piece, "more_body": True})
            piece = await self._next()
        await send({"type": "http.response.body", "body": b"", "more_body": False})

    async def _next(self) -> bytes:
        """The next piece; raises what the writer failed with."""
        next_piece = asyncio.ensure_future(self._pipe.piece())
        await asyncio.wait((next_piece, self._work), return_when=asyncio.FIRST_COMPLETED)
        if not next_piece.done() and self._work.done() and self._work.exception() is not None:
            next_piece.cancel()
            self._work.result()
        return await next_piece


async def _wait_for_disconnect(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass


@contextlib.asynccontextmanager
async def receive_file(request: Request, collections: CollectionGateway) -> AsyncIterator[BinaryIO]:
    """The whole body in a file without a name, on the disk of the collections; gone with the block."""
    who, most = caller(request.scope), collections.limits.max_snapshot
    if int(request.headers.get("content-length", 0)) > most:
        raise _too_large(most)
    file = await collections.upload(who, lambda: tempfile.TemporaryFile(dir=collections.upload_directory()))  # noqa: SIM115
    try:
        size, unwritten = 0, bytearray()
        async for data in request.stream():
            size += len(data)
            if size > most:
                raise _too_large(most)
            unwritten += data
            if len(unwritten) >= _PIECE:
                await _store(collections, who, file, bytes(unwritten))
                unwritten.clear()
        if not size:
            raise InvalidRequest("the body must be a snapshot (GET /collections/{name}/snapshot)")
        await _store(collections, who, file, bytes(unwritten))
        file.seek(0)
        yield cast(BinaryIO, file)
    except ClientDisconnect:
        raise ClientLeft from None
    finally:
        file.close()


async def _store(collections: CollectionGateway, who: Principal, file: Any, data: bytes) -> None:
    try:
        await collections.upload(who, lambda: file.write(data))
    except OSError as exc:
        raise Unavailable(f"the snapshot cannot be stored: {exc.strerror or exc}") from exc


def _too_large(most: int) -> PayloadTooLarge:
    return PayloadTooLarge(f"the snapshot is larger than {most} bytes (retrieval.limits.max_snapshot)")
