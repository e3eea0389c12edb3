"""The gateway's own services, as the rest of the gateway reaches them: called from the event loop, and counted."""

from __future__ import annotations

import secrets
import time
from collections.abc import Callable
from concurrent.futures import CancelledError
from pathlib import Path
from typing import Any, TypeVar

from sage.errors import SageError, Unavailable
from sage.middleware.gateway.collections.bounded_pool import BoundedPool
from sage.middleware.gateway.metrics import CLIENT_LEFT, ServiceMetrics
from sage.middleware.gateway.services.background import DetachedTasks
from sage.middleware.gateway.services.directory import ServiceDirectory
from sage.middleware.gateway.services.plans import GRACE, NAMES, ServiceDependencies
from sage.middleware.gateway.services.running import RunningServices
from sage.middleware.settings.services import ServicesSettings

T = TypeVar("T")


class GatewayServices:
    """The key-value, vector and memory services. Nothing of them is loaded before one is needed.

    ``tasks`` is for work on them that outlives its request, ``directory`` knows which services there are. Every method
    is for the gateway's event loop.
    """

    def __init__(
        self, data_dir: Path, settings: ServicesSettings, dependencies: ServiceDependencies, metrics: ServiceMetrics
    ) -> None:
        node, root = f"gateway-{secrets.token_hex(8)}", data_dir / "services"
        self.settings = settings
        self.tasks = DetachedTasks()
        self._running = RunningServices(node, root, settings, dependencies, on_start=self._announce)
        self.directory = ServiceDirectory(node, root, settings, self._running)
        self._metrics = metrics
        self._body_threads = BoundedPool("reading bodies", 4, 64)

    def begin(self) -> None:
        """Starts the services now, if the configuration says so; announces the gateway if it names a board."""
        if self.settings.start == "eager":
            for name in NAMES:
                self._running.start(name)
        if self.settings.discovery is not None:
            self._announce()

    def _announce(self) -> None:
        self.tasks.start(self.directory.announce())

    async def call(self, name: str, method: str, /, *args: Any, **kwargs: Any) -> Any:
        """The result of one call. Raises what the method raised, :class:`Unavailable` when the service cannot start or
        is full, :class:`DeadlineExceeded` after ``services.timeout``."""
        started, status = time.perf_counter(), 200
        try:
            proxy = await self._running.proxy(name)
            return await getattr(proxy, method)(*args, **kwargs)
        except SageError as exc:
            status = exc.status
            raise
        except CancelledError:
            status = 503
            raise Unavailable(f"the call of the service '{name}' was ended; try again", code="call_ended") from None
        except BaseException as exc:
            status = 500 if isinstance(exc, Exception) else CLIENT_LEFT
            raise
        finally:
            self._metrics.called(name, status, time.perf_counter() - started)

    async def read(self, work: Callable[[], T], tenant: str) -> T:
        """The result of ``work`` on the large body of a request of ``tenant``, away from the event loop."""
        return await self._body_threads.run(work, tenant)

    async def close(self) -> None:
        """Ends the work on the services, then the services."""
        await self.tasks.finish(GRACE)
        await self._running.end_starts()
        closing = BoundedPool("closing services", 1, 0)
        await closing.run(self._close)
        closing.close()

    def _close(self) -> None:
        self.directory.withdraw()
        self._running.stop()
        self.directory.close()
        self._body_threads.close(GRACE)
