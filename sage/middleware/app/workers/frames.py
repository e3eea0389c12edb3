"""Frames over a stream socket between two processes of one gateway: a length, a kind, and so many bytes."""

from __future__ import annotations

import asyncio
import struct
from abc import ABC, abstractmethod
from collections import deque
from typing import cast

_HEAD = struct.Struct("<IB")
MAX_PAYLOAD = 256 * 1024
"""Bytes of a frame that carries a part of a body; longer ones are cut."""
_MOST_UNREAD = 256 * 1024
"""Bytes that came and were not taken yet, after which no more is read from the socket."""


class PeerGone(Exception):
    """The other process has closed the connection, or has ended."""


def frame(kind: int, payload: bytes = b"") -> bytes:
    """One frame, ready to be sent."""
    return _HEAD.pack(len(payload), kind) + payload


def body_frames(kind: int, body: bytes) -> list[bytes]:
    """``body`` as frames of at most :data:`MAX_PAYLOAD` bytes; none for an empty one."""
    if len(body) <= MAX_PAYLOAD:
        return [frame(kind, body)] if body else []
    return [frame(kind, body[start : start + MAX_PAYLOAD]) for start in range(0, len(body), MAX_PAYLOAD)]


class FrameProtocol(asyncio.Protocol, ABC):
    """Cuts what comes into frames, and knows when no more should be written."""

    def __init__(self) -> None:
        self.transport: asyncio.Transport | None = None
        """``None`` before the connection is there and after it is closed."""
        self._rest = b""
        self._resumed: asyncio.Future[None] | None = None
        self._lost: asyncio.Future[None] | None = None
        self.is_full = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.Transport, transport)

    def connection_lost(self, exc: Exception | None) -> None:
        self.transport = None
        self.resume_writing()
        if self._lost is not None and not self._lost.done():
            self._lost.set_result(None)

    def data_received(self, data: bytes) -> None:
        if self._rest:
            data = self._rest + data
        position, end = 0, len(data)
        while end - position >= _HEAD.size:
            length, kind = _HEAD.unpack_from(data, position)
            start = position + _HEAD.size
            if start + length > end:
                break
            position = start + length
            self.frame_received(kind, data[start:position])
        self._rest = data[position:]

    @abstractmethod
    def frame_received(self, kind: int, payload: bytes) -> None:
        """Takes a frame; an exception closes the connection."""

    def pause_writing(self) -> None:
        self.is_full = True

    def resume_writing(self) -> None:
        self.is_full = False
        resumed, self._resumed = self._resumed, None
        if resumed is not None and not resumed.done():
            resumed.set_result(None)

    def write(self, data: bytes) -> None:
        """Sends frames. Raises :class:`PeerGone`."""
        if self.transport is None or self.transport.is_closing():
            raise PeerGone
        self.transport.write(data)

    async def drain(self) -> None:
        """Waits while the other process takes nothing."""
        while self.is_full and self.transport is not None:
            if self._resumed is None:
                self._resumed = asyncio.get_running_loop().create_future()
            await asyncio.shield(self._resumed)

    async def closed(self) -> None:
        """Returns once the connection is closed, from here or from there: no more frames come."""
        if self.transport is None:
            return
        if self._lost is None:
            self._lost = asyncio.get_running_loop().create_future()
        await asyncio.shield(self._lost)

    def close(self) -> None:
        """Closes the connection; what was written is dropped."""
        if self.transport is not None:
            self.transport.abort()


class FrameBuffer:
    """Frames that came and wait until they are taken. Nothing more is read from the socket while many wait."""

    __slots__ = ("_arrived", "_frames", "_is_over", "_is_paused", "_protocol", "_unread")

    def __init__(self, protocol: FrameProtocol) -> None:
        self._protocol = protocol
        self._frames: deque[tuple[int, bytes]] = deque()
        self._unread = 0
        self._is_paused = False
        self._is_over = False
        self._arrived: asyncio.Future[None] | None = None

    def put(self, kind: int, payload: bytes) -> None:
        if self._is_over:
            return
        self._frames.append((kind, payload))
        self._unread += len(payload)
        if self._unread > _MOST_UNREAD and not self._is_paused and self._protocol.transport is not None:
            self._is_paused = True
            self._protocol.transport.pause_reading()
        self._wake()

    async def take(self) -> tuple[int, bytes]:
        """The next frame, in the order in which they were sent. Raises :class:`PeerGone` after the last."""
        while not self._frames:
            if self._is_over:
                raise PeerGone
            self._arrived = asyncio.get_running_loop().create_future()
            await self._arrived
        kind, payload = self._frames.popleft()
        self._unread -= len(payload)
        if self._unread <= _MOST_UNREAD // 2:
            self._resume()
        return kind, payload

    def end(self) -> None:
        """No more frames come."""
        self._is_over = True
        self._wake()

    def drop(self) -> None:
        """Nobody takes what is left, or what still comes."""
        self._frames.clear()
        self._unread = 0
        self._resume()
        self.end()

    def _resume(self) -> None:
        if self._is_paused and self._protocol.transport is not None:
            self._protocol.transport.resume_reading()
        self._is_paused = False

    def _wake(self) -> None:
        arrived, self._arrived = self._arrived, None
        if arrived is not None and not arrived.done():
            arrived.set_result(None)


class FrameQueue(FrameProtocol):
    """A connection whose frames are taken one by one."""

    def __init__(self) -> None:
        super().__init__()
        self._buffer = FrameBuffer(self)
        self.next_frame = self._buffer.take

    def frame_received(self, kind: int, payload: bytes) -> None:
        self._buffer.put(kind, payload)

    def connection_lost(self, exc: Exception | None) -> None:
        super().connection_lost(exc)
        self._buffer.end()
