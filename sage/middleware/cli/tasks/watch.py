"""The live display of jobs: a bar for each on a terminal, else a line for each step."""

from __future__ import annotations

import json
import queue
import threading
import time
from collections import deque
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Protocol

import typer

from sage.errors import CallFailed, SageError
from sage.middleware.cli.language.catalogue import _
from sage.middleware.cli.language.templates import translated
from sage.middleware.cli.output import plain
from sage.middleware.cli.progress import rich_progress
from sage.middleware.cli.tasks.describe import View, progress_facts, progress_text
from sage.middleware.client.jobs import JobsClient

_AT_ONCE = 32
"""Jobs that are followed at a time; the others wait for the end of one of them."""
_STEP = 0.1
"""The share of a job after which it gets a further line."""
_PAUSE = 10.0
"""Seconds after which it gets one in any case."""
Event = tuple[str, View | CallFailed | str]
"""A job's id with its view, with what ended the watch, or with the reason why its stream broke."""


class JobDisplay(Protocol):
    """Shows jobs while they run."""

    def show(self, view: View) -> None: ...

    def note(self, job: str, reason: str) -> None:
        """The gateway does not tell of ``job`` at the moment."""


def watch_jobs(client: JobsClient, jobs: Sequence[str], as_json: bool = False) -> None:
    """Shows ``jobs`` until they have ended. Raises :class:`typer.Exit` with 1 when one has not succeeded, and
    :class:`CallFailed` when the gateway does not tell of one any more."""
    running, failure, succeeded = dict.fromkeys(jobs), None, True
    try:
        with _display(as_json) as display:
            for job, event in _events(client, jobs):
                if isinstance(event, str):
                    display.note(job, event)
                elif isinstance(event, CallFailed):
                    failure = failure or event
                else:
                    display.show(event)
                    if event["finished_at"] is not None:
                        running.pop(job, None)
                        succeeded = succeeded and event["state"] == "succeeded"
    except KeyboardInterrupt:
        _say_that_they_go_on(list(running))
        raise
    if failure is not None:
        raise failure
    if not succeeded:
        raise typer.Exit(1)


def _say_that_they_go_on(jobs: Sequence[str]) -> None:
    message = _("the job goes on; to see it again: {command}")
    if len(jobs) != 1:
        message = _("the jobs go on; to see them again: {command}")
    command = "sage tasks watch" if len(jobs) > 5 else f"sage tasks watch {' '.join(jobs)}"
    typer.echo(f"sage: {_('interrupted')}; {message.format(command=command)}", err=True)


def _events(client: JobsClient, jobs: Sequence[str]) -> Iterator[Event]:
    """What happens to ``jobs``, until each has ended or cannot be watched any more."""
    waiting, left = deque(jobs), len(jobs)
    events: queue.SimpleQueue[Event | None] = queue.SimpleQueue()

    def follow() -> None:
        while waiting:
            try:
                job = waiting.popleft()
            except IndexError:
                return
            try:
                for view in client.watch(job, lambda reason, job=job: events.put((job, reason))):  # type: ignore[misc]
                    events.put((job, view))
            except CallFailed as exc:
                events.put((job, exc))
            except SageError as exc:
                events.put((job, CallFailed(exc.message)))
            events.put(None)

    for _number in range(min(_AT_ONCE, len(jobs))):
        threading.Thread(target=follow, daemon=True).start()
    while left:
        event = events.get()
        if event is None:
            left -= 1
        else:
            yield event


@contextmanager
def _display(as_json: bool) -> Iterator[JobDisplay]:
    if as_json:
        yield _JsonLines()
        return
    bars = rich_progress(
        lambda rich: (
            rich.TextColumn("{task.description}", markup=False),
            rich.BarColumn(),
            rich.TextColumn("{task.fields[facts]}", markup=False),
        )
    )
    if bars is None:
        yield _Lines()
        return
    with bars:
        yield _Bars(bars)


class _JsonLines:
    """Every view on a line of JSON, for programs."""

    def show(self, view: View) -> None:
        typer.echo(json.dumps(view, ensure_ascii=False))

    def note(self, job: str, reason: str) -> None:
        typer.echo(_broken(job, reason), err=True)


class _Bars:
    def __init__(self, bars: Any) -> None:
        self._bars = bars
        self._tasks: dict[str, Any] = {}

    def show(self, view: View) -> None:
        progress = view["progress"]
        total, finished = progress["total"], progress["done"] + progress["failed"]
        if view["finished_at"] is not None and total is None:
            total = finished = max(finished, 1)
        title = f"{view['kind']} {view['id']}"
        if view["id"] not in self._tasks:
            self._tasks[view["id"]] = self._bars.add_task(plain(title), total=total, facts="")
        self._bars.update(self._tasks[view["id"]], total=total, completed=finished, facts=_facts(view))
        if view["finished_at"] is not None:
            self._bars.refresh()

    def note(self, job: str, reason: str) -> None:
        if job in self._tasks:
            self._bars.update(self._tasks[job], facts=plain(_("waiting for the gateway")))


class _Lines:
    """A line when a job begins or ends, after each tenth of it, and every ten seconds."""

    def __init__(self) -> None:
        self._shown: dict[str, tuple[str, float, float]] = {}
        self._is_broken: set[str] = set()

    def show(self, view: View) -> None:
        progress, now = view["progress"], time.monotonic()
        share = (progress["done"] + progress["failed"]) / progress["total"] if progress["total"] else 0.0
        state, last_share, at = self._shown.get(view["id"], ("", 0.0, 0.0))
        self._is_broken.discard(view["id"])
        if state == view["state"] and share - last_share < _STEP and now - at < _PAUSE:
            return
        self._shown[view["id"]] = view["state"], share, now
        typer.echo(f"{plain(view['id'])}: {_(view['state'])}, {progress_text(view)}{_cause(view)}")

    def note(self, job: str, reason: str) -> None:
        if job not in self._is_broken:
            self._is_broken.add(job)
            typer.echo(_broken(job, reason), err=True)


def _facts(view: View) -> str:
    """What stands behind a bar: ``120/2000  failed: 3  41/s  time left: 46 s``."""
    state = [] if view["state"] == "running" else [_(view["state"])]
    return "  ".join([*progress_facts(view), *state]) + _cause(view)


def _cause(view: View) -> str:
    error = view["error"]
    return f": {plain(error['message'])}" if error is not None else ""


def _broken(job: str, reason: str) -> str:
    message = _("{job}: {reason}; trying again")
    return "sage: " + message.format(job=plain(job), reason=translated(reason))
