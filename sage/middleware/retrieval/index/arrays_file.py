"""A file of named arrays: written once, checked as a whole before anything in it is used, never unpickled.

Layout: 8 bytes of magic, the header's length (8 bytes, little endian), the header (JSON: what the file is, and of each
array name, dtype, shape and offset), then the arrays, each at a multiple of 64 bytes. The caller keeps the
file's xxh3-128 (in the database), so that a file that is damaged, cut, or replaced by another one is recognised.

Files have mode 0400, and are replaced, never changed. If another program cut a file while it is mapped, SIGBUS would
end this process; therefore only files over :data:`MAP_FROM` are mapped, and others are read into memory.
"""

from __future__ import annotations

import mmap
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import orjson
import xxhash
from numpy.typing import NDArray

from sage.errors import SageError

Arrays = Mapping[str, NDArray[Any]]
MAGIC = b"SAGEARR\x01"
MAP_FROM = 16 * 2**20  # bytes
_ALIGNMENT = 64
_SLICE = 4 * 2**20  # bytes written or hashed at once
_FIXED = 16  # bytes of magic and header length


class DamagedFile(SageError):
    """The content of a file of arrays is not what was written."""

    default_code = "index_file_damaged"


def write_arrays(path: Path, what: Mapping[str, Any], arrays: Arrays) -> tuple[int, str]:
    """Writes a new file and returns its size in bytes and its xxh3-128. The caller makes its name durable.

    Raises :class:`OSError`, and leaves no file then.
    """
    solid = {name: np.asarray(array, order="C") for name, array in arrays.items()}
    header, offsets = _header(what, solid)
    handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o400)
    try:
        with os.fdopen(handle, "wb", buffering=0) as file:
            output = _Output(file)
            output.add(header)
            for name, array in solid.items():
                output.add(b"\0" * (offsets[name] - output.size))
                output.add(_bytes_of(array))
            os.fsync(file.fileno())
    except BaseException:
        path.unlink(missing_ok=True)
        raise
    return output.size, output.checksum.hexdigest()


def read_arrays(path: Path, size: int, checksum: str, what: Mapping[str, Any]) -> dict[str, NDArray[Any]]:
    """The arrays of a file, read-only, once its size, its checksum and ``what`` are as expected.

    Raises :class:`DamagedFile`, which says what is wrong, and :class:`FileNotFoundError`.
    """
    try:
        handle = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
    except FileNotFoundError:
        raise
    except OSError as exc:
        raise DamagedFile(f"index file '{path.name}' cannot be opened: {exc.strerror}") from exc
    try:
        actual = os.fstat(handle).st_size
        if actual != size:
            raise DamagedFile(f"index file '{path.name}' has {actual} bytes, not the {size} that were written")
        content = _checked(handle, size, checksum, path.name)
    except OSError as exc:
        raise DamagedFile(f"index file '{path.name}' cannot be read: {exc.strerror}") from exc
    finally:
        os.close(handle)
    try:
        return _arrays_in(content, what)
    except (KeyError, TypeError, ValueError) as exc:
        raise DamagedFile(f"index file '{path.name}' is not of this version or not of this collection: {exc}") from exc


class _Output:
    """Writes to a file, and counts its bytes and its checksum."""

    def __init__(self, file: Any) -> None:
        self._file = file
        self.size = 0
        self.checksum = xxhash.xxh3_128()

    def add(self, content: bytes | memoryview) -> None:
        view = memoryview(content)
        while view.nbytes:
            taken = self._file.write(view[:_SLICE])
            self.checksum.update(view[:taken])
            self.size += taken
            view = view[taken:]


def _header(what: Mapping[str, Any], arrays: Arrays) -> tuple[bytes, dict[str, int]]:
    """The first bytes of the file, and where each array starts."""
    relative, offset = {}, 0
    for name, array in arrays.items():
        if array.dtype.hasobject or array.dtype.fields is not None:
            raise TypeError(f"array '{name}' of {array.dtype} cannot be written: only plain numbers can")
        relative[name] = offset
        offset = _aligned(offset + array.nbytes)
    entries = {n: {"dtype": a.dtype.str, "shape": a.shape, "offset": relative[n]} for n, a in arrays.items()}
    content = orjson.dumps({"what": dict(what), "arrays": entries})
    start = _aligned(_FIXED + len(content))
    head = MAGIC + len(content).to_bytes(8, "little") + content
    return head.ljust(start, b"\0"), {name: start + offset for name, offset in relative.items()}


def _aligned(offset: int) -> int:
    return -(-offset // _ALIGNMENT) * _ALIGNMENT


def _bytes_of(array: NDArray[Any]) -> memoryview:
    return array.reshape(-1).view(np.uint8).data


def _checked(handle: int, size: int, checksum: str, name: str) -> memoryview:
    """The content, once its checksum is right. Where it is mapped, it is hashed through a small buffer, which costs no
    page faults."""
    actual = xxhash.xxh3_128()
    if size < MAP_FROM:
        content = bytearray(size)
        view = memoryview(content)
        start = 0
        while start < size and (taken := os.preadv(handle, [view[start:]], start)):
            start += taken
        actual.update(view[:start])
    else:
        buffer = memoryview(bytearray(2**20))
        start = 0
        while start < size and (taken := os.preadv(handle, [buffer], start)):
            actual.update(buffer[:taken])
            start += taken
    if start != size or actual.hexdigest() != checksum:
        raise DamagedFile(f"index file '{name}' does not have the checksum that was written")
    return view.toreadonly() if size < MAP_FROM else memoryview(mmap.mmap(handle, size, access=mmap.ACCESS_READ))


def _arrays_in(content: memoryview, what: Mapping[str, Any]) -> dict[str, NDArray[Any]]:
    if content[:8] != MAGIC:
        raise ValueError("its first bytes are not those of an index file")
    length = int.from_bytes(content[8:_FIXED], "little")
    header = orjson.loads(content[_FIXED : _FIXED + length])
    for key, value in what.items():
        if header["what"].get(key) != value:
            raise ValueError(f"its {key} is {header['what'].get(key)!r}, not {value!r}")
    start = _aligned(_FIXED + length)
    return {name: _array(content, start, entry) for name, entry in header["arrays"].items()}


def _array(content: memoryview, start: int, entry: Mapping[str, Any]) -> NDArray[Any]:
    dtype = np.dtype(entry["dtype"])
    if dtype.hasobject:
        raise ValueError("it contains Python objects")
    shape = tuple(int(length) for length in entry["shape"])
    count = 1
    for length in shape:
        count *= length
    if count:
        return np.frombuffer(content, dtype, count=count, offset=start + int(entry["offset"])).reshape(shape)
    empty = np.empty(shape, dtype)
    empty.flags.writeable = False
    return empty
