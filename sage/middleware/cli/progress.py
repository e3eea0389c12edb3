"""How the command line shows work that takes long: bars on a terminal, else a line for each step, all on stderr."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

Show = Callable[[Mapping[str, Any]], None]
"""Takes a step of long work: ``status``, and ``completed`` of ``total`` where it counts any."""


def on_terminal() -> bool:
    """Whether stderr can draw bars."""
    return sys.stderr.isatty() and os.environ.get("TERM") != "dumb"


@contextmanager
def showing_steps(unit: str = "bytes") -> Iterator[Show]:
    """Bars that fill, one a step; or lines. ``unit``: what is counted, such as ``documents``."""
    bars = _rich_progress(unit) if on_terminal() else None
    if bars is None:
        yield _Lines(unit).show
        return
    with bars:
        yield _Bars(bars).show


@contextmanager
def counting_bytes(what: str, total: int | None) -> Iterator[Callable[[int], None]]:
    """A bar that fills by the bytes that are counted; off a terminal, nothing."""
    bars = _rich_progress("bytes") if on_terminal() else None
    if bars is None:
        yield lambda size: None
        return
    task = bars.add_task(_plain(what), total=total)
    with bars:
        yield lambda size: bars.update(task, advance=size)


@contextmanager
def waiting_for(what: str) -> Iterator[None]:
    """A sign of life and the time that has passed, where there is nothing to count; off a terminal, nothing."""
    spinner = _rich_progress(None) if on_terminal() else None
    if spinner is None:
        yield
        return
    spinner.add_task(_plain(what), total=None)
    with spinner:
        yield


def _rich_progress(unit: str | None) -> Any:
    """rich's display, of something counted or of time alone; none where rich is not installed (typer brings it, but can
    do without)."""
    try:
        from rich.console import Console
        from rich.progress import (
            BarColumn,
            DownloadColumn,
            MofNCompleteColumn,
            Progress,
            SpinnerColumn,
            TextColumn,
            TimeElapsedColumn,
            TimeRemainingColumn,
            TransferSpeedColumn,
        )
    except ImportError:
        return None
    text = TextColumn("{task.description}", markup=False)
    console = Console(stderr=True)
    if unit is None:
        return Progress(SpinnerColumn(), text, TimeElapsedColumn(), console=console, transient=True)
    if unit != "bytes":
        left = (MofNCompleteColumn(), TextColumn(unit), TimeRemainingColumn())
        return Progress(text, BarColumn(), *left, console=console)
    return Progress(text, BarColumn(), DownloadColumn(), TransferSpeedColumn(), console=console)


class _Bars:
    def __init__(self, bars: Any) -> None:
        self._bars = bars
        self._tasks: dict[str, Any] = {}
        self._last: str | None = None

    def show(self, step: Mapping[str, Any]) -> None:
        status = _plain(step["status"])
        if status not in self._tasks:
            self._complete()
            self._tasks[status] = self._bars.add_task(status, total=None)
        self._last = status
        self._bars.update(self._tasks[status], completed=step.get("completed") or 0, total=step.get("total"))

    def _complete(self) -> None:
        """What counted nothing is done once the next step begins."""
        if self._last is not None:
            task = self._tasks[self._last]
            if self._bars.tasks[task].total is None:
                self._bars.update(task, completed=1, total=1)


class _Lines:
    def __init__(self, unit: str) -> None:
        self._unit = unit
        self._said: set[str] = set()

    def show(self, step: Mapping[str, Any]) -> None:
        status = _plain(step["status"])
        if status not in self._said:
            self._said.add(status)
            size = f" ({self._of(step['total'])})" if step.get("total") else ""
            sys.stderr.write(f"{status}{size}\n")
            sys.stderr.flush()

    def _of(self, total: float) -> str:
        return size_text(total) if self._unit == "bytes" else f"{total:.0f} {self._unit}"


def size_text(size: float) -> str:
    """Bytes as people read them."""
    for unit in ("B", "KiB", "MiB"):
        if size < 1024:
            return f"{size:.0f} {unit}"
        size /= 1024
    return f"{size:.1f} GiB"


def _plain(text: Any) -> str:
    """One line without what a terminal would obey: it comes from a server."""
    return "".join(char if char.isprintable() else " " for char in str(text))
