"""How far ``sage ingest`` has come: a bar on a terminal, else a line now and then, on stderr."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from sage.middleware.cli.ingest.summary import Display
from sage.middleware.cli.progress import on_terminal, size_text

_EVERY = 10.0  # seconds between lines


@contextmanager
def showing(total: int, what: str = "documents") -> Iterator[Display]:
    """``total``: bytes of all files. ``what``: they are sent, or only read."""
    progress = _rich(what) if on_terminal() else None
    if progress is None:
        yield _Lines(total, what)
        return
    with progress:
        yield _Bar(progress, total)


def _rich(what: str) -> Any:
    try:
        from rich.console import Console
        from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn
    except ImportError:
        return None
    count = TextColumn(f"{{task.fields[documents]}} {what}, {{task.fields[rate]:.0f}}/s", markup=False)
    return Progress(BarColumn(), DownloadColumn(), count, TimeRemainingColumn(), console=Console(stderr=True))


class _Bar:
    def __init__(self, progress: Any, total: int) -> None:
        self._progress = progress
        self._task = progress.add_task("", total=total, documents=0, rate=0.0)
        self._begun = time.monotonic()

    def advance(self, size: int) -> None:
        self._progress.update(self._task, advance=size)

    def sent(self, documents: int) -> None:
        rate = documents / max(time.monotonic() - self._begun, 0.001)
        self._progress.update(self._task, documents=documents, rate=rate)


class _Lines:
    def __init__(self, total: int, what: str) -> None:
        self._total = total
        self._what = what
        self._done = self._documents = 0
        self._begun = self._last = time.monotonic()

    def advance(self, size: int) -> None:
        self._done += size
        self._tell()

    def sent(self, documents: int) -> None:
        self._documents = documents
        self._tell()

    def _tell(self) -> None:
        now = time.monotonic()
        if now - self._last < _EVERY:
            return
        self._last = now
        rate = self._documents / (now - self._begun)
        left = (self._total - self._done) * (now - self._begun) / self._done if self._done else None
        eta = f", {left:.0f} s left" if left is not None else ""
        sys.stderr.write(
            f"{size_text(self._done)} of {size_text(self._total)}, {self._documents} {self._what}, {rate:.0f}/s{eta}\n"
        )
        sys.stderr.flush()
