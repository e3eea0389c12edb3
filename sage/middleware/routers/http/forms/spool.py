"""What was kept of a body: in memory while it is small, in a file without a name beyond that."""

from __future__ import annotations

import asyncio
import tempfile
from typing import IO

IN_MEMORY = 2**20
"""Bytes that are kept in memory."""
_PIECE = 2**18


class FormSpool:
    """Bytes that can be read again from their beginning. Files are written and read on threads."""

    def __init__(self) -> None:
        self.size = 0
        self._memory = bytearray()
        self._file: IO[bytes] | None = None

    @property
    def is_on_disk(self) -> bool:
        return self._file is not None

    async def append(self, data: bytes) -> None:
        """Adds ``data``."""
        self._memory += data
        self.size += len(data)
        if len(self._memory) > (IN_MEMORY if self._file is None else _PIECE):
            unwritten, self._memory = self._memory, bytearray()
            await asyncio.to_thread(self._write, unwritten)

    def _write(self, data: bytearray) -> None:
        if self._file is None:
            self._file = tempfile.TemporaryFile(prefix="sage-form-")  # noqa: SIM115 (closed with this)
        self._file.seek(0, 2)
        self._file.write(data)

    async def read(self, position: int) -> bytes:
        """Up to 256 KiB from ``position`` on, which is less than :attr:`size`."""
        in_file = self.size - len(self._memory)
        if position >= in_file:
            return bytes(self._memory[position - in_file : position - in_file + _PIECE])
        return await asyncio.to_thread(self._read, position, min(_PIECE, in_file - position))

    def _read(self, position: int, size: int) -> bytes:
        assert self._file is not None
        self._file.seek(position)
        return self._file.read(size)

    def clear(self) -> None:
        """Lets go of everything."""
        self.size = 0
        self._memory = bytearray()
        if self._file is not None:
            self._file.close()
            self._file = None
