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
from enum import StrEnum
from typing import Any

from sage.errors import SageError, Unavailable
from sage.middleware.engines.health import CrashHistory, HealthPolicy, RestartPolicy, unwell
from sage.middleware.engines.lease import Drain, ModelLease
from sage.middleware.engines.memory_budget import EvictionCandidate, MemoryBudget, Turns
from sage.middleware.engines.proc_stats import proportional_memory
from sage.middleware.engines.process import EngineFailed, describe_status
from sage.middleware.engines.timer import Timer
from sage.middleware.providers.base import Endpoint, RunningEngine

_log = logging.getLogger(__name__)


class ModelLifeState(StrEnum):
    UNLOADED = "unloaded"
    LOADING = "loading"
    READY = "ready"
    DRAINING = "draining"
    FAILED = "failed"


class ManagedModel:
    """One model with an engine of its own, at most one process at any time."""

    def __init__(
        self,
        name: str,
        start: Callable[[], RunningEngine],
        keep_alive: float = math.inf,
        *,
        pinned: bool = False,
        memory: MemoryBudget | None = None,
        size: int | None = None,
        patience: float = 120.0,
        policy: RestartPolicy | None = None,
        health: HealthPolicy | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """``start`` makes an engine that was not started; ``keep_alive``: idle seconds before it unloads.

        ``pinned``: neither idleness nor another model's need unloads it. ``size`` is what it is reckoned to take of
        ``memory``, in bytes; ``patience`` the seconds that it waits for room, and callers for its next turn.
        """
        self.name = name
        self.keep_alive = keep_alive
        self.pinned = pinned
        self.size = size or 0
        """Bytes that are reserved for it: what it is reckoned to take or was measured to, whichever is more."""
        self.measured: int | None = None
        """Bytes that it took when it was last ready."""
        self.dependents: set[ManagedModel] = set()
        """Models that live in this one's engine (LoRA adapters): each holds a lease while it is loaded."""
        self.lost: tuple[RunningEngine, SageError] | None = None
        """The last engine that went, and why."""
        self.state = ModelLifeState.UNLOADED
        self.loaded_at: float | None = None
        """Unix seconds of the last time it became ready; none while it is not loaded."""
        self.in_flight = 0
        self.error: dict[str, Any] | None = None
        """Why it is ``failed``, or was before the load that runs: ``message``, ``at`` (Unix seconds) and ``log``, the
        engine's last lines."""
        self._make = start
        self._memory = memory or MemoryBudget()
        self._patience = patience
        self._deaths = CrashHistory(policy or RestartPolicy(), clock)
        self._health = health or HealthPolicy()
        self._clock = clock
        self._engine: RunningEngine | None = None
        self._endpoint: Endpoint | None = None
        self._loading: asyncio.Task[SageError | None] | None = None
        self._ending: asyncio.Task[None] | None = None
        self._drain: Drain | None = None  # while it unloads
        self._idleness = Timer(self._look_idle)
        self._revival = Timer(self._revive)
        self._watch: asyncio.Task[None] | None = None
        self._hung: SageError | None = None  # why the engine that ends is given up
        self._waiting = 0  # callers on their way to a lease
        self._refuses = False  # an unload that was asked for refuses; one by idleness lets callers wait
        self._yields = False  # it goes as soon as it has loaded
        self._closed = False
        self._used: float | None = None
        self._ready_since = 0.0
        self._load_took = 0.0
        self._ended = 0  # leases

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

    def lease(self) -> ModelLease:
        """``async with model.lease() as endpoint``: ready for as long as the block runs.

        Raises :class:`sage.errors.Unavailable` while the model unloads on request, when its load fails (with the
        cause), and between the restarts of an engine that keeps dying.
        """
        return ModelLease(self)

    async def load(self) -> None:
        """Returns once the model is ready; raises as :meth:`lease` does."""
        async with self.lease():
            pass

    async def unload(self, drain: float = 30.0) -> None:
        """Refuses new leases, waits ``drain`` seconds at most for running ones, and ends the process.

        Returns once it is gone, also while it loads: whoever waits for that load is refused. Concurrent calls share
        the first one's work, which goes on if they are cancelled.
        """
        if self.state is ModelLifeState.FAILED:
            self._gone(ModelLifeState.UNLOADED)
            self.error = None
            self._deaths.forget()
        ending = None
        if (
            self.state is not ModelLifeState.UNLOADED
        ):  # before its dependents, so that none of them takes a new hold of it
            self._refuses = True
            ending = self._begin_end(drain)
        # Also of one that failed: they would start it again.
        await asyncio.gather(*(dependent.unload(drain) for dependent in self.dependents))
        if ending is not None:
            await asyncio.wait((ending,))
            ending.result()

    async def close(self, drain: float = 0.0) -> None:
        """Unloads for good, at shutdown."""
        self._closed = True
        self._revival.cancel()
        for dependent in tuple(self.dependents):
            await dependent.close(drain)
        while self.state not in (ModelLifeState.UNLOADED, ModelLifeState.FAILED):
            await self.unload(drain)

    def adjust(self, keep_alive: float, pinned: bool) -> None:
        """Changes how it is kept, from now on."""
        self.keep_alive, self.pinned = keep_alive, pinned
        self._idleness.cancel()
        self._look_around()

    # Memory

    def standing(self, size: int, turns: Turns) -> EvictionCandidate:
        """How it stands among the models that take memory."""
        return EvictionCandidate(
            self.name,
            size,
            held=self.state is ModelLifeState.LOADING or (self.state is ModelLifeState.READY and self._stays()),
            leaving=self.state is ModelLifeState.DRAINING,
            busy=self._busy(),
            used=max([self._used or 0.0, *(dependent._used or 0.0 for dependent in self.dependents)]),
            turn_ends=self._ready_since + turns.length(self._load_took),
        )

    def make_room(self) -> None:
        """Unloads once it has loaded and the leases that run have ended; who comes meanwhile waits for the next one."""
        if self.state is ModelLifeState.READY:
            for dependent in self.dependents:
                dependent.make_room()
            self._begin_end(math.inf)
        elif self.state is ModelLifeState.LOADING:
            self._yields = True

    def _stays(self) -> bool:
        return self.pinned or any(d.pinned and d.state is ModelLifeState.READY for d in self.dependents)

    def _busy(self) -> bool:
        """Somebody uses it, or one of its dependents; a dependent's own lease is no use."""
        resting = sum(dependent.state is ModelLifeState.READY for dependent in self.dependents)
        return self.in_flight + self._waiting > resting or any(dependent._busy() for dependent in self.dependents)

    # Leases

    @property
    def endpoint(self) -> Endpoint | None:
        """Where the engine listens while the model is ready."""
        return self._endpoint if self.state is ModelLifeState.READY else None

    async def made_ready(self) -> Endpoint:
        """The slow way into a lease: waits for whatever has to happen first, and is no idle time meanwhile."""
        self._waiting += 1
        try:
            while self.state is not ModelLifeState.READY:
                if self._closed:
                    raise Unavailable(f"model '{self.name}' is closed: the gateway shuts down")
                if self.state is ModelLifeState.DRAINING:
                    await self._end_of_draining()
                elif failure := await self._end_of_loading():
                    raise failure.with_traceback(None)
        finally:
            self._waiting -= 1
            self._look_around()  # if this caller leaves without a lease, nobody else may come to start the timer
        assert self._endpoint is not None
        return self._endpoint

    async def _end_of_draining(self) -> None:
        if self._refuses or self._ending is None:
            raise Unavailable(f"model '{self.name}' is being unloaded; a request after that loads it again")
        await asyncio.wait((self._ending,), timeout=self._patience)
        if self.state is ModelLifeState.DRAINING:
            raise Unavailable(
                f"model '{self.name}' makes room for another, and its running requests take long; try again"
            )

    async def _end_of_loading(self) -> SageError | None:
        """Joins the load that runs, or starts one; what went wrong, if something did."""
        if self._loading is None:
            self._check_pause()
            self._begin_load()
        task = self._loading
        assert task is not None
        await asyncio.wait((task,))  # unlike `await task`, a caller that is cancelled does not cancel it
        if task.cancelled():
            return Unavailable(f"model '{self.name}' was unloaded while it loaded; a request after that loads it again")
        return task.result()

    def _begin_load(self) -> None:
        self._revival.cancel()
        self.state = ModelLifeState.LOADING
        self._loading = asyncio.create_task(self._load(), name=f"load {self.name}")

    def _check_pause(self) -> None:
        left = self._deaths.left()
        if left > 0 and self.error is not None:
            again = f"it died {self._deaths.count} times in a row and may start again in {left:.1f} s"
            raise EngineFailed(f"{self.error['message']}; {again}", self.error["log"], retry_after=left)

    def released(self) -> None:
        """A lease has ended."""
        self.in_flight -= 1
        self._ended += 1
        if not self.in_flight:
            self._used = self._clock()
            self._look_around()

    def _look_around(self) -> None:
        """The last lease may have ended. At most one timer waits, and it looks again when its time has come."""
        if not self.in_flight and self._drain is not None:
            self._drain.end()
        if self.state is not ModelLifeState.READY:
            return
        self._memory.look()
        if not self._idleness.is_set and self.keep_alive != math.inf and not self.pinned:
            self._idleness.set(self.keep_alive)

    def _look_idle(self) -> None:
        if (
            self.in_flight
            or self._waiting
            or self.pinned
            or self.state is not ModelLifeState.READY
            or self._used is None
        ):
            return  # whoever is there starts the timer again when it leaves
        left = self._used + self.keep_alive - self._clock()
        if left <= 0:
            self._begin_end(0.0)
        else:
            self._idleness.set(left)

    # The engine

    async def _load(self) -> SageError | None:
        try:
            await self._memory.reserve(self, self.size, self._patience)
            began = self._clock()
            engine = self._engine = self._make()
            self._endpoint = await engine.start()
            await self._weigh(engine)
        except asyncio.CancelledError:
            if self._ending is None:
                self._gone(ModelLifeState.UNLOADED)
            raise
        except SageError as exc:
            return self._failed(exc)
        except Exception as exc:  # the owner of the state must not be left in `loading` by a defect
            _log.exception("model '%s': its engine could not be started", self.name)
            return self._failed(Unavailable(f"model '{self.name}' could not be started: {exc!r}"))
        if self._ending is not None:
            return Unavailable(f"model '{self.name}' was unloaded while it loaded")  # which ends the engine, too
        self._loading = None
        self.state, self.error, self.loaded_at = ModelLifeState.READY, None, time.time()
        self._used = self._ready_since = self._clock()
        self._load_took = self._ready_since - began
        _log.info("model '%s' is ready after %.1f s", self.name, self._load_took)
        engine.exited.add_done_callback(lambda exited: self._on_exit(engine, exited))
        self._watch = asyncio.create_task(self._watch_health(engine), name=f"watch {self.name}")
        self._look_around()
        if self._yields:
            self.make_room()
        return None

    async def _weigh(self, engine: RunningEngine) -> None:
        """Measures an engine that serves; one that is larger than the whole budget is ended again."""
        try:
            pids = engine.pids
            self.measured = await asyncio.to_thread(proportional_memory, pids) if pids else None
            self.size = max(self.size, self.measured or 0)
            self._memory.settle(self, self.size)
        except BaseException:
            await engine.stop()
            raise

    def _failed(self, failure: SageError) -> SageError:
        if self._ending is not None:
            return failure  # the state is the unload's to set
        self.error = {"message": failure.message, "at": time.time(), "log": list(getattr(failure, "log", ()))}
        self._gone(ModelLifeState.FAILED)
        _log.error("model '%s' failed: %s", self.name, failure.message)
        return failure

    def _on_exit(self, engine: RunningEngine, exited: asyncio.Future[int]) -> None:
        """The engine's family is gone; unless we ended it, it died, and the next lease starts another."""
        if engine is not self._engine or self.state is not ModelLifeState.READY or exited.cancelled():
            return
        cause = f"the engine of model '{self.name}' {describe_status(exited.result())} while it served"
        self._died(engine, EngineFailed(cause, engine.log_tail))

    def _died(self, engine: RunningEngine, failure: SageError) -> None:
        """Counts the death, and starts the engine again after the pause if its room is still free."""
        revival = self._deaths.count_one(self._clock() - self._ready_since)
        self.lost = engine, failure
        self._failed(failure)
        if not self._closed:
            self._revival.set(revival)

    def _revive(self) -> None:
        if self.state is ModelLifeState.FAILED and self._loading is None and self._memory.fits(self.size):
            self._begin_load()

    async def _watch_health(self, engine: RunningEngine) -> None:
        """Gives an engine up that hangs: its leases are cut, and those who come meanwhile wait for the next one."""
        cause = await unwell(engine, self._health, lambda: self._ended)
        if engine is self._engine and self.state is ModelLifeState.READY:
            self._hung = EngineFailed(f"the engine of model '{self.name}' {cause}", engine.log_tail)
            self.lost = engine, self._hung
            self._begin_end(0.0)

    def _gone(self, state: ModelLifeState) -> None:
        self.state = state
        self.loaded_at = self._endpoint = self._engine = self._loading = None
        self._yields = False
        self._revival.cancel()
        self._idleness.cancel()
        if self._watch is not None:
            self._watch.cancel()
            self._watch = None
        self._memory.release(self)

    def _begin_end(self, drain: float) -> asyncio.Task[None]:
        if self._ending is None:
            self._drain = Drain()
            self._ending = asyncio.create_task(self._end(self._drain), name=f"unload {self.name}")
            self.state = ModelLifeState.DRAINING
        assert self._drain is not None
        if drain <= 0:  # whoever ends it now does not wait for somebody else's drain
            self._drain.end()
        elif drain != math.inf:
            asyncio.get_running_loop().call_later(drain, self._drain.end)
        return self._ending

    async def _end(self, drain: Drain) -> None:
        engine = None
        try:
            if self._loading is not None:
                self._loading.cancel()
                await asyncio.wait((self._loading,))
            engine = self._engine
            if engine is not None:
                try:
                    if self.in_flight:
                        await drain.wait(engine.exited)
                finally:
                    if not engine.exited.done() and self._hung is None:
                        cut = f"model '{self.name}' was unloaded while it answered"
                        self.lost = engine, Unavailable(cut, code="model_unloaded")
                    await engine.stop()
        finally:
            hung, self._hung, self._ending = self._hung if not self._refuses else None, None, None
            self._drain, self._refuses = None, False
            if hung is not None and engine is not None:
                self._died(engine, hung)
            else:
                self._gone(ModelLifeState.UNLOADED)
                self.error = None
