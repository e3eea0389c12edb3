"""``sage ingest --watch``: keeps a collection as directories are, until it is stopped.

Changes are told by the kernel (watchfiles), and looked for once a minute, since network file systems tell nothing.
A file is read again when its time of change, its size or its number differs from what was read. What the collection
has is compared as in every run, so nothing is lost when this program or the gateway restarts.
"""

from __future__ import annotations

import contextlib
import os
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import typer

from sage.errors import CallFailed, InvalidRequest, MissingExtra
from sage.middleware.cli.ingest.command import Connect, IngestOptions, new_summary, report, run
from sage.middleware.cli.language.catalogue import _
from sage.middleware.cli.language.templates import translated
from sage.middleware.ingest.files import FileEntry, Walk

_STILL = 500
"""Milliseconds without a change after which changes are taken."""
_LONGEST = 5000
"""Milliseconds after which they are taken although there are more."""
_LOOKS = 60.0
"""Seconds between two looks at all files."""
_SOON = 2.0
"""Seconds until the second look, by which the watcher surely watches."""
_PAUSES = (1.0, 2.0, 5.0, 10.0, 30.0)
"""Seconds between attempts to reach a gateway; the last one again and again."""

_State = tuple[int, int, int]


@dataclass
class DirectoryWatch:
    """``stop`` ends it; without it Ctrl-C does."""

    options: IngestOptions
    arguments: Sequence[Path]
    connect: Connect
    as_json: bool = False
    stop: threading.Event = field(default_factory=threading.Event)
    looks: float = _LOOKS
    _changed: threading.Event = field(default_factory=threading.Event)
    _read: dict[str, _State] = field(default_factory=dict)
    """What was read of each file, by its source."""

    def run(self) -> None:
        """Raises :class:`SageError` for what keeps the first run from its work, and later for what no waiting mends."""
        for argument in self.arguments:
            if str(argument) == "-" or not argument.exists():
                raise InvalidRequest(f"{argument}: --watch needs files and directories that are there")
        watcher = self._watcher()
        watcher.start()
        self._look(first=True)
        directories = ", ".join(map(str, self.arguments))
        typer.echo(_("watching {directories}; Ctrl-C ends it").format(directories=directories), err=True)
        pause = _SOON
        with contextlib.suppress(KeyboardInterrupt):
            while not self.stop.is_set():
                self._changed.wait(pause)
                self._changed.clear()
                self._look_patiently()
                pause = self.looks
        self.stop.set()

    def _watcher(self) -> threading.Thread:
        """Tells whenever something may have changed."""
        try:
            from watchfiles import watch
        except ImportError as exc:
            raise MissingExtra("sage ingest --watch", "ingest") from exc

        def wait() -> None:
            changes = watch(
                *self.arguments,
                watch_filter=None,
                step=_STILL,
                debounce=_LONGEST,
                stop_event=self.stop,
                rust_timeout=500,  # how soon it sees that it should stop
                raise_interrupt=False,
                ignore_permission_denied=True,
            )
            with contextlib.suppress(OSError):  # the directory went away; the looks go on
                for _changes in changes:
                    self._changed.set()

        return threading.Thread(target=wait, name="watched directories", daemon=True)

    def _look_patiently(self) -> None:
        """A gateway that restarts is waited for."""
        attempt = 0
        while not self.stop.is_set():
            try:
                self._look()
            except CallFailed as exc:
                if exc.answer_status is not None and exc.answer_status < 500 and exc.answer_status != 429:
                    raise
                if not attempt:
                    message = _("{error}; trying again until it answers")
                    typer.echo(f"sage: {message.format(error=translated(exc.message))}", err=True)
                self.stop.wait(_PAUSES[min(attempt, len(_PAUSES) - 1)])
                attempt += 1
            else:
                return

    def _look(self, *, first: bool = False) -> None:
        """Ingests what has changed since the last time, and deletes what is gone. A directory that has gone as a whole
        (an unmounted disk) is left as it is."""
        roots = self._roots()
        present = [argument for argument, root in zip(self.arguments, roots, strict=True) if root is not None]
        walk = replace(self.options.walk, skipped=type(self.options.walk.skipped)(), failed=[], roots={})
        states = {file.source: (file, _state_of(file)) for file in walk.find(present)}
        if self._roots() != roots:  # it went away while it was walked, which is not what it holds
            self._changed.set()
            return
        changed = [file for source, (file, state) in states.items() if self._read.get(source) != state]
        is_gone = any(source not in states for source in self._read)
        if not (first or changed or (is_gone and len(present) == len(self.arguments))):
            return
        self._ingest(changed, walk)
        self._read |= {file.source: state for file, state in states.values() if state is not None}
        if len(present) == len(self.arguments):
            self._read = {source: state for source, state in self._read.items() if source in states}

    def _roots(self) -> list[tuple[int, int] | None]:
        """Which file or directory each argument is now; ``None`` means that there is none."""
        return [
            None if (found := _status(argument)) is None else (found.st_dev, found.st_ino)
            for argument in self.arguments
        ]

    def _ingest(self, files: Sequence[FileEntry], walk: Walk) -> None:
        options = replace(self.options, walk=walk, prune=True)
        summary = new_summary(options)
        started = time.monotonic()
        run(options, files, summary, self.connect)
        summary.start = started
        report(summary, self.as_json)


def _state_of(file: FileEntry) -> _State | None:
    """``None`` means that it is gone already."""
    found = _status(file.path)
    return None if found is None else (found.st_mtime_ns, found.st_size, found.st_ino)


def _status(path: str | os.PathLike[str]) -> os.stat_result | None:
    try:
        return os.stat(path)
    except OSError:
        return None
