"""The end of a program: a service that serves keeps it alive; all others stop with it."""

from __future__ import annotations

import logging
import sys
import threading
import weakref
from collections import deque
from typing import Any, NoReturn, Protocol

from sage.forks import forks

_log = logging.getLogger(__name__)


class OpenService(Protocol):
    """A service that has something to stop."""

    @property
    def is_serving(self) -> bool:
        """Whether the program lives on for it, once the main thread has ended without an error."""

    def stop(self) -> None: ...


class ProgramEnd:
    """Stops the services that were opened, when nothing else is left of the program.

    Its thread is the only one that keeps the program alive for them. It waits for the main thread and for the
    program's other threads, which may use the services, then for the end of those that serve, and then stops the
    others. It does not wait for those that serve when the main thread has ended with an exception, with
    ``sys.exit`` of a status other than 0, or at a prompt (Python's, IPython's, a notebook's).
    """

    def __init__(self) -> None:
        self._begin()

    def _begin(self) -> None:
        self._forks = forks.count
        self._changed = threading.Condition()
        self._open: weakref.WeakSet[OpenService] = weakref.WeakSet()
        """One that does not serve is its user's: it stops when nobody holds it any more."""
        self._serving: list[OpenService] = []
        self._held: set[OpenService] = set()
        self._closing: deque[threading.Thread] = deque()
        self._thread: threading.Thread | None = None
        self._error_before = _last_error()
        self._exit_status = _ExitStatus()

    def add(self, service: OpenService) -> None:
        if self._forks != forks.count:
            self._begin()  # the services that are open belong to the parent process
        with self._changed:
            while self._closing and not self._closing[0].is_alive():
                self._closing.popleft()
            self._open.add(service)
            if self._thread is None or not self._thread.is_alive():
                self._thread = _EndThread(target=self._run, name="sage-program-end")
                self._thread.start()

    def hold(self, service: OpenService) -> None:
        """Keeps ``service`` until it is removed: something that does not hold it works only as long as it is open."""
        with self._changed:
            self._held.add(service)

    def await_closing(self, thread: threading.Thread) -> None:
        """Lets the program wait for a daemon thread that is about to end. Takes no lock: a finalizer calls it."""
        self._closing.append(thread)

    def remove(self, service: OpenService) -> None:
        with self._changed:
            self._held.discard(service)
            self._open.discard(service)
        self.notice()

    def notice(self) -> None:
        """To be called when a service has begun or ended to serve."""
        with self._changed:
            self._serving = [service for service in self._open if service.is_serving]
            if self._serving:
                self._exit_status.watch()
            else:
                self._exit_status.unwatch()
            self._changed.notify_all()

    def _run(self) -> None:
        threading.main_thread().join()
        keeps = not self._has_failed() and not _is_interactive()
        while True:
            _join_others()
            with self._changed:
                if keeps:
                    self._changed.wait_for(lambda: not self._serving)
                left = list(self._open)
                self._open.clear()
            for service in left:
                try:
                    service.stop()
                except Exception:  # the others are stopped all the same
                    _log.exception("a service could not be stopped at the end of the program")
            while self._closing:
                self._closing.popleft().join()
            if not self._open:
                return

    def _has_failed(self) -> bool:
        error = _last_error()
        return (error is not None and error is not self._error_before) or self._exit_status.is_error


class _EndThread(threading.Thread):
    """Of another copy of this module, or of a process that was forked: none waits for another."""


class _ExitStatus:
    """Notes the status that the main thread leaves with by ``sys.exit``, which Python does not tell."""

    def __init__(self) -> None:
        self._status: Any = None
        self._exit: Any = None

    @property
    def is_error(self) -> bool:
        return self._status not in (None, 0)

    def watch(self) -> None:
        if self._exit is None:
            self._exit, sys.exit = sys.exit, self._noting_exit

    def unwatch(self) -> None:
        if self._exit is not None and sys.exit == self._noting_exit:
            sys.exit, self._exit = self._exit, None

    def _noting_exit(self, status: Any = None, /) -> NoReturn:
        if threading.current_thread() is threading.main_thread():
            self._status = status
        if self._exit is not None:
            self._exit(status)
        raise SystemExit(status)


def _join_others() -> None:
    """Waits for the threads that keep the program alive, apart from the main thread and this one."""
    while others := [
        thread
        for thread in threading.enumerate()
        if not thread.daemon and thread is not threading.main_thread() and not isinstance(thread, _EndThread)
    ]:
        others[0].join()


def _last_error() -> BaseException | None:
    """The last exception that nobody caught on the main thread, and that Python has shown therefore."""
    return getattr(sys, "last_value", None)


def _is_interactive() -> bool:
    return hasattr(sys, "ps1") or bool(sys.flags.interactive)


program_end = ProgramEnd()
"""One for the whole process, as its end is one."""
