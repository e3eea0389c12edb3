"""When schedules are due, as Celery beat in the worker finds it. The gateway makes the jobs, one for each moment."""

from __future__ import annotations

import contextlib
import logging
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from sage.errors import MissingExtra
from sage.middleware.settings.queue import JobSchedule
from sage.middleware.worker.control import ControlConnection

_log = logging.getLogger("sage.worker")


@dataclass(slots=True)
class _Scheduled:
    rule: JobSchedule
    last: int


class Agenda:
    """The schedules of the gateway, each with the last moment that was done. Moments that have passed meanwhile, while
    nothing ran, count as one: the newest."""

    def __init__(self, control: ControlConnection, clock: Callable[[], float] = time.time) -> None:
        """``control`` belongs to the thread that calls :meth:`fire_due`."""
        self._control = control
        self._clock = clock
        self._entries: dict[str, _Scheduled] = {}

    def __bool__(self) -> bool:
        return bool(self._entries)

    def update(self, schedules: dict[str, dict[str, Any]]) -> None:
        """Takes what the gateway answers to a heartbeat. May be called from another thread."""
        entries: dict[str, _Scheduled] = {}
        for name, said in schedules.items():
            with contextlib.suppress(ValueError, KeyError, TypeError):  # of a gateway that is newer
                fields = {key: said[key] for key in ("cron", "every", "timezone")}
                rule = JobSchedule.model_validate({**fields, "task": "generate", "user": "nobody"})
                known = self._entries.get(name)
                entries[name] = _Scheduled(rule, max(int(said["last"]), 0 if known is None else known.last))
        self._entries = entries

    def fire_due(self) -> float:
        """Tells the gateway of each moment that has come; returns the seconds until the next look."""
        now = self._clock()
        for name, entry in self._entries.items():
            due = entry.rule.latest_due(now)
            if due is not None and due > entry.last and self._tell(name, due):
                entry.last = due
        return 1.005 - now % 1.0  # just after the next second begins

    def _tell(self, name: str, due: int) -> bool:
        """Whether the gateway has taken it; else it is told again."""
        try:
            answer = self._control.post(f"/worker/schedules/{name}/{due}", {})
        except OSError:
            return False
        if answer.status >= 400 and answer.status != 429 and answer.status < 500:
            _log.error("the schedule %s is refused: %d %s", name, answer.status, answer.code)
        return answer.status < 500 and answer.status != 429


class AgendaScheduler:
    """Over Celery beat's scheduler: its entries are those of an :class:`Agenda`, which the gateway keeps."""

    agenda: Agenda

    def setup_schedule(self) -> None:
        """Nothing is on this machine's disk."""

    def tick(self, *_: Any, **__: Any) -> float:
        """Does what is due; returns the seconds until the next tick."""
        return self.agenda.fire_due()


def start_beat(app: Any, agenda: Agenda) -> None:
    """Starts Celery beat on a thread of this process, which ends with the process."""
    try:
        from celery import beat
    except ImportError as exc:
        raise MissingExtra("a worker of jobs", "queue") from exc
    scheduler = type("JobScheduler", (AgendaScheduler, beat.Scheduler), {"agenda": agenda})
    beat.EmbeddedService(app, thread=True, scheduler_cls=scheduler, max_interval=1).start()
