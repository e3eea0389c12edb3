"""Snapshots of one shard for the sharded collection: each is written to a file of its own, and read in parts."""

from __future__ import annotations

import secrets
import tempfile
import threading
from pathlib import Path
from typing import IO, Any, BinaryIO, cast

from sage.errors import SageError, Unavailable
from sage.middleware.retrieval.collection import Collection

_PART = 2**20
"""Bytes of one part."""
_WAIT = 5.0
"""Seconds that a reader waits for bytes that are not written yet, before it is told to ask again."""
_BEGIN_WITHIN = 60.0


class ShardCopies:
    """The snapshots of ``collection`` that are being written or read. Safe to call from several threads."""

    def __init__(self, collection: Collection, directory: Path | None) -> None:
        """``directory`` is where the files lie, without a name; ``None`` means the system's directory for such."""
        self._collection = collection
        self._directory = directory
        self._copies: dict[str, _Copy] = {}

    def begin(self) -> str:
        """Returns once the state is chosen: what is written later is not in it."""
        key = secrets.token_hex(8)
        copy = self._copies[key] = _Copy(self._directory)
        threading.Thread(target=copy.fill, args=(self._collection,), name="sage-shard-copy", daemon=True).start()
        if not copy.begun.wait(_BEGIN_WITHIN):
            self.end(key)
            raise Unavailable("the shard is too busy for a snapshot; try again later")
        if copy.error is not None:
            self.end(key)
            raise copy.error
        return key

    def read(self, key: str) -> bytes | None:
        """The next part; ``None`` when it is not written yet, empty at the end."""
        copy = self._copies.get(key)
        if copy is None:
            raise Unavailable("the shard has no such snapshot any more; begin another")
        return copy.read()

    def end(self, key: str) -> None:
        copy = self._copies.pop(key, None)
        if copy is not None:
            copy.close()

    def close(self) -> None:
        for key in list(self._copies):
            self.end(key)


class _Copy:
    """A file that one thread writes and others read behind it."""

    def __init__(self, directory: Path | None) -> None:
        self.begun = threading.Event()
        self.error: SageError | None = None
        self._file: IO[bytes] = tempfile.TemporaryFile(dir=directory)  # noqa: SIM115 - gone when it is closed
        self._changed = threading.Condition()
        self._written = 0
        self._read = 0
        self._complete = False
        self._closed = False

    def write(self, data: Any) -> int:
        """On the writer's thread. Raises when nobody reads any more."""
        with self._changed:
            if self._closed:
                raise Unavailable("nobody reads this snapshot any more")
            self._file.seek(self._written)
            self._written += self._file.write(data)
            self._changed.notify_all()
        return len(data)

    def flush(self) -> None:
        pass

    def fill(self, collection: Collection) -> None:
        """Writes the whole snapshot; what fails is raised to the reader."""
        try:
            collection.snapshot(cast(BinaryIO, self), self.begun.set)
        except BaseException as exc:
            self.error = exc if isinstance(exc, SageError) else Unavailable(f"the snapshot failed: {exc!r}")
        with self._changed:
            self._complete = True
            self._changed.notify_all()
        self.begun.set()

    def read(self) -> bytes | None:
        with self._changed:
            self._changed.wait_for(lambda: self._complete or self._written > self._read or self._closed, _WAIT)
            if self._closed:
                raise Unavailable("the snapshot was ended")
            if self.error is not None:
                raise (
                    self.error
                    if isinstance(self.error, SageError)
                    else Unavailable(f"the snapshot failed: {self.error}")
                )
            if self._written == self._read:
                return b"" if self._complete else None
            self._file.seek(self._read)
            part = self._file.read(min(_PART, self._written - self._read))
            self._read += len(part)
            return part

    def close(self) -> None:
        with self._changed:
            self._closed = True
            self._file.close()
            self._changed.notify_all()
