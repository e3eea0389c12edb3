"""The files of jobs: parameters and inputs too large for a row. Each job has a directory of its own, made on demand."""

from __future__ import annotations

import os
import shutil
from io import BytesIO
from itertools import chain
from pathlib import Path
from typing import Any, BinaryIO

from sage.middleware.queue.records import NewJob
from sage.private_files import make_private_dir, sync_directory

_PARAMS = "params.json"
_INPUT = "input.jsonl"
_SPOOL = "results.jsonl"
_PIECE = 1 << 20
BOM = b"\xef\xbb\xbf"
"""At the start of an input; no part of its first line."""


class JobFiles:
    """The directories of jobs in ``directory``. Its methods block, and raise :class:`OSError`."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        make_private_dir(directory)

    def of(self, job_id: str) -> Path:
        return self._directory / job_id

    def inline_columns(self, new: NewJob, params: bytes) -> dict[str, Any]:
        """The columns of a job whose parameters and input fit into its row."""
        lines = new.input if isinstance(new.input, bytes) else None
        total = new.total if lines is None or new.total is not None else count_lines(lines)
        return {"params": params, "input": lines, "total": total}

    def write(self, job_id: str, new: NewJob, params: bytes, inline_bytes: int) -> dict[str, Any]:
        """Writes what does not fit into the row, durably; returns the columns of the row."""
        directory = self.of(job_id)
        columns = {"params": params, "input": None, "total": new.total}
        try:
            directory.mkdir(mode=0o700)
            if len(params) > inline_bytes:
                columns["params"] = None
                _write(directory / _PARAMS, params)
            if isinstance(new.input, Path):
                _take(new.input, directory / _INPUT)
            elif new.input is not None and len(new.input) > inline_bytes:
                _write(directory / _INPUT, new.input)
            else:
                columns["input"] = new.input
            if new.input is not None and new.total is None:
                columns["total"] = self._count(directory, columns["input"])
            sync_directory(directory)
            sync_directory(self._directory)
        except BaseException:
            self.remove(job_id)
            raise
        return columns

    def _count(self, directory: Path, lines: Any) -> int:
        if lines is not None:
            return count_lines(lines)
        with open(directory / _INPUT, "rb") as file:
            start = file.readline().removeprefix(BOM)
            return sum(1 for line in chain([start], file) if line.strip())

    def read_params(self, job_id: str) -> bytes:
        return (self.of(job_id) / _PARAMS).read_bytes()

    def open_input(self, job_id: str, inline: bytes | None) -> BinaryIO:
        """The lines of its items; ``inline`` are those in its row."""
        return open(self.of(job_id) / _INPUT, "rb") if inline is None else BytesIO(inline)

    def spool(self, job_id: str) -> Path:
        """The results of its items, in the order in which they came."""
        return self.of(job_id) / _SPOOL

    def take_input(self, job_id: str, lines: Path) -> None:
        """Gives a job its input, durably."""
        make_private_dir(self.of(job_id))
        (self.of(job_id) / _INPUT).unlink(missing_ok=True)
        _take(lines, self.of(job_id) / _INPUT)
        sync_directory(self.of(job_id))
        sync_directory(self._directory)

    def drop_input(self, job_id: str) -> None:
        """Removes an input that the job had no use for."""
        (self.of(job_id) / _INPUT).unlink(missing_ok=True)

    def job_ids(self, before: float) -> list[str]:
        """The jobs with a directory that is older than ``before``, in Unix seconds of the file system."""
        return [entry.name for entry in os.scandir(self._directory) if entry.stat().st_mtime < before]

    def remove(self, job_id: str) -> None:
        """Removes the job's directory, if it has one."""
        shutil.rmtree(self.of(job_id), ignore_errors=True)


def count_lines(lines: bytes) -> int:
    """How many lines are not blank."""
    return sum(1 for line in lines.removeprefix(BOM).split(b"\n") if line.strip())


def _write(path: Path, data: bytes) -> None:
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    with os.fdopen(descriptor, "wb") as file:
        file.write(data)
        file.flush()
        os.fsync(descriptor)


def _take(source: Path, target: Path) -> None:
    """A second name for the file, or a copy where the file system has none; both durable."""
    try:
        os.link(source, target)
    except OSError:
        with open(source, "rb") as file:
            descriptor = os.open(target, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
            with os.fdopen(descriptor, "wb") as copy:
                shutil.copyfileobj(file, copy, _PIECE)
    descriptor = os.open(target, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
