"""The lines of a snapshot as they are packed by gzip; what is read may not unpack into much more than it takes."""

from __future__ import annotations

import gzip
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from typing import BinaryIO, cast

import xxhash

from sage.errors import InvalidRequest

_FREE, _RATIO = 16 * 2**20, 200
"""What a snapshot may unpack into: so many bytes, and so many more for each byte of it. Of text it is 3 to 10."""
_SLICE = 2**20  # bytes that are packed at a time


def may_unpack_into(packed: int) -> int:
    """The most bytes that so many ``packed`` ones may become."""
    return _FREE + _RATIO * packed


class PackedWriter:
    """Packs what is written. What follows text so uniform that a reader would take it for a bomb is stored as it is."""

    def __init__(self, stream: BinaryIO) -> None:
        self._stream = _CountedStream(stream)
        self._plain = 0
        self._is_packed = True
        self._gzip = self._member(1)

    def _member(self, level: int) -> gzip.GzipFile:
        return gzip.GzipFile(fileobj=cast(BinaryIO, self._stream), mode="wb", compresslevel=level, mtime=0)

    def write(self, lines: bytes) -> None:
        for start in range(0, len(lines), _SLICE):
            if self._is_packed and self._plain > may_unpack_into(self._stream.count) // 2:
                self._gzip.close()
                self._gzip, self._is_packed = self._member(0), False
            piece = lines[start : start + _SLICE]
            self._gzip.write(piece)
            self._plain += len(piece)

    def close(self) -> None:
        self._gzip.close()


class PackedLines:
    """The lines of a packed stream, each of limited length."""

    def __init__(self, stream: BinaryIO, *, is_trusted: bool) -> None:
        self._stream = _CountedStream(stream)
        self._packed = gzip.GzipFile(fileobj=cast(BinaryIO, self._stream), mode="rb")
        self._plain = 0
        self._is_trusted = is_trusted
        self._checksum = xxhash.xxh3_128()
        self._last = b""
        self._count = 0

    def next(self, limit: int) -> bytes:
        """The next line. Raises :class:`InvalidRequest` at the end, and for one of more than ``limit`` bytes."""
        self._checksum.update(self._last)
        with _unpacking():
            self._last = self._packed.readline(limit + 1)
        if len(self._last) > limit:
            raise bad_snapshot(f"line {self._count + 1} is longer than {limit} bytes")
        self._plain += len(self._last)
        if not self._is_trusted and self._plain > may_unpack_into(self._stream.count):
            raise bad_snapshot(f"{self._stream.count} bytes of it unpack into more than {_RATIO} times as many")
        if not self._last.endswith(b"\n"):
            raise bad_snapshot("it ends too early")
        self._count += 1
        return self._last

    @property
    def checksum(self) -> str:
        """Of all lines before the last one."""
        return self._checksum.hexdigest()

    def check_end(self) -> None:
        with _unpacking():
            rest = self._packed.read(1)
        if rest:
            raise bad_snapshot("there is more after its end")


class _CountedStream:
    """A stream, and how many bytes have gone through it."""

    def __init__(self, stream: BinaryIO) -> None:
        self._stream = stream
        self.count = 0

    def read(self, size: int = -1) -> bytes:
        data = self._stream.read(size)
        self.count += len(data)
        return data

    def write(self, data: bytes) -> int:
        self.count += len(data)
        return self._stream.write(data)

    def flush(self) -> None:
        self._stream.flush()


@contextmanager
def _unpacking() -> Iterator[None]:
    try:
        yield
    except (gzip.BadGzipFile, EOFError, zlib.error) as exc:
        raise bad_snapshot(str(exc)) from None


def bad_snapshot(reason: str) -> InvalidRequest:
    return InvalidRequest(
        f"this is not a complete snapshot of a collection: {reason}; take a new one (sage collections snapshot), or "
        "copy it again",
        code="bad_snapshot",
    )
