"""The gateway's own services: started when first needed, called from the event loop, announced, and stopped.

Each is a service of the environment ``gateway`` and starts by itself: one that cannot is in nobody's way. Every
method that waits is for the gateway's event loop.
"""

from __future__ import annotations

import asyncio
import logging
import os
import secrets
import socket
import threading
import time
from collections.abc import Callable, Coroutine
from concurrent.futures import CancelledError
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from sage.errors import NotFound, SageError, Unavailable
from sage.middleware.gateway.collections.bounded_pool import BoundedPool
from sage.middleware.gateway.metrics import ServiceMetrics
from sage.middleware.gateway.services.plans import (
    ENVIRONMENT,
    GRACE,
    NAMES,
    ServiceDependencies,
    hosting,
    make_environment,
    service_class,
)
from sage.middleware.settings.services import ServicesSettings

if TYPE_CHECKING:
    from sage.api.local_environment import LocalEnvironment
    from sage.kernels.runtime.discovery.board import Announcement
    from sage.kernels.runtime.discovery.discovery import Heartbeat
    from sage.kernels.runtime.services.callers import ServiceProxy

T = TypeVar("T")
_log = logging.getLogger(__name__)
_PAUSE = 1.0
"""Seconds after a failed start before another is tried."""
_LOOKING = 5.0
"""Seconds that a service, or the board, may take to say how it is."""


