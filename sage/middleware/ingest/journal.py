"""How far a file of JSON lines is stored: its documents are stored unchanged, so the collection cannot tell.

There is one small file for each collection and source in the user's state directory. A line that was acknowledged is
in the journal or is sent again under the same id: a lost journal costs time and makes no duplicates. A journal does not
apply to a collection that was created again, or to a file whose beginning has changed.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import orjson
import platformdirs


@dataclass(frozen=True, slots=True)
class Position:
    """The first ``offset`` bytes and ``line`` lines are stored. ``ends_line`` means that they end with a line end, so
    that bytes appended since then begin a new line."""

    offset: int = 0
    line: int = 0
    digest: str = ""
    ends_line: bool = True


class Journal:
    """The journal of one source in one collection."""

    def __init__(self, identity: str, source: str, directory: Path | None = None) -> None:
        """``identity`` differs for every collection, also for an earlier one of the same name."""
        key = hashlib.blake2b(f"{identity}\x00{source}".encode(), digest_size=16).hexdigest()
        state = directory or Path(platformdirs.user_state_dir("sage", appauthor=False))
        self._file = state / "ingest" / f"{key}.json"

    def read(self) -> Position:
        """Where the last run stopped; the beginning if the journal is lost or damaged."""
        try:
            stored = orjson.loads(self._file.read_bytes())
            position = Position(stored["offset"], stored["line"], stored["digest"], stored["whole"])
            valid = isinstance(position.digest, str) and position.offset >= 0 and position.line >= 0
        except (OSError, ValueError, TypeError, KeyError):
            return Position()
        return position if valid else Position()

    def write(self, position: Position) -> None:
        """Writes the position if it can: without a writable state directory the ingest works, but cannot resume."""
        content = {
            "offset": position.offset,
            "line": position.line,
            "digest": position.digest,
            "whole": position.ends_line,  # the name in files that exist already
        }
        with contextlib.suppress(OSError):
            self._file.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            temporary = self._file.with_suffix(f".{os.getpid()}")
            temporary.write_bytes(orjson.dumps(content))
            temporary.replace(self._file)


class Prefix:
    """The digest of a file's beginning, for ascending lengths."""

    def __init__(self, file: BinaryIO, recipe: str) -> None:
        self._file = file
        self._hash: Any = hashlib.blake2b(recipe.encode(), digest_size=16)
        self._offset = 0

    def up_to(self, offset: int) -> str:
        """The digest of the first ``offset`` bytes; ``""`` if the file has fewer."""
        self._file.seek(self._offset)
        while self._offset < offset:
            part = self._file.read(min(2**20, offset - self._offset))
            if not part:
                return ""
            self._hash.update(part)
            self._offset += len(part)
        return str(self._hash.hexdigest())
