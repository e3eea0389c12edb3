"""The files of segments: NAME.seg (numbers, keywords, filters) and NAME.TOKEN.vec (its vectors of one generation).

A file is written under a temporary name, made durable, renamed, and only then named in the manifest. Whoever writes or
removes files holds the lease (:mod:`sage.middleware.retrieval.index.merge_policy`). A reader that has mapped a file
keeps its contents after the file is removed (POSIX).
"""

from __future__ import annotations

import logging
import os
import re
import secrets
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sage.errors import Unavailable
from sage.middleware.retrieval.filters.index import FilterIndex
from sage.middleware.retrieval.index.arrays_file import DamagedFile, read_arrays, write_arrays
from sage.middleware.retrieval.index.view import Segment
from sage.middleware.retrieval.keywords.postings import KeywordIndex
from sage.middleware.retrieval.store.store import SegmentRecord
from sage.middleware.retrieval.vectors.index import VectorIndex
from sage.middleware.settings.retrieval import CollectionOptions
from sage.private_files import sync_directory
from sage.thread_pool import ThreadPool

_log = logging.getLogger(__name__)
FORMAT = 2
"""Of the segment's own file. Increase it also when the analyzer makes other terms of the same text: older files are
then made anew from the document store, since queries would not find the terms in them. Files of vectors stay."""
VECTORS_FORMAT = 1
_FILE_NAME = re.compile(r"[0-9a-f]{16}-[0-9a-f]{16}-[0-9a-f]{8}(\.[0-9a-f]{8})?\.(seg|vec)(\.tmp)?")
_THREADS = 4


@dataclass(frozen=True, slots=True)
class Opened:
    """What could be read of a segment."""

    data: Segment | None
    """``None`` means that its file is damaged. Without vectors, where those are damaged or of another generation."""
    problems: tuple[str, ...] = ()


