"""How far JSON lines were taken in: their documents are stored as they are, so nothing in the collection tells it.

One small file a collection and source in the user's state directory. A line that was acknowledged is in the journal or
is sent again, under the same id, so a lost journal costs time and makes no doubles. A collection that was made anew, or
a file whose beginning changed, is not the one that the journal speaks of.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, BinaryIO

import orjson
import platformdirs


@dataclass(frozen=True, slots=True)
class Position:
    """``offset`` bytes and ``line`` lines are in. ``whole``: the last of them ended with a line end, so that what was
    added behind it since begins a line."""

    offset: int = 0
    line: int = 0
    digest: str = ""
    whole: bool = True


class Journal:
    """Of one source in one collection."""

    def __init__(self, identity: str, source: str, directory: Path | None = None) -> None:
        """``identity`` tells this collection from every other, also from an earlier one of its name."""
        key = hashlib.blake2b(f"{identity}\x00{source}".encode(), digest_size=16).hexdigest()
        home = directory or Path(platformdirs.user_state_dir("sage", appauthor=False))
        self._file = home / "ingest" / f"{key}.json"

    def read(self) -> Position:
        """Where it stopped; the beginning for a journal that is lost or damaged."""
        try:
            found = Position(**orjson.loads(self._file.read_bytes()))
        except (OSError, ValueError, TypeError):
            return Position()
        good = isinstance(found.offset, int) and isinstance(found.line, int) and isinstance(found.digest, str)
        return found if good and found.offset >= 0 and found.line >= 0 else Position()

    def write(self, position: Position) -> None:
        """Best effort: a state directory that cannot be written costs the resuming, not the ingest."""
        with contextlib.suppress(OSError):
            self._file.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            fresh = self._file.with_suffix(f".{os.getpid()}")
            fresh.write_bytes(orjson.dumps(asdict(position)))
            fresh.replace(self._file)


class Prefix:
    """The digest of a file's beginning, as far as it was read; it only goes on."""

    def __init__(self, file: BinaryIO, recipe: str) -> None:
        self._file = file
        self._hash: Any = hashlib.blake2b(recipe.encode(), digest_size=16)
        self._offset = 0

    def up_to(self, offset: int) -> str:
        """Of the first ``offset`` bytes; ``""`` where the file has fewer."""
        self._file.seek(self._offset)
        while self._offset < offset:
            part = self._file.read(min(2**20, offset - self._offset))
            if not part:
                return ""
            self._hash.update(part)
            self._offset += len(part)
        return str(self._hash.hexdigest())
