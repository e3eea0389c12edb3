"""The one owner of a managed model's state: ``unloaded → loading → ready → draining → unloaded``, or ``failed``.

Callers never read the state and then act: ``async with model.lease() as endpoint`` makes the model ready, counts the
caller and lets go. Everything here runs on one event loop, so a state changes only between two awaits.
"""

from __future__ import annotations

import asyncio
import logging
import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum
from types import TracebackType
from typing import Any, Protocol

from sage.errors import SageError, Unavailable
from sage.middleware.providers.base import Endpoint
from sage.middleware.providers.engines import EngineFailed, describe_status

_log = logging.getLogger(__name__)


class State(StrEnum):
    UNLOADED = "unloaded"
    LOADING = "loading"
    READY = "ready"
    DRAINING = "draining"
    FAILED = "failed"


class RunningEngine(Protocol):
    """What a model needs of its engine: :class:`sage.middleware.providers.engines.Engine`."""

    exited: asyncio.Future[int]

    @property
    def log_tail(self) -> tuple[str, ...]: ...

    async def start(self) -> Endpoint: ...

    async def stop(self) -> None: ...


@dataclass(frozen=True, slots=True)
class RestartPolicy:
    """How long an engine that keeps dying is left alone, in seconds."""

    first: float = 1.0
    factor: float = 2.0
    longest: float = 60.0
    stable: float = 60.0
    """An engine that served for so long has lived: its death starts the count afresh."""

    def deaths(self, before: int, lived: float) -> int:
        """The count of deaths in a row, after one that followed ``lived`` seconds of serving."""
        return 1 if lived >= self.stable else before + 1

    def pause(self, deaths: int) -> float:
        """Seconds between a death and the next start; none after the first."""
        if deaths <= 1:
            return 0.0
        return min(self.longest, self.first * self.factor ** min(deaths - 2, 64))