class SegmentFiles:
    """The directory of one collection's segments."""

    def __init__(self, directory: Path, collection: str, options: CollectionOptions) -> None:
        self.directory = directory
        self._collection = collection
        self._options = options
        if os.access(directory.parent, os.W_OK):  # else it is opened for reading
            directory.mkdir(mode=0o700, exist_ok=True)

    def open_all(
        self, records: Sequence[SegmentRecord], generation: int, missing: frozenset[str] = frozenset()
    ) -> list[Opened]:
        """Reads and checks segments, large ones side by side. Raises :class:`FileNotFoundError` for a file that does
        not exist, unless it is in ``missing``: then it counts as damaged."""
        if sum(record.file_bytes + record.vector_bytes for record in records) < 2**25:
            return [self.open(record, generation, missing) for record in records]
        with ThreadPool(_THREADS, "open-segment") as threads:
            return list(threads.map(lambda record: self.open(record, generation, missing), records))

    def open(self, record: SegmentRecord, generation: int, missing: frozenset[str] = frozenset()) -> Opened:
        problems: list[str] = []
        vectors = self.open_vectors(record, generation, problems, missing)
        try:
            arrays = self._read(record.file, record.file_bytes, record.checksum, _about(record), missing)
            data = Segment(
                arrays["numbers"],
                None,
                KeywordIndex.from_arrays(_under("keywords/", arrays)),
                FilterIndex.from_arrays(_under("filters/", arrays)),
                vectors,
            )
        except DamagedFile as exc:
            return Opened(None, (exc.message, *problems))
        except (KeyError, ValueError, TypeError, IndexError) as exc:
            return Opened(None, (f"index file '{record.file}' is not of this version: {exc}", *problems))
        return Opened(data, tuple(problems))

    def open_vectors(
        self, record: SegmentRecord, generation: int, problems: list[str], missing: frozenset[str] = frozenset()
    ) -> VectorIndex | None:
        """``None`` when they are of another generation, or damaged, which is then added to ``problems``."""
        if record.generation != generation:
            return None
        if record.vector_file is None:
            return no_vectors(record.size, self._options)
        try:
            about = _about_vectors(record, generation)
            return VectorIndex.from_arrays(
                self._read(record.vector_file, record.vector_bytes, record.vector_checksum, about, missing)
            )
        except DamagedFile as exc:
            problems.append(exc.message)
        except (KeyError, ValueError, TypeError, IndexError) as exc:
            problems.append(f"index file '{record.vector_file}' is not of this version: {exc}")
        return None

    def _read(
        self, file: str, size: int, checksum: str, about: Mapping[str, Any], missing: frozenset[str]
    ) -> dict[str, NDArray[Any]]:
        if not _FILE_NAME.fullmatch(file):
            raise DamagedFile(f"the manifest names '{file}', which is not the name of an index file")
        try:
            return read_arrays(self.directory / file, size, checksum, {**about, "collection": self._collection})
        except FileNotFoundError as exc:
            if file in missing:
                raise DamagedFile(f"index file '{file}' is missing") from None
            raise FileNotFoundError(exc.errno, exc.strerror, file) from None

    def write(self, data: Segment, low: int, high: int, generation: int) -> SegmentRecord:
        """Writes the files of a segment without deleted rows; the caller then puts the record into the manifest."""
        name = f"{low:016x}-{high:016x}-{secrets.token_hex(4)}"
        record = SegmentRecord(name, low, high, data.size, f"{name}.seg", 0, "", generation=generation)
        keywords, filters = data.keywords.index(), data.filters
        arrays = {
            "numbers": data.numbers,
            **{f"keywords/{key}": array for key, array in keywords.arrays().items()},
            **{f"filters/{key}": array for key, array in filters.arrays().items()},
        }
        size, checksum = self._write(record.file, _about(record), arrays)
        record = replace(record, file_bytes=size, checksum=checksum)
        try:
            return record if data.vectors is None else self.write_vectors(record, data.vectors, generation)
        except BaseException:
            self.remove([record])
            raise

    def write_vectors(self, record: SegmentRecord, vectors: VectorIndex, generation: int) -> SegmentRecord:
        """Writes a new file of vectors, and returns the record with it."""
        if vectors.kind == "none":
            return replace(
                record, vector_file=None, vector_bytes=0, vector_checksum="", vector_kind="none", generation=generation
            )
        file = f"{record.name}.{secrets.token_hex(4)}.vec"
        size, checksum = self._write(file, _about_vectors(record, generation), vectors.arrays())
        return replace(
            record,
            vector_file=file,
            vector_bytes=size,
            vector_checksum=checksum,
            vector_kind=vectors.kind,
            generation=generation,
        )

    def _write(self, file: str, about: Mapping[str, Any], arrays: Mapping[str, NDArray[Any]]) -> tuple[int, str]:
        temporary = self.directory / f"{file}.tmp"
        about = {**about, "collection": self._collection}
        size, checksum = write_arrays(temporary, about, arrays)
        try:
            temporary.rename(self.directory / file)
        except BaseException:
            temporary.unlink(missing_ok=True)
            raise
        sync_directory(self.directory)
        return size, checksum

    def remove(self, records: Iterable[SegmentRecord], keep: Iterable[SegmentRecord] = ()) -> None:
        """Removes the files of these segments, but those that a segment of ``keep`` needs."""
        for file in _files(records) - _files(keep):
            if _FILE_NAME.fullmatch(file):
                _unlink(self.directory / file)

    def remove_strays(self, records: Iterable[SegmentRecord]) -> list[str]:
        """Removes index files that no segment of ``records`` needs; returns their names. Needs the lease."""
        return [name for name in self._strays(records) if _unlink(self.directory / name)]

    def _strays(self, records: Iterable[SegmentRecord]) -> list[str]:
        needed = _files(records)
        names = sorted(entry.name for entry in self.directory.iterdir())
        return [name for name in names if _FILE_NAME.fullmatch(name) and name not in needed]

    def purge(self, records: Iterable[SegmentRecord]) -> None:
        """Removes every index file that no segment of ``records`` needs, durably. Needs the lease.

        Raises :class:`Unavailable` when one cannot be removed.
        """
        self.remove_strays(records)
        if remaining := self._strays(records):
            raise Unavailable(
                f"the collection is not yet purged: its old index file '{remaining[0]}' cannot be removed; see that "
                "its directory can be written, then purge it again",
                code="not_yet_purged",
            )
        sync_directory(self.directory)


def _unlink(path: Path) -> bool:
    """Whether it was removed. A file that cannot be removed does no harm: no manifest names it."""
    try:
        if path.is_dir() and not path.is_symlink():
            path.rmdir()
        else:
            path.unlink(missing_ok=True)
    except OSError as exc:
        _log.warning("index file '%s' is not needed any more and cannot be removed: %s", path, exc.strerror)
        return False
    return True


def no_vectors(size: int, options: CollectionOptions) -> VectorIndex:
    """The index of documents without vectors."""
    nothing = np.zeros((size, 1), np.float32)
    return VectorIndex.build(nothing, np.zeros(size, np.bool_), options.metric, options.target_recall)


def _about(record: SegmentRecord) -> dict[str, Any]:
    return {"format": FORMAT, "kind": "segment", "segment": record.name, "low": record.low, "high": record.high}


def _about_vectors(record: SegmentRecord, generation: int) -> dict[str, Any]:
    return {**_about(record), "format": VECTORS_FORMAT, "kind": "vectors", "generation": generation}


def _under(prefix: str, arrays: Mapping[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
    return {key.removeprefix(prefix): array for key, array in arrays.items() if key.startswith(prefix)}


def _files(records: Iterable[SegmentRecord]) -> set[str]:
    return {file for record in records for file in (record.file, record.vector_file) if file is not None}
