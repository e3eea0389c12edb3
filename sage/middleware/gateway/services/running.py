"""The life of the gateway's services: each is started when it is first needed, and all are stopped together."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sage.errors import SageError, Unavailable
from sage.middleware.gateway.collections.bounded_pool import BoundedPool
from sage.middleware.gateway.services.background import see_error
from sage.middleware.gateway.services.plans import GRACE, NAMES, ServiceDependencies, make_environment, outline
from sage.middleware.settings.services import ServicesSettings

if TYPE_CHECKING:  # brings the runtime of services, which start-up does without
    from sage.api.local_environment import LocalEnvironment
    from sage.kernels.runtime.services.callers import ServiceProxy

_log = logging.getLogger(__name__)
_PAUSE = 1.0
"""Seconds after a failed start before another is tried."""


@dataclass(frozen=True)
class StartFailure:
    """Why a service did not start, and until when (``time.monotonic``) no other start is tried."""

    error: Unavailable
    until: float


class RunningServices:
    """Each service has an environment of its own, so one that cannot start does not hinder the others.

    Every method is for the gateway's event loop, but :meth:`describe` and :meth:`stop`, which are for other threads.
    """

    def __init__(
        self,
        node: str,
        root: Path,
        settings: ServicesSettings,
        dependencies: ServiceDependencies,
        on_start: Callable[[], None],
    ) -> None:
        """``on_start`` is called after each start of a service."""
        self.closed = False
        """No service starts any more."""
        self._open = partial(make_environment, node=node, root=root, settings=settings, dependencies=dependencies)
        self._settings = settings
        self._on_start = on_start
        self._environments: dict[str, LocalEnvironment] = {}
        self._proxies: dict[str, ServiceProxy] = {}
        self._starting: dict[str, asyncio.Task[None]] = {}
        self._failures: dict[str, StartFailure] = {}
        self._threads = BoundedPool("starting services", len(NAMES), 8)

    async def proxy(self, name: str) -> ServiceProxy:
        """What calls the service ``name``; starts it first where it does not run.

        Raises :class:`Unavailable` when it cannot start, or takes longer than ``services.timeout`` to do so.
        """
        return self._proxies.get(name) or await self._started(name)

    async def _started(self, name: str) -> ServiceProxy:
        if self.closed:
            raise _shutting_down()
        failure = self._failures.get(name)
        if failure is not None and (pause := failure.until - time.monotonic()) > 0:
            raise Unavailable(failure.error.message, code=failure.error.code, retry_after=pause)
        starting = self._starting.get(name) or self.start(name)
        done, _ = await asyncio.wait((starting,), timeout=self._settings.timeout)
        if not done:
            raise Unavailable(f"the service '{name}' is still starting; try again soon", code="service_starting")
        starting.result()
        return self._proxies[name]

    def start(self, name: str) -> asyncio.Task[None]:
        """Begins to start the service ``name``; the task ends when it runs, or fails as it does."""
        task = self._starting[name] = asyncio.get_running_loop().create_task(self._start(name))
        task.add_done_callback(see_error)
        return task

    async def _start(self, name: str) -> None:
        try:
            environment = await self._threads.run(partial(self._start_environment, name))
        except Exception as exc:
            error = _start_error(name, exc)
            _log.warning("%s", error.message)
            self._failures[name] = StartFailure(error, time.monotonic() + _PAUSE)
            raise error from exc
        finally:
            del self._starting[name]
        self._failures.pop(name, None)
        self._environments[name] = environment
        self._proxies[name] = environment.call_service_async[name].options(timeout=self._settings.timeout)
        if not self.closed:
            self._on_start()

    def _start_environment(self, name: str) -> LocalEnvironment:
        environment = self._open(name)
        environment.start()
        if self.closed:
            environment.stop()
            raise _shutting_down()
        return environment

    def describe(self, name: str) -> dict[str, Any]:
        """The service as its host describes it, which may ask a backend; else what is known without asking."""
        if (environment := self._environments.get(name)) is not None:
            with suppress(StopIteration):  # it was stopped in the meantime
                return {"error": None, **next(iter(environment.services()))}
        failure = self._failures.get(name)
        if name in self._starting:
            return outline(name, self._settings, "setup", None)
        if failure is not None:
            return outline(name, self._settings, "failed", failure.error.message)
        return outline(name, self._settings, "stopped", None)

    async def end_starts(self) -> None:
        """No service starts from now on; waits for those that are starting."""
        self.closed = True
        if self._starting:
            await asyncio.wait(list(self._starting.values()), timeout=GRACE)

    def stop(self) -> None:
        """Stops every service, the one that was started last first. Blocks."""
        self._proxies.clear()
        while self._environments:
            name, environment = self._environments.popitem()
            try:
                environment.stop()
            except Exception as exc:  # the others are to end, too
                _log.warning("the service '%s' did not end well: %s", name, exc)
        self._threads.close(GRACE)


def _start_error(name: str, exc: Exception) -> Unavailable:
    """The error of a start, in the words of its cause."""
    wrapped = isinstance(exc, SageError) and exc.code == "service_start_failed"
    cause = exc.__cause__ if wrapped and exc.__cause__ is not None else exc
    message = f"the service '{name}' cannot start: {str(cause) or type(cause).__name__}"
    return Unavailable(message, code="service_start_failed", retry_after=_PAUSE)


def _shutting_down() -> Unavailable:
    return Unavailable("the gateway is shutting down; try again soon", code="shutting_down")
