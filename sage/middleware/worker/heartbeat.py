"""A thread that tells the gateway every two seconds that the worker lives, and looks after the broker's directory."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from sage.errors import PermissionDenied, Unavailable
from sage.middleware.app.version import version
from sage.middleware.queue.celery_app import broker_folder
from sage.middleware.queue.file_messages import remove_stale, unbind
from sage.middleware.queue.messages import QUEUE_PREFIX
from sage.middleware.queue.worker_options import WorkerOptions
from sage.middleware.worker.control import ControlAnswer, ControlConnection

_log = logging.getLogger("sage.worker")
_EVERY = 2.0
_CLEAN_EVERY = 60.0


class WorkerHeartbeat:
    """``on_answer`` gets each answer of the gateway, on this thread."""

    def __init__(self, options: WorkerOptions, on_answer: Callable[[dict[str, Any]], None]) -> None:
        self._control = ControlConnection(options.url, options.credential)
        self._options = options
        self._on_answer = on_answer
        self._ending = threading.Event()
        self._thread = threading.Thread(target=self._beat, name="sage-heartbeat", daemon=True)
        self._complaint = ""

    def first(self) -> dict[str, Any]:
        """Says hello, before the thread does; waits for the gateway.

        Raises :class:`PermissionDenied` when the gateway refuses the credential, :class:`Unavailable` when the worker
        is stopped meanwhile.
        """
        complained = False
        while True:
            answer = self._hello()
            if answer is not None and answer.status == 200:
                return answer.json()
            if answer is not None and answer.status in (401, 403):
                raise PermissionDenied(
                    f"the gateway at {self._options.url} refuses this worker ({answer.status}): SAGE_API_KEY is to be "
                    "a key with the scope 'worker' (sage key add --user NAME --scope worker)"
                )
            said = "does not answer" if answer is None else f"answered with {answer.status}"
            if not complained:
                _log.warning("the gateway at %s %s; waiting for it", self._options.url, said)
                complained = True
            if self._ending.wait(1.0):
                raise Unavailable("stopped before the gateway answered")

    def start(self) -> None:
        """Once."""
        self._thread.start()

    def stop(self) -> None:
        """Says nothing more, so that the worker gets no new jobs."""
        self._ending.set()

    def end(self) -> None:
        """Says goodbye: the gateway gives the worker's jobs to others."""
        self.stop()
        self._tell("/worker/goodbye", {"worker": self._options.name})

    def report_lost(self, job_id: str) -> None:
        """Tells the gateway that the process of a job died, so that it need not wait for the end of the lease."""
        self._tell("/worker/lost", {"id": job_id, "worker": self._options.name})

    def _tell(self, path: str, body: dict[str, Any]) -> None:
        connection = ControlConnection(self._options.url, self._options.credential)  # this thread's own
        connection.post_patiently(path, body, 2.0)
        connection.close()

    def _hello(self) -> ControlAnswer | None:
        body = {
            "worker": self._options.name,
            "concurrency": self._options.concurrency,
            "queues": list(self._options.queues),
            "version": version(),
        }
        try:
            return self._control.post("/worker/hello", body)
        except OSError:
            return None

    def _beat(self) -> None:
        cleaned_at = 0.0
        while not self._ending.wait(_EVERY):
            answer = self._hello()
            self._complain(answer)
            try:
                if answer is not None and answer.status == 200:
                    self._on_answer(answer.json())
                if self._options.queue.broker is None and time.monotonic() - cleaned_at > _CLEAN_EVERY:
                    cleaned_at = time.monotonic()
                    clean_broker_folder(self._options.data_dir)
            except Exception:
                _log.exception("the worker's heartbeat failed")

    def _complain(self, answer: ControlAnswer | None) -> None:
        """Says once what is wrong, and once that it is over."""
        complaint = ""
        if answer is None:
            complaint = "the gateway does not answer; jobs wait for it"
        elif answer.status in (401, 403):
            complaint = "the gateway refuses this worker now; is its key still good?"
        elif answer.status != 200:
            complaint = f"the gateway answers with {answer.status}"
        if complaint and complaint != self._complaint:
            _log.warning(complaint)
        elif self._complaint and not complaint:
            _log.warning("the gateway is back")
        self._complaint = complaint


def clean_broker_folder(data_dir: Path) -> None:
    """Removes what was sent to listeners that are gone (a Flower that has ended), so that nothing more is."""
    folder = broker_folder(data_dir)
    if gone := remove_stale(folder / "messages", _CLEAN_EVERY, QUEUE_PREFIX):
        unbind(folder / "control", gone)
