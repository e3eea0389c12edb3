"""The progress of ``sage ingest`` on stderr: a bar on a terminal, else a line every ten seconds."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from sage.middleware.cli.language.catalogue import _
from sage.middleware.cli.progress import rich_progress, size_text
from sage.middleware.ingest.summary import Display

_INTERVAL = 10.0  # seconds between lines


@contextmanager
def showing(total: int, unit: str = "") -> Iterator[Display]:
    """Shows progress in the block. ``total`` is the bytes of all files, ``unit`` what is counted beside them: documents
    unless it is given."""
    unit = unit or _("documents")
    progress = rich_progress(
        lambda rich: (
            rich.BarColumn(),
            rich.DownloadColumn(),
            rich.TextColumn(f"{{task.fields[documents]}} {unit}, {{task.fields[rate]:.0f}}/s", markup=False),
            rich.TimeRemainingColumn(),
        )
    )
    if progress is None:
        yield _IngestLines(total, unit)
        return
    with progress:
        yield _IngestBar(progress, total)


class _IngestBar:
    def __init__(self, progress: Any, total: int) -> None:
        self._progress = progress
        self._task = progress.add_task("", total=total, documents=0, rate=0.0)
        self._start = time.monotonic()

    def advance(self, size: int) -> None:
        self._progress.update(self._task, advance=size)

    def sent(self, documents: int) -> None:
        rate = documents / max(time.monotonic() - self._start, 0.001)
        self._progress.update(self._task, documents=documents, rate=rate)


class _IngestLines:
    def __init__(self, total: int, unit: str) -> None:
        self._total = total
        self._unit = unit
        self._done = self._documents = 0
        self._start = self._last = time.monotonic()

    def advance(self, size: int) -> None:
        self._done += size
        self._print()

    def sent(self, documents: int) -> None:
        self._documents = documents
        self._print()

    def _print(self) -> None:
        now = time.monotonic()
        if now - self._last < _INTERVAL:
            return
        self._last = now
        seconds = now - self._start
        left = f"{(self._total - self._done) * seconds / self._done:.0f}" if self._done else "?"
        message = _("{done} of {total}, {count} {unit}, {rate}/s, {left} s left")
        line = message.format(
            done=size_text(self._done),
            total=size_text(self._total),
            count=self._documents,
            unit=self._unit,
            rate=f"{self._documents / seconds:.0f}",
            left=left,
        )
        sys.stderr.write(f"{line}\n")
        sys.stderr.flush()
