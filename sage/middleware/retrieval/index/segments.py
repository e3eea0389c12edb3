"""The files of segments: NAME.seg (numbers, keywords, filters) and NAME.TOKEN.vec (its vectors of one generation).

A file is written under a temporary name, made durable, renamed, and only then named in the manifest. Whoever writes or
removes files holds the lease (:mod:`sage.middleware.retrieval.index.merge_policy`); a reader that mapped a file
keeps it (POSIX).
"""

from __future__ import annotations

import logging
import os
import re
import secrets
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
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
from sage.middleware.retrieval.store.connections import sync_directory
from sage.middleware.retrieval.store.store import SegmentRecord
from sage.middleware.retrieval.vectors.index import VectorIndex
from sage.middleware.settings.retrieval import CollectionOptions

_log = logging.getLogger(__name__)
FORMAT = 1
_OURS = re.compile(r"[0-9a-f]{16}-[0-9a-f]{16}-[0-9a-f]{8}(\.[0-9a-f]{8})?\.(seg|vec)(\.tmp)?")
_THREADS = 4


@dataclass(frozen=True, slots=True)
class Opened:
    """What could be read of a segment. ``segment`` without vectors: they are bad, or of another generation."""

    data: Segment | None
    problems: tuple[str, ...] = ()


class SegmentFiles:
    """The directory of one collection's segments."""

    def __init__(self, directory: Path, collection: str, options: CollectionOptions) -> None:
        self.directory = directory
        self._collection = collection
        self._options = options
        directory.mkdir(mode=0o700, exist_ok=True)

    def open_all(
        self, records: Sequence[SegmentRecord], generation: int, without: frozenset[str] = frozenset()
    ) -> list[Opened]:
        """Checks them side by side. Raises :class:`FileNotFoundError` that names a file that is not there, unless it
        is in ``without``: then it counts as damaged."""
        if sum(record.file_bytes + record.vector_bytes for record in records) < 2**25:
            return [self.open(record, generation, without) for record in records]
        with ThreadPoolExecutor(_THREADS, thread_name_prefix="open-segment") as threads:
            return list(threads.map(lambda record: self.open(record, generation, without), records))

    def open(self, record: SegmentRecord, generation: int, without: frozenset[str] = frozenset()) -> Opened:
        problems: list[str] = []
        vectors = self.open_vectors(record, generation, problems, without)
        try:
            arrays = self._read(record.file, record.file_bytes, record.checksum, _about(record), without)
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
        self, record: SegmentRecord, generation: int, problems: list[str], without: frozenset[str] = frozenset()
    ) -> VectorIndex | None:
        """``None`` when they are of another generation, or bad: that is added to ``problems`` then."""
        if record.generation != generation:
            return None
        if record.vector_file is None:
            return no_vectors(record.size, self._options)
        try:
            about = {**_about(record), "kind": "vectors", "generation": generation}
            return VectorIndex.from_arrays(
                self._read(record.vector_file, record.vector_bytes, record.vector_checksum, about, without)
            )
        except DamagedFile as exc:
            problems.append(exc.message)
        except (KeyError, ValueError, TypeError, IndexError) as exc:
            problems.append(f"index file '{record.vector_file}' is not of this version: {exc}")
        return None

    def _read(
        self, file: str, size: int, checksum: str, about: Mapping[str, Any], without: frozenset[str]
    ) -> dict[str, NDArray[Any]]:
        if not _OURS.fullmatch(file):
            raise DamagedFile(f"the manifest names '{file}', which is no name of an index file")
        try:
            return read_arrays(self.directory / file, size, checksum, {**about, "collection": self._collection})
        except FileNotFoundError as exc:
            if file in without:
                raise DamagedFile(f"index file '{file}' is missing") from None
            raise FileNotFoundError(exc.errno, exc.strerror, file) from None

    def write(self, data: Segment, low: int, high: int, generation: int) -> SegmentRecord:
        """Makes the files of a segment, whose documents must all live; the manifest does not name them yet."""
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
        """The record with a new file of vectors."""
        if vectors.kind == "none":
            return replace(
                record, vector_file=None, vector_bytes=0, vector_checksum="", vector_kind="none", generation=generation
            )
        file = f"{record.name}.{secrets.token_hex(4)}.vec"
        about = {**_about(record), "kind": "vectors", "generation": generation}
        size, checksum = self._write(file, about, vectors.arrays())
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
        handle = os.open(self.directory, os.O_RDONLY | os.O_CLOEXEC)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)
        return size, checksum

    def remove(self, gone: Iterable[SegmentRecord], kept: Iterable[SegmentRecord] = ()) -> None:
        """The files of ``gone`` that none of ``kept`` needs."""
        for file in _files(gone) - _files(kept):
            if _OURS.fullmatch(file):
                _unlink(self.directory / file)

    def remove_strays(self, records: Iterable[SegmentRecord]) -> list[str]:
        """Removes files of our own names that the manifest does not know, and says which. Needs the lease."""
        needed = _files(records)
        strays = sorted(
            entry.name for entry in self.directory.iterdir() if _OURS.fullmatch(entry.name) and entry.name not in needed
        )
        return [name for name in strays if _unlink(self.directory / name)]

    def purge(self, records: Iterable[SegmentRecord]) -> None:
        """Removes every file that the manifest does not know, for good. Needs the lease.

        Raises :class:`Unavailable` when one cannot be removed.
        """
        needed = _files(records)
        self.remove_strays(records)
        left = sorted(
            entry.name for entry in self.directory.iterdir() if _OURS.fullmatch(entry.name) and entry.name not in needed
        )
        if left:
            raise Unavailable(
                f"the collection is not yet purged: its old index file '{left[0]}' cannot be removed; see that its "
                "directory can be written, then purge it again",
                code="not_yet_purged",
            )
        sync_directory(self.directory)


def _unlink(path: Path) -> bool:
    """Whether it is gone. What cannot be removed does no harm: no manifest names it."""
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


def _under(prefix: str, arrays: Mapping[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
    return {key.removeprefix(prefix): array for key, array in arrays.items() if key.startswith(prefix)}


def _files(records: Iterable[SegmentRecord]) -> set[str]:
    found: set[str] = set()
    for record in records:
        found.update(file for file in (record.file, record.vector_file) if file is not None)
    return found
