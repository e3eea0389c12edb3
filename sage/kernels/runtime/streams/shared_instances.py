"""Instances of functions that several workers of a process share, set up once and cleaned up once."""

from __future__ import annotations

import threading
from typing import Any

from sage.errors import Conflict
from sage.kernels.runtime.services.callers import Callers
from sage.kernels.runtime.streams.stage_function import has_lifecycle


class SharedInstances:
    """Counts the users of each instance: the first one sets it up, the last one cleans it up."""

    def __init__(self) -> None:
        self._users: dict[int, int] = {}
        """By the ``id`` of the instance."""
        self._lock = threading.Lock()

    def acquire(self, instance: Any, callers: Callers) -> None:
        """Raises :class:`Conflict` when the instance works for another environment."""
        with self._lock:
            if hasattr(instance, "_callers"):
                if instance._callers not in (None, callers):
                    raise Conflict(
                        f"this instance of {type(instance).__name__} works for another environment; give it the class"
                    )
                instance._callers = callers
            users = self._users.get(id(instance), 0)
            self._users[id(instance)] = users + 1
            if users == 0 and has_lifecycle(instance) and hasattr(instance, "setup"):
                instance.setup()

    def release(self, instance: Any) -> None:
        with self._lock:
            users = self._users.pop(id(instance), 0)
            if users > 1:
                self._users[id(instance)] = users - 1
            if users != 1:
                return  # others use it, or it was not acquired
            try:
                if has_lifecycle(instance) and hasattr(instance, "cleanup"):
                    instance.cleanup()
            finally:
                if hasattr(instance, "_callers"):
                    instance._callers = None