class ManagedModel:
    """One model with an engine of its own, at most one process at any time."""

    def __init__(
        self,
        name: str,
        start: Callable[[], RunningEngine],
        keep_alive: float = math.inf,
        *,
        policy: RestartPolicy | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """``start`` makes an engine that was not started; ``keep_alive``: idle seconds before it unloads."""
        self.name = name
        self.keep_alive = keep_alive
        self.state = State.UNLOADED
        self.loaded_at: float | None = None
        """Unix seconds of the last time it became ready; none while it is not loaded."""
        self.in_flight = 0
        self.error: dict[str, Any] | None = None
        """Why it is ``failed``, or was before the load that runs: ``message``, ``at`` (Unix seconds) and ``log``, the
        engine's last lines."""
        self._make = start
        self._policy = policy or RestartPolicy()
        self._clock = clock
        self._engine: RunningEngine | None = None
        self._endpoint: Endpoint | None = None
        self._loading: asyncio.Task[SageError | None] | None = None
        self._ending: asyncio.Task[None] | None = None
        self._idle: asyncio.Future[None] | None = None  # set while an unload waits for the last lease
        self._timer: asyncio.TimerHandle | None = None
        self._waiting = 0  # callers on their way to a lease
        self._refuses = False  # an unload that was asked for refuses; one by idleness lets callers wait
        self._hurries = False  # nobody is waited for any longer
        self._closed = False
        self._used: float | None = None
        self._ready_since = 0.0
        self._deaths = 0
        self._not_before = 0.0

    @property
    def last_used(self) -> float | None:
        """Unix seconds of the last moment that somebody held a lease."""
        if self.in_flight:
            return time.time()
        return None if self._used is None else time.time() - (self._clock() - self._used)

    @property
    def engine(self) -> RunningEngine | None:
        """The engine that loads, serves or ends; none otherwise."""
        return self._engine

    def lease(self) -> Lease:
        """``async with model.lease() as endpoint``: ready for as long as the block runs.

        Raises :class:`sage.errors.Unavailable` while the model unloads on request, when its load fails (with the
        cause), and between the restarts of an engine that keeps dying.
        """
        return Lease(self)

    async def load(self) -> None:
        """Returns once the model is ready; raises as :meth:`lease` does."""
        async with self.lease():
            pass

    async def unload(self, drain: float = 30.0) -> None:
        """Refuses new leases, waits ``drain`` seconds at most for running ones, and ends the process.

        Returns once it is gone, also while it loads: whoever waits for that load is refused. Concurrent calls share
        the first one's work, which goes on if they are cancelled.
        """
        if self.state is State.FAILED:
            self.state, self.error, self._deaths, self._not_before = State.UNLOADED, None, 0, 0.0
        if self.state is not State.UNLOADED:
            self._refuses = True
            ending = self._begin_end(drain)
            await asyncio.wait((ending,))
            ending.result()

    async def close(self, drain: float = 0.0) -> None:
        """Unloads for good, at shutdown."""
        self._closed = True
        while self.state not in (State.UNLOADED, State.FAILED):
            await self.unload(drain)

    # Leases

    async def _made_ready(self) -> Endpoint:
        """The slow way into a lease: waits for whatever has to happen first, and is no idle time meanwhile."""
        self._waiting += 1
        try:
            while self.state is not State.READY:
                if self._closed:
                    raise Unavailable(f"model '{self.name}' is closed: the gateway shuts down")
                if self.state is State.DRAINING:
                    await self._end_of_draining()
                elif failure := await self._end_of_loading():
                    raise failure.with_traceback(None)
        finally:
            self._waiting -= 1
            self._released()  # if this caller leaves without a lease, nobody else may come to start the timer
        assert self._endpoint is not None
        return self._endpoint

    async def _end_of_draining(self) -> None:
        if self._refuses or self._ending is None:
            raise Unavailable(f"model '{self.name}' is being unloaded; a request after that loads it again")
        await asyncio.wait((self._ending,))

    async def _end_of_loading(self) -> SageError | None:
        """Joins the load that runs, or starts one; what went wrong, if something did."""
        if self._loading is None:
            self._check_pause()
            self.state = State.LOADING
            self._loading = asyncio.create_task(self._load(), name=f"load {self.name}")
        task = self._loading
        await asyncio.wait((task,))  # unlike `await task`, a caller that is cancelled does not cancel it
        if task.cancelled():
            return Unavailable(f"model '{self.name}' was unloaded while it loaded; a request after that loads it again")
        return task.result()

    def _check_pause(self) -> None:
        left = self._not_before - self._clock()
        if left > 0 and self.error is not None:
            again = f"it died {self._deaths} times in a row and may start again in {left:.1f} s"
            raise EngineFailed(f"{self.error['message']}; {again}", self.error["log"], retry_after=left)

    def _released(self) -> None:
        """The last lease may have ended. At most one timer waits, and it looks again when its time has come."""
        if not self.in_flight:
            self._stop_waiting()
        if self.state is State.READY and self._timer is None and self.keep_alive != math.inf:
            self._timer = asyncio.get_running_loop().call_later(self.keep_alive, self._look_idle)

    def _look_idle(self) -> None:
        self._timer = None
        if self.in_flight or self._waiting or self.state is not State.READY or self._used is None:
            return  # whoever is there starts the timer again when it leaves
        left = self._used + self.keep_alive - self._clock()
        if left <= 0:
            self._begin_end(0.0)
        else:
            self._timer = asyncio.get_running_loop().call_later(left, self._look_idle)

    # The engine

    async def _load(self) -> SageError | None:
        try:
            engine = self._engine = self._make()
            self._endpoint = await engine.start()
        except asyncio.CancelledError:
            if self._ending is None:
                self._gone(State.UNLOADED)
            raise
        except SageError as exc:
            return self._failed(exc)
        except Exception as exc:  # the owner of the state must not be left in `loading` by a defect
            _log.exception("model '%s': its engine could not be started", self.name)
            return self._failed(Unavailable(f"model '{self.name}' could not be started: {exc!r}"))
        if self._ending is not None:
            return Unavailable(f"model '{self.name}' was unloaded while it loaded")  # which ends the engine, too
        self._loading = None
        self.state, self.error, self.loaded_at = State.READY, None, time.time()
        self._used = self._ready_since = self._clock()
        engine.exited.add_done_callback(lambda exited: self._on_exit(engine, exited))
        self._released()
        return None

    def _failed(self, failure: SageError) -> SageError:
        if self._ending is not None:
            return failure  # the state is the unload's to set
        self.error = {"message": failure.message, "at": time.time(), "log": list(getattr(failure, "log", ()))}
        self._gone(State.FAILED)
        _log.error("model '%s' failed: %s", self.name, failure.message)
        return failure

    def _on_exit(self, engine: RunningEngine, exited: asyncio.Future[int]) -> None:
        """The engine's family is gone; unless we ended it, it died, and the next lease starts another."""
        if engine is not self._engine or self.state is not State.READY or exited.cancelled():
            return
        now = self._clock()
        self._deaths = self._policy.deaths(self._deaths, now - self._ready_since)
        self._not_before = now + self._policy.pause(self._deaths)
        cause = f"the engine of model '{self.name}' {describe_status(exited.result())} while it served"
        self._failed(EngineFailed(cause, engine.log_tail))

    def _gone(self, state: State) -> None:
        self.state = state
        self.loaded_at = self._endpoint = self._engine = self._loading = None
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _begin_end(self, drain: float) -> asyncio.Task[None]:
        if self._ending is None:
            self._ending = asyncio.create_task(self._end(drain), name=f"unload {self.name}")
            self.state = State.DRAINING
        if drain <= 0:  # whoever ends it now does not wait for somebody else's drain
            self._hurries = True
            self._stop_waiting()
        return self._ending

    async def _end(self, drain: float) -> None:
        try:
            if self._loading is not None:
                self._loading.cancel()
                await asyncio.wait((self._loading,))
            engine = self._engine
            if engine is not None:
                try:
                    await self._drained(engine, drain)
                finally:
                    await engine.stop()
        finally:
            self._gone(State.UNLOADED)
            self.error = self._ending = None
            self._refuses = self._hurries = False

    async def _drained(self, engine: RunningEngine, limit: float) -> None:
        """Waits until nobody holds a lease, the engine is dead or ``limit`` seconds passed."""
        if self.in_flight and not self._hurries:
            self._idle = asyncio.get_running_loop().create_future()
            await asyncio.wait((self._idle, engine.exited), timeout=limit, return_when=asyncio.FIRST_COMPLETED)
            self._idle = None

    def _stop_waiting(self) -> None:
        if self._idle is not None and not self._idle.done():
            self._idle.set_result(None)


class Lease:
    """One caller's hold on a model; takes no lock and makes no task when the model is ready."""

    __slots__ = ("_model",)

    def __init__(self, model: ManagedModel) -> None:
        self._model = model

    async def __aenter__(self) -> Endpoint:
        model = self._model
        endpoint = model._endpoint if model.state is State.READY else None
        if endpoint is None:
            endpoint = await model._made_ready()
        model.in_flight += 1
        return endpoint

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        model = self._model
        model.in_flight -= 1
        if not model.in_flight:
            model._used = model._clock()
            model._released()
