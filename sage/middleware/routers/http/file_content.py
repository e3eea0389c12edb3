"""The bytes of a file as an answer, whole or one range of them (RFC 9110, 14)."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Awaitable, Callable
from typing import BinaryIO, TypeVar
from urllib.parse import quote

from starlette.responses import Response

from sage.middleware.gateway.watch import ClientLeft
from sage.middleware.routers.http.asgi import Headers, Receive, Scope, Send
from sage.middleware.routers.http.openapi_bodies import BYTES

T = TypeVar("T")
Run = Callable[[Callable[[], bytes]], Awaitable[bytes]]
_PIECE = 2**18  # bytes
_RANGE = re.compile(r"bytes=([0-9]{0,18})-([0-9]{0,18})", re.ASCII)


class FileContent(Response):
    """``file``, which it closes, has ``size`` bytes that never change, known by ``tag``. ``run`` reads it away from the
    event loop. The client is told to save it as ``name``, and never to show it."""

    media_type = BYTES

    def __init__(self, file: BinaryIO, size: int, name: str, tag: str, run: Run) -> None:
        super().__init__()
        self._file = file
        self._size = size
        self._name = name
        self._tag = f'"{tag}"'
        self._run = run

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        sending = asyncio.ensure_future(self._send(scope, send))
        disconnect = asyncio.ensure_future(_wait_for_disconnect(receive))
        try:
            await asyncio.wait((sending, disconnect), return_when=asyncio.FIRST_COMPLETED)
            if not sending.done():
                raise ClientLeft
        finally:
            for task in (sending, disconnect):
                task.cancel()
            await asyncio.gather(sending, disconnect, return_exceptions=True)
            self._file.close()
        sending.result()

    async def _send(self, scope: Scope, send: Send) -> None:
        begin, end, status = self._requested(scope)
        if status == 416:
            begin = end = 0
        await send({"type": "http.response.start", "status": status, "headers": self._head(begin, end, status)})
        place = begin
        while place < end:
            piece = await self._run(lambda: self._read(place, min(_PIECE, end - place)))  # noqa: B023 (awaited at once)
            if not piece:
                raise OSError("the file is shorter than it was")  # the answer ends short, which clients can tell
            place += len(piece)
            await send({"type": "http.response.body", "body": piece, "more_body": True})
        await send({"type": "http.response.body", "body": b"", "more_body": False})

    def _read(self, place: int, size: int) -> bytes:
        self._file.seek(place)
        return self._file.read(size)

    def _head(self, begin: int, end: int, status: int) -> Headers:
        disposition = f"attachment; filename*=UTF-8''{quote(self._name, safe='')}"
        headers = [
            (b"content-type", BYTES.encode()),
            (b"content-length", b"%d" % (end - begin)),
            (b"content-disposition", disposition.encode()),
            (b"accept-ranges", b"bytes"),
            (b"etag", self._tag.encode()),
        ]
        if status == 206:
            headers.append((b"content-range", b"bytes %d-%d/%d" % (begin, end - 1, self._size)))
        elif status == 416:
            headers.append((b"content-range", b"bytes */%d" % self._size))
        return headers

    def _requested(self, scope: Scope) -> tuple[int, int, int]:
        """From where to where, and the status. A header that asks for anything but one range is ignored."""
        headers = {name: value.decode("latin-1") for name, value in scope["headers"]}
        found = _RANGE.fullmatch(headers.get(b"range", "").strip())
        whole = (0, self._size, 200)
        if found is None or headers.get(b"if-range", self._tag) != self._tag:
            return whole
        first, last = found.groups()
        if not first and not last:
            return whole
        if not first:  # the last bytes
            count = min(int(last), self._size)
            return (self._size - count, self._size, 206) if count else (0, 0, 416)
        begin = int(first)
        end = min(int(last) + 1, self._size) if last else self._size
        if last and int(last) < begin:
            return whole
        return (begin, end, 206) if begin < self._size else (0, 0, 416)


async def _wait_for_disconnect(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass
