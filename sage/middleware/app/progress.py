"""How the command line shows work that takes long: bars on a terminal, else a line for each step, all on stderr."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

Show = Callable[[Mapping[str, Any]], None]
"""Takes a step of a pull: ``status``, and ``completed`` of ``total`` bytes where it counts any."""


def on_terminal() -> bool:
    """Whether stderr can draw bars."""
    return sys.stderr.isatty() and os.environ.get("TERM") != "dumb"


@contextmanager
def showing_steps() -> Iterator[Show]:
    """Bars that fill, one a step; or lines."""
    bars = _rich_progress(counted=True) if on_terminal() else None
    if bars is None:
        yield _Lines().show
        return
    with bars:
        yield _Bars(bars).show


@contextmanager
def waiting_for(what: str) -> Iterator[None]:
    """A sign of life and the time that has passed, where there is nothing to count; off a terminal, nothing."""
    spinner = _rich_progress(counted=False) if on_terminal() else None
    if spinner is None:
        yield
        return
    spinner.add_task(_plain(what), total=None)
    with spinner:
        yield


def _rich_progress(*, counted: bool) -> Any:
    """rich's display; none where rich is not installed (typer brings it, but can do without)."""
    try:
        from rich.console import Console
        from rich.progress import (
            BarColumn,
            DownloadColumn,
            Progress,
            SpinnerColumn,
            TextColumn,
            TimeElapsedColumn,
            TransferSpeedColumn,
        )
    except ImportError:
        return None
    text = TextColumn("{task.description}", markup=False)
    console = Console(stderr=True)
    if not counted:
        return Progress(SpinnerColumn(), text, TimeElapsedColumn(), console=console, transient=True)
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
    def __init__(self) -> None:
        self._said: set[str] = set()

    def show(self, step: Mapping[str, Any]) -> None:
        status = _plain(step["status"])
        if status not in self._said:
            self._said.add(status)
            size = f" ({size_text(step['total'])})" if step.get("total") else ""
            sys.stderr.write(f"{status}{size}\n")
            sys.stderr.flush()


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
