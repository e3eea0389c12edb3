"""Leases: the holds of callers on a managed model, their count, and the wait for the last of them."""

from __future__ import annotations

import asyncio
from types import TracebackType
from typing import Protocol

from sage.errors import SageError
from sage.middleware.engines.process import EngineFailed, describe_status
from sage.middleware.providers.base import Endpoint, RunningEngine


class LeaseCount:
    """How a model is used."""

    __slots__ = ("ended", "in_flight", "last_used", "waiting")

    def __init__(self) -> None:
        self.in_flight = 0
        """Leases that are held."""
        self.waiting = 0
        """Callers on their way to a lease."""
        self.ended = 0
        """Leases that have ended so far."""
        self.last_used: float | None = None
        """When the last lease ended, or the model became ready if that is later, by the model's clock."""


class LeasedModel(Protocol):
    """What a lease needs of its model."""

    name: str
    leases: LeaseCount
    last_death: tuple[RunningEngine, SageError] | None

    @property
    def endpoint(self) -> Endpoint | None: ...
    @property
    def engine(self) -> RunningEngine | None: ...
    async def wait_ready(self, tenant: str) -> Endpoint: ...
    def lease_ended(self) -> None: ...


class ModelLease:
    """One caller's hold on a model; takes no lock and makes no task when the model is ready."""

    __slots__ = ("_engine", "_model", "_tenant")

    def __init__(self, model: LeasedModel, tenant: str = "") -> None:
        self._model = model
        self._tenant = tenant
        self._engine: RunningEngine | None = None

    async def __aenter__(self) -> Endpoint:
        model = self._model
        endpoint = model.endpoint
        if endpoint is None:
            endpoint = await model.wait_ready(self._tenant)
        model.leases.in_flight += 1
        self._engine = model.engine
        return endpoint

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.release()

    def release(self) -> None:
        """Ends a lease that was taken without ``async with``."""
        self._model.lease_ended()

    async def engine_death(self, within: float = 3.0) -> SageError | None:
        """Why the engine under this lease ended (503); ``None`` if it lives, which takes ``within`` seconds to find
        out.

        For a caller whose connection to the engine broke: that the process died may be known only a little later.
        """
        engine, model = self._engine, self._model
        if engine is None:
            return None
        await asyncio.wait((engine.exited,), timeout=within)
        await asyncio.sleep(0)  # the model learns of it first
        death = model.last_death
        if death is not None and death[0] is engine:
            return death[1].with_traceback(None)
        if engine.exited.done():
            status = describe_status(engine.exited.result())
            return EngineFailed(f"the engine of model '{model.name}' {status} while it answered", engine.log_tail)
        return None


class Drain:
    """The wait for the last lease of a model that unloads."""

    def __init__(self) -> None:
        self._finished: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    def finish(self) -> None:
        """No lease is left, or the time to wait for one is over."""
        if not self._finished.done():
            self._finished.set_result(None)

    async def wait(self, exited: asyncio.Future[int]) -> None:
        """Returns when the wait is over, or the engine has ended."""
        await asyncio.wait((self._finished, exited), return_when=asyncio.FIRST_COMPLETED)
