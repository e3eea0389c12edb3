"""How commands show long work: bars on a terminal, else one line for each step, all on stderr."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

from sage.middleware.cli.language.catalogue import _
from sage.middleware.cli.language.templates import translated
from sage.middleware.cli.output import plain

Show = Callable[[Mapping[str, Any]], None]
"""Takes one step of long work: its ``status``, and ``completed`` of ``total`` where something is counted."""


def rich_progress(make_columns: Callable[[Any], Sequence[Any]], *, transient: bool = False) -> Any:
    """rich's progress display on stderr, with the columns that ``make_columns`` takes from the module
    ``rich.progress``.

    ``None`` where stderr cannot draw bars, and where rich is not installed (typer brings it, but does not need it).
    """
    if not sys.stderr.isatty() or os.environ.get("TERM") == "dumb":
        return None
    try:
        import rich.progress
        from rich.console import Console
    except ImportError:
        return None
    return rich.progress.Progress(*make_columns(rich.progress), console=Console(stderr=True), transient=transient)


@contextmanager
def showing_steps(unit: str = "bytes") -> Iterator[Show]:
    """One bar for each step, or one line. ``unit`` is what is counted, such as ``documents``."""
    bars = rich_progress(lambda rich: _bar_columns(rich, unit))
    if bars is None:
        yield _StepLines(unit).show
        return
    with bars:
        yield _StepBars(bars).show


@contextmanager
def counting_bytes(title: str, total: int | None) -> Iterator[Callable[[int], None]]:
    """A bar that fills by the bytes that are counted; without a terminal, nothing. ``total`` may be ``None``."""
    bars = rich_progress(lambda rich: _bar_columns(rich, "bytes"))
    if bars is None:
        yield lambda size: None
        return
    task = bars.add_task(plain(title), total=total)
    with bars:
        yield lambda size: bars.update(task, advance=size)


@contextmanager
def waiting_for(title: str) -> Iterator[None]:
    """A spinner and the time that has passed, where there is nothing to count; without a terminal, nothing."""
    spinner = rich_progress(
        lambda rich: (rich.SpinnerColumn(), _title_column(rich), rich.TimeElapsedColumn()), transient=True
    )
    if spinner is None:
        yield
        return
    spinner.add_task(plain(title), total=None)
    with spinner:
        yield


def _title_column(rich: Any) -> Any:
    return rich.TextColumn("{task.description}", markup=False)


def _bar_columns(rich: Any, unit: str) -> Sequence[Any]:
    bar = (_title_column(rich), rich.BarColumn())
    if unit == "bytes":
        return *bar, rich.DownloadColumn(), rich.TransferSpeedColumn()
    return *bar, rich.MofNCompleteColumn(), rich.TextColumn(unit), rich.TimeRemainingColumn()


class _StepBars:
    def __init__(self, bars: Any) -> None:
        self._bars = bars
        self._tasks: dict[str, Any] = {}
        self._last: str | None = None

    def show(self, step: Mapping[str, Any]) -> None:
        status = translated(plain(step["status"]))
        if status not in self._tasks:
            self._complete()
            self._tasks[status] = self._bars.add_task(status, total=None)
        self._last = status
        self._bars.update(self._tasks[status], completed=step.get("completed") or 0, total=step.get("total"))

    def _complete(self) -> None:
        """A step without a total is complete once the next one begins."""
        if self._last is not None:
            task = self._tasks[self._last]
            if self._bars.tasks[task].total is None:
                self._bars.update(task, completed=1, total=1)


class _StepLines:
    def __init__(self, unit: str) -> None:
        self._unit = unit
        self._shown: set[str] = set()

    def show(self, step: Mapping[str, Any]) -> None:
        status = translated(plain(step["status"]))
        if status not in self._shown:
            self._shown.add(status)
            size = _(" ({facts})").format(facts=self._size(step["total"])) if step.get("total") else ""
            sys.stderr.write(f"{status}{size}\n")
            sys.stderr.flush()

    def _size(self, total: float) -> str:
        return size_text(total) if self._unit == "bytes" else f"{total:.0f} {self._unit}"


def size_text(size: float) -> str:
    """Bytes for people: ``3 MiB``."""
    for unit in ("B", "KiB", "MiB"):
        if size < 1024:
            return f"{size:.0f} {unit}"
        size /= 1024
    return f"{size:.1f} GiB"
