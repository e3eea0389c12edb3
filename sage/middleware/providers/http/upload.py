"""The body of a request that goes out as it comes in: no more of it is taken than the upstream takes."""

from __future__ import annotations

import asyncio
from typing import Protocol

from sage.middleware.providers.base import Upload


class UploadConnection(Protocol):
    """What an upload goes out over."""

    is_full: bool
    """Whether the upstream has not taken yet what was sent."""

    def is_usable(self) -> bool: ...

    def write_upload(self, data: bytes) -> None: ...

    def end_upload(self, last: bytes) -> None: ...

    def end(self) -> None: ...


class UploadPump:
    """Sends an upload over a connection of its own, in a task of its own: the answer may begin before its end."""

    __slots__ = ("_connection", "_is_chunked", "_room", "_task", "_upload", "failure")

    def __init__(self, upload: Upload, connection: UploadConnection) -> None:
        self._upload = upload
        self._connection = connection
        self._is_chunked = upload.length is None
        self._room: asyncio.Future[None] | None = None
        self._task: asyncio.Task[None] | None = None
        self.failure: Exception | None = None
        """What reading the body has raised. The connection is closed then: the upstream never sees an end of it."""

    def start(self) -> None:
        self._task = asyncio.get_running_loop().create_task(self._run())

    def stop(self) -> None:
        """Nothing more is read or sent."""
        if self._task is not None:
            self._task.cancel()

    def wake(self) -> None:
        """The connection takes more, or is closed."""
        if self._room is not None and not self._room.done():
            self._room.set_result(None)

    async def _run(self) -> None:
        connection = self._connection
        try:
            while True:
                while connection.is_full and connection.is_usable():
                    self._room = asyncio.get_running_loop().create_future()
                    await self._room
                if not connection.is_usable():
                    return
                piece = await self._upload.read()
                if not piece:
                    connection.end_upload(b"0\r\n\r\n" if self._is_chunked else b"")
                    return
                connection.write_upload(b"%x\r\n%b\r\n" % (len(piece), piece) if self._is_chunked else piece)
        except Exception as exc:  # whoever waits for the answer raises it
            self.failure = exc
            connection.end()