class GatewayServices:
    """The key-value, vector and memory services. Nothing of them is loaded before one is needed."""

    def __init__(
        self, data_dir: Path, settings: ServicesSettings, means: ServiceDependencies, metrics: ServiceMetrics
    ) -> None:
        self.settings = settings
        self._root = data_dir / "services"
        self._board = (
            settings.discovery.get_secret_value() if settings.discovery else str(data_dir / "services" / "board.sqlite")
        )
        self._means = means
        self._metrics = metrics
        self._node = f"gateway-{secrets.token_hex(8)}"
        self._running: dict[str, LocalEnvironment] = {}
        self._proxies: dict[str, ServiceProxy] = {}
        self._starting: dict[str, asyncio.Task[None]] = {}
        self._failed: dict[str, tuple[float, Unavailable]] = {}
        self._kept: set[asyncio.Task[Any]] = set()
        self._work = BoundedPool("starting services", len(NAMES), 8)
        self._looks = BoundedPool("the state of services", 4, 64)
        self._bodies = BoundedPool("reading bodies", 4, 64)
        self._heartbeat: Heartbeat | None = None
        self._announced = False
        self._begun = time.time()
        self._closed = False

    async def call(self, name: str, method: str, /, *args: Any, **kwargs: Any) -> Any:
        """The result of one call. Raises what the method raised, :class:`Unavailable` when the service cannot start or
        is full, :class:`DeadlineExceeded` after ``services.timeout``."""
        begun, status = time.perf_counter(), 200
        try:
            proxy = self._proxies.get(name) or await self._started(name)
            return await getattr(proxy, method)(*args, **kwargs)
        except SageError as exc:
            status = exc.status
            raise
        except CancelledError:
            status = 503
            raise Unavailable(f"the call of the service '{name}' was ended; try again", code="call_ended") from None
        except BaseException as exc:
            status = 500 if isinstance(exc, Exception) else 499
            raise
        finally:
            self._metrics.called(name, status, time.perf_counter() - begun)

    async def read(self, work: Callable[[], T]) -> T:
        """The result of ``work`` on the large body of a request, away from the event loop."""
        return await self._bodies.run(work)

    def keep(self, work: Coroutine[Any, Any, T]) -> asyncio.Task[T]:
        """A task for ``work`` that goes on when the request that it belongs to ends."""
        task = asyncio.get_running_loop().create_task(work)
        self._kept.add(task)
        task.add_done_callback(self._kept.discard)
        task.add_done_callback(_seen)
        return task

    # Life

    def begin(self) -> None:
        """Starts them now, where the configuration says so; announces the gateway where it names a board."""
        if self.settings.start == "eager":
            for name in NAMES:
                self._begin(name)
        if self.settings.discovery is not None:
            self._announce()

    async def _started(self, name: str) -> ServiceProxy:
        if self._closed:
            raise Unavailable("the gateway is shutting down; try again soon", code="shutting_down")
        if (failed := self._failed.get(name)) is not None and time.monotonic() < failed[0]:
            raise Unavailable(failed[1].message, code=failed[1].code, retry_after=failed[0] - time.monotonic())
        starting = self._starting.get(name) or self._begin(name)
        done, _ = await asyncio.wait((starting,), timeout=self.settings.timeout)
        if not done:
            raise Unavailable(f"the service '{name}' is still starting; try again soon", code="service_starting")
        starting.result()
        return self._proxies[name]

    def _begin(self, name: str) -> asyncio.Task[None]:
        task = self._starting[name] = asyncio.get_running_loop().create_task(self._bring_up(name))
        task.add_done_callback(_seen)
        return task

    async def _bring_up(self, name: str) -> None:
        try:
            environment = await self._work.run(partial(self._open, name))
        except Exception as exc:
            wrapped = isinstance(exc, SageError) and exc.code == "service_start_failed"
            cause = exc.__cause__ if wrapped and exc.__cause__ is not None else exc
            message = f"the service '{name}' cannot start: {str(cause) or type(cause).__name__}"
            _log.warning("%s", message)
            failure = Unavailable(message, code="service_start_failed", retry_after=_PAUSE)
            self._failed[name] = time.monotonic() + _PAUSE, failure
            raise failure from exc
        finally:
            del self._starting[name]
        self._failed.pop(name, None)
        self._running[name] = environment
        self._proxies[name] = environment.call_service_async[name].options(timeout=self.settings.timeout)
        self._announce()

    def _open(self, name: str) -> LocalEnvironment:
        environment = make_environment(name, self._node, self._root, self.settings, self._means)
        environment.start()
        if self._closed:
            environment.stop()
            raise Unavailable("the gateway is shutting down; try again soon", code="shutting_down")
        return environment

    async def close(self) -> None:
        """Ends what runs on them, then them."""
        if self._kept:
            await asyncio.wait(self._kept, timeout=GRACE)
        self._closed = True
        if self._starting:
            await asyncio.wait(list(self._starting.values()), timeout=GRACE)
        closing = BoundedPool("closing services", 1, 0)
        await closing.run(self._close)
        closing.close()

    def _close(self) -> None:
        if self._heartbeat is not None:
            withdrawing = threading.Thread(target=self._heartbeat.stop, daemon=True)
            withdrawing.start()
            withdrawing.join(GRACE)  # a board or a service that hangs is left alone
        self._proxies.clear()
        while self._running:
            name, environment = self._running.popitem()  # the last one that was started, first
            try:
                environment.stop()
            except Exception as exc:  # the others are to end, too
                _log.warning("the service '%s' did not end well: %s", name, exc)
        for threads in (self._work, self._looks, self._bodies):
            threads.close(GRACE)

    # Discovery

    def _announce(self) -> None:
        if not self._announced and not self._closed:
            self._announced = True
            self.keep(self._work.run(self._begin_to_announce))

    def _begin_to_announce(self) -> None:
        from sage.kernels.runtime.discovery.discovery import Heartbeat

        self._root.mkdir(mode=0o700, parents=True, exist_ok=True)
        self._heartbeat = Heartbeat(self._board, self._announcement)
        self._heartbeat.start()

    def _announcement(self) -> Announcement:
        from sage.kernels.runtime.discovery.board import Announcement

        return Announcement(
            node=self._node,
            environment=ENVIRONMENT,
            host=socket.gethostname(),
            pid=os.getpid(),
            kind="gateway",
            services=tuple(self._described(name) for name in NAMES),
            started_at=self._begun,
        )

    async def describe(self) -> tuple[list[dict[str, Any]], list[str]]:
        """The services of this gateway and those that others announce; and warnings about what could not be asked."""
        own = await asyncio.gather(*(self._looked_at(name) for name in NAMES))
        try:
            others = await asyncio.wait_for(self._looks.run(self._others), _LOOKING)
        except (SageError, TimeoutError, OSError) as exc:
            why = exc.message if isinstance(exc, SageError) else str(exc) or f"no answer within {_LOOKING:g} s"
            return list(own), [f"services of others cannot be seen: {why}"]
        return [*own, *others], []

    async def find(self, name: str, environment: str | None) -> dict[str, Any]:
        """One of them: of this gateway, else the first of another. Raises :class:`NotFound`."""
        found, warnings = await self.describe()
        for service in found:
            if service["name"] == name and environment in (None, service["environment"]):
                return service
        known = ", ".join(dict.fromkeys(service["name"] for service in found))
        where = f" in the environment '{environment}'" if environment is not None else ""
        raise NotFound(
            "; ".join([f"no service '{name}' lives{where}; there are: {known} (GET /services)", *warnings]),
            param="name",
            code="service_not_found",
        )

    async def _looked_at(self, name: str) -> dict[str, Any]:
        try:
            told = await asyncio.wait_for(self._looks.run(partial(self._described, name)), _LOOKING)
        except (SageError, TimeoutError):
            told = self._outline(name, "running", "it did not say how it is; all its workers may be busy")
        return {**told, **self._place(self._node, ENVIRONMENT, "gateway")}

    def _described(self, name: str) -> dict[str, Any]:
        """As its host describes it; on a thread, since it may ask a backend."""
        if (environment := self._running.get(name)) is not None:
            with suppress(StopIteration):  # stopped meanwhile
                return {"error": None, **next(iter(environment.services()))}
        failed = self._failed.get(name)
        state = "setup" if name in self._starting else "failed" if failed is not None else "stopped"
        return self._outline(name, state, failed[1].message if failed is not None and state == "failed" else None)

    def _outline(self, name: str, state: str, error: str | None) -> dict[str, Any]:
        """What is known of a service that cannot be asked."""
        from sage.kernels.runtime.service.base_service_task import methods_of

        kind = service_class(name)
        return {
            "name": name,
            "class": kind.__name__,
            "host": f"{socket.gethostname()}:{os.getpid()}",
            "state": state,
            "replicas": hosting(name, self.settings).replicas,
            "methods": sorted(methods_of(kind)),
            "health": {"healthy": False} if state != "stopped" else {},
            "statistics": None,
            "error": error,
        }

    def _others(self) -> list[dict[str, Any]]:
        from sage.kernels.runtime.discovery.discovery import open_board

        self._root.mkdir(mode=0o700, parents=True, exist_ok=True)
        board = open_board(self._board)
        try:
            living = board.announcements()
        finally:
            board.close()
        return [
            {"error": None, **service, **self._place(other.node, other.environment, other.kind)}
            for other in living
            if other.node != self._node
            for service in other.services
        ]

    def _place(self, node: str, environment: str, kind: str) -> dict[str, Any]:
        return {"environment": environment, "node": node, "kind": kind}


def _seen(task: asyncio.Task[Any]) -> None:
    """Its error has been looked at, also when nobody waits for it."""
    if not task.cancelled():
        task.exception()
