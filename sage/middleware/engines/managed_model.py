"""The one owner of a managed model's state: ``unloaded → loading → ready → draining → unloaded``, or ``failed``.

Callers never read the state and then act: ``async with model.lease() as endpoint`` makes the model ready, counts the
caller and lets go. Everything here runs on one event loop, so the state changes only between two awaits.
"""

from __future__ import annotations

import asyncio
import logging
import math
import time
from collections import Counter
from collections.abc import Callable, Collection
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from sage.errors import SageError, Unavailable
from sage.middleware.engines.health import CrashHistory, HealthPolicy, RestartPolicy, wait_for_failure
from sage.middleware.engines.lease import Drain, LeaseCount, ModelLease
from sage.middleware.engines.memory_budget import EvictionCandidate, MemoryBudget, Turns
from sage.middleware.engines.proc_stats import proportional_memory
from sage.middleware.engines.process import EngineFailed, describe_status
from sage.middleware.engines.timer import Timer
from sage.middleware.providers.base import Endpoint, RunningEngine

_log = logging.getLogger(__name__)


class ModelLifeState(StrEnum):
    """The states of a managed model, as ``GET /models`` shows them."""

    UNLOADED = "unloaded"
    LOADING = "loading"
    READY = "ready"
    DRAINING = "draining"
    FAILED = "failed"


@dataclass(slots=True)
class _Serving:
    """An engine that became ready. ``since`` is by the model's clock."""

    endpoint: Endpoint
    loaded_at: float
    """Unix seconds."""
    since: float
    load_seconds: float
    watch: asyncio.Task[None]
    """Waits for the engine to hang."""


@dataclass(slots=True)
class _Unload:
    """An unload that is under way."""

    drain: Drain
    task: asyncio.Task[None]
    refuses: bool = False
    """Somebody asked for it: new leases are refused. Otherwise callers wait until the model loads again."""
    failure: EngineFailed | None = None
    """Why an engine that hangs is given up."""


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
        slots: int | None = None,
        policy: RestartPolicy | None = None,
        health: HealthPolicy | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """``start`` makes an engine that is not started yet; ``keep_alive``: idle seconds before it unloads.

        ``pinned``: neither idleness nor another model's need unloads it. ``size`` is the estimate of what it takes of
        ``memory``, in bytes; ``patience`` the seconds that it waits for room, and callers for its next turn; ``slots``
        how many requests its engine computes at a time.
        """
        self.name = name
        self.keep_alive = keep_alive
        self.pinned = pinned
        self.size = size or 0
        """Bytes that are reserved for it: the estimate or the measured size, whichever is larger."""
        self.measured: int | None = None
        """Bytes that it took when it was last ready."""
        self.state = ModelLifeState.UNLOADED
        self.error: dict[str, Any] | None = None
        """Why it is ``failed``, or was before the current load: ``message``, ``at`` (Unix seconds) and ``log``, the
        engine's last lines."""
        self.slots = slots
        """``None`` means that this is the engine's own matter. Where it is known, further requests wait in the gateway,
        where tenants take turns, rather than in the engine."""
        self.slots_in_use = 0
        self.leases = LeaseCount()
        self.load_began: float | None = None
        """Unix seconds; ``None`` while it does not load."""
        self.last_death: tuple[RunningEngine, SageError] | None = None
        """The last engine that ended under leases, and why."""
        self.dependents: set[ManagedModel] = set()
        """Models that live in this one's engine (LoRA adapters): each holds a lease while it is loaded."""
        self._wanted_by: Counter[str] = Counter()
        self._start = start
        self._memory = memory or MemoryBudget()
        self._patience = patience
        self._crashes = CrashHistory(policy or RestartPolicy(), clock)
        self._health = health or HealthPolicy()
        self._clock = clock
        self._engine: RunningEngine | None = None
        self._loading: asyncio.Task[SageError | None] | None = None
        self._serving: _Serving | None = None  # while it is ready or draining
        self._unload: _Unload | None = None  # while it is draining
        self._idle_timer = Timer(self._check_idle)
        self._restart_timer = Timer(self._restart)
        self._yields = False  # it makes room as soon as it has loaded
        self._closed = False

    @property
    def in_flight(self) -> int:
        return self.leases.in_flight

    @property
    def loaded_at(self) -> float | None:
        """Unix seconds of the last time it became ready; ``None`` while it is not loaded."""
        return self._serving.loaded_at if self._serving is not None else None

    @property
    def last_used(self) -> float | None:
        """Unix seconds of the last moment with a lease."""
        if self.leases.in_flight:
            return time.time()
        used = self.leases.last_used
        return None if used is None else time.time() - (self._clock() - used)

    @property
    def engine(self) -> RunningEngine | None:
        """The engine that loads, serves or ends."""
        return self._engine

    def lease(self, tenant: str = "") -> ModelLease:
        """``async with model.lease() as endpoint``: ready for as long as the block runs.

        Raises :class:`sage.errors.Unavailable` while the model unloads on request, when its load fails (with the
        cause), and between the restarts of an engine that keeps dying.
        """
        return ModelLease(self, tenant)

    async def load(self) -> None:
        """Returns once the model is ready; raises as :meth:`lease` does."""
        async with self.lease():
            pass

    async def unload(self, drain: float = 30.0) -> None:
        """Refuses new leases, waits ``drain`` seconds at most for running ones, and ends the process.

        Returns once it has ended, also while it loads: callers that wait for that load are refused. Concurrent calls
        share one unload, which continues when they are cancelled.
        """
        if self.state is ModelLifeState.FAILED:
            self._reset(ModelLifeState.UNLOADED)
            self.error = None
            self._crashes.reset()
        unload = None
        if self.state is not ModelLifeState.UNLOADED:  # before its dependents, so that none of them takes a new lease
            unload = self._begin_unload(drain)
            unload.refuses = True
        # The dependents of a failed model too: they would start it again.
        await asyncio.gather(*(dependent.unload(drain) for dependent in self.dependents))
        if unload is not None:
            await asyncio.wait((unload.task,))
            unload.task.result()

    async def close(self, drain: float = 0.0) -> None:
        """Unloads for good, at shutdown."""
        self._closed = True
        self._restart_timer.cancel()
        for dependent in tuple(self.dependents):
            await dependent.close(drain)
        while self.state not in (ModelLifeState.UNLOADED, ModelLifeState.FAILED):
            await self.unload(drain)

    def adjust(self, keep_alive: float, pinned: bool) -> None:
        """Changes ``keep_alive`` and ``pinned``, from now on."""
        self.keep_alive, self.pinned = keep_alive, pinned
        self._idle_timer.cancel()
        self._usage_changed()

    async def load_progress(self) -> dict[str, Any] | None:
        """How far its load is: ``since`` (Unix seconds), whether it waits for room, and the bytes that its engine takes
        so far of those that it is expected to take. ``None`` while it does not load."""
        if self.state is not ModelLifeState.LOADING:
            return None
        engine = self._engine
        taken = None if engine is None else await asyncio.to_thread(lambda: proportional_memory(engine.pids))
        if self.state is not ModelLifeState.LOADING:  # any more
            return None
        expected = self.size or None
        return {"since": self.load_began, "waits_for_room": engine is None, "memory": taken, "expected": expected}

    # Memory

    def eviction_candidate(self, size: int, turns: Turns) -> EvictionCandidate:
        """What decides whether it leaves for another model; ``size`` bytes are reserved for it."""
        serving = self._serving
        turn_ends = 0.0 if serving is None else serving.since + turns.length(serving.load_seconds)
        return EvictionCandidate(
            self.name,
            size,
            protected=self.state is ModelLifeState.LOADING
            or (self.state is ModelLifeState.READY and self._is_pinned()),
            leaving=self.state is ModelLifeState.DRAINING,
            busy=self._is_busy(),
            last_used=max(model.leases.last_used or 0.0 for model in (self, *self.dependents)),
            turn_ends=turn_ends,
        )

    @property
    def wanted_by(self) -> Collection[str]:
        """The tenants whose callers wait for it."""
        return self._wanted_by.keys()

    def make_room(self) -> None:
        """Unloads once it has loaded and its leases have ended; callers that come now wait until it loads again."""
        if self.state is ModelLifeState.READY:
            for dependent in self.dependents:
                dependent.make_room()
            self._begin_unload(math.inf)
        elif self.state is ModelLifeState.LOADING:
            self._yields = True

    def _is_pinned(self) -> bool:
        return self.pinned or any(d.pinned and d.state is ModelLifeState.READY for d in self.dependents)

    def _is_busy(self) -> bool:
        """Whether a caller uses it or one of its dependents; the lease of an idle dependent does not count."""
        of_dependents = sum(dependent.state is ModelLifeState.READY for dependent in self.dependents)
        used = self.leases.in_flight + self.leases.waiting > of_dependents
        return used or any(dependent._is_busy() for dependent in self.dependents)

    # Leases

    @property
    def endpoint(self) -> Endpoint | None:
        """Where the engine listens while the model is ready."""
        serving = self._serving
        return serving.endpoint if serving is not None and self.state is ModelLifeState.READY else None

    async def wait_ready(self, tenant: str = "") -> Endpoint:
        """The slow way into a lease: waits for whatever has to happen first. The model is not idle meanwhile.

        ``tenant``: who waits. Where models wait for memory, tenants take turns.
        """
        self.leases.waiting += 1
        self._wanted_by[tenant] += 1
        try:
            while (endpoint := self.endpoint) is None:
                if self._closed:
                    raise Unavailable(f"model '{self.name}' is closed: the gateway shuts down")
                if self.state is ModelLifeState.DRAINING:
                    await self._wait_unloaded()
                elif failure := await self._wait_loaded():
                    raise failure.with_traceback(None)
        finally:
            self.leases.waiting -= 1
            self._wanted_by[tenant] -= 1
            if not self._wanted_by[tenant]:
                del self._wanted_by[tenant]
            self._usage_changed()  # without a lease, this caller may be the last that can start the timer
        return endpoint

    async def _wait_unloaded(self) -> None:
        unload = self._unload
        if unload is None or unload.refuses:
            raise Unavailable(f"model '{self.name}' is being unloaded; a request after that loads it again")
        await asyncio.wait((unload.task,), timeout=self._patience)
        if self.state is ModelLifeState.DRAINING:
            raise Unavailable(
                f"model '{self.name}' makes room for another, and its running requests take long; try again"
            )

    async def _wait_loaded(self) -> SageError | None:
        """Joins the current load, or starts one; returns its failure, if it failed."""
        if self._loading is None:
            self._check_restart_pause()
            self._begin_load()
        task = self._loading
        assert task is not None
        await asyncio.wait((task,))  # unlike `await task`, a caller that is cancelled does not cancel it
        if task.cancelled():
            return Unavailable(f"model '{self.name}' was unloaded while it loaded; a request after that loads it again")
        return task.result()

    def _check_restart_pause(self) -> None:
        left = self._crashes.seconds_left()
        if left > 0 and self.error is not None:
            pause = f"it died {self._crashes.count} times in a row and may start again in {left:.1f} s"
            raise EngineFailed(f"{self.error['message']}; {pause}", self.error["log"], retry_after=left)

    def lease_ended(self) -> None:
        self.leases.in_flight -= 1
        self.leases.ended += 1
        if not self.leases.in_flight:
            self.leases.last_used = self._clock()
            self._usage_changed()

    def _usage_changed(self) -> None:
        """The last lease may have ended: ends a drain, offers the memory, and starts the idle timer."""
        if not self.leases.in_flight and self._unload is not None:
            self._unload.drain.finish()
        if self.state is not ModelLifeState.READY:
            return
        self._memory.rebalance()
        if not self._idle_timer.is_set and self.keep_alive != math.inf and not self.pinned:
            self._idle_timer.set(self.keep_alive)

    def _check_idle(self) -> None:
        """Unloads it if it has been idle for long enough; else the one timer looks again when it may have been."""
        leases = self.leases
        is_used = bool(leases.in_flight or leases.waiting) or leases.last_used is None
        if is_used or self.pinned or self.state is not ModelLifeState.READY:
            return  # the end of the next lease starts the timer again
        assert leases.last_used is not None
        left = leases.last_used + self.keep_alive - self._clock()
        if left <= 0:
            self._begin_unload(0.0)
        else:
            self._idle_timer.set(left)

    # Loading

    def _begin_load(self) -> None:
        self._restart_timer.cancel()
        self.state = ModelLifeState.LOADING
        self.load_began = time.time()
        self._loading = asyncio.create_task(self._load(), name=f"load {self.name}")

    async def _load(self) -> SageError | None:
        """Returns why it failed, if it did."""
        try:
            await self._memory.reserve(self, self.size, self._patience)
            began = self._clock()
            engine = self._engine = self._start()
            endpoint = await engine.start()
            await self._measure(engine)
        except asyncio.CancelledError:
            if self._unload is None:
                self._reset(ModelLifeState.UNLOADED)
            raise
        except SageError as exc:
            return self._fail(exc)
        except Exception as exc:  # a defect must not leave the state at `loading`
            _log.exception("model '%s': its engine could not be started", self.name)
            return self._fail(Unavailable(f"model '{self.name}' could not be started: {exc!r}"))
        if self._unload is not None:
            return Unavailable(f"model '{self.name}' was unloaded while it loaded")  # the unload ends the engine, too
        self._begin_serving(engine, endpoint, began)
        return None

    def _begin_serving(self, engine: RunningEngine, endpoint: Endpoint, began: float) -> None:
        now = self._clock()
        watch = asyncio.create_task(self._watch_health(engine), name=f"watch {self.name}")
        self._serving = _Serving(endpoint, time.time(), now, now - began, watch)
        self._loading = self.error = None
        self.state = ModelLifeState.READY
        self.leases.last_used = now
        _log.info("model '%s' is ready after %.1f s", self.name, now - began)
        engine.exited.add_done_callback(lambda exited: self._on_exit(engine, exited))
        self._usage_changed()
        if self._yields:
            self.make_room()

    async def _measure(self, engine: RunningEngine) -> None:
        """Measures the memory of an engine that serves; one that is larger than the whole budget is ended again."""
        try:
            pids = engine.pids
            self.measured = await asyncio.to_thread(proportional_memory, pids) if pids else None
            self.size = max(self.size, self.measured or 0)
            self._memory.correct(self, self.size)
        except BaseException:
            await engine.stop()
            raise

    # Failing

    def _fail(self, failure: SageError) -> SageError:
        if self._unload is not None:
            return failure  # the unload sets the state
        self.error = {"message": failure.message, "at": time.time(), "log": list(getattr(failure, "log", ()))}
        self._reset(ModelLifeState.FAILED)
        _log.error("model '%s' failed: %s", self.name, failure.message)
        return failure

    def _on_exit(self, engine: RunningEngine, exited: asyncio.Future[int]) -> None:
        """The engine ended. Unless we ended it, it died, and the next lease starts another."""
        if engine is not self._engine or self.state is not ModelLifeState.READY or exited.cancelled():
            return
        cause = f"the engine of model '{self.name}' {describe_status(exited.result())} while it served"
        self._record_death(engine, EngineFailed(cause, engine.log_tail))

    def _record_death(self, engine: RunningEngine, failure: SageError) -> None:
        """Counts the death, and starts the engine again after the pause if its memory is still free."""
        served = 0.0 if self._serving is None else self._clock() - self._serving.since
        pause = self._crashes.record(served)
        self.last_death = engine, failure
        self._fail(failure)
        if not self._closed:
            self._restart_timer.set(pause)

    def _restart(self) -> None:
        if self.state is ModelLifeState.FAILED and self._loading is None and self._memory.fits(self.size):
            self._begin_load()

    async def _watch_health(self, engine: RunningEngine) -> None:
        """Gives up an engine that hangs: its leases are cut, and callers that come meanwhile wait for the next one."""
        cause = await wait_for_failure(engine, self._health, lambda: self.leases.ended)
        if engine is self._engine and self.state is ModelLifeState.READY:
            failure = EngineFailed(f"the engine of model '{self.name}' {cause}", engine.log_tail)
            self.last_death = engine, failure
            self._begin_unload(0.0).failure = failure

    def _reset(self, state: ModelLifeState) -> None:
        """No engine is left; ``state`` says why."""
        self.state = state
        self._engine = self._loading = None
        serving, self._serving = self._serving, None
        if serving is not None:
            serving.watch.cancel()
        self._yields = False
        self._restart_timer.cancel()
        self._idle_timer.cancel()
        self._memory.release(self)

    # Unloading

    def _begin_unload(self, drain: float) -> _Unload:
        """Begins an unload, or joins the current one with ``drain`` seconds for its leases; infinity: no bound."""
        unload = self._unload
        if unload is None:
            waiting = Drain()
            task = asyncio.create_task(self._end(waiting), name=f"unload {self.name}")
            unload = self._unload = _Unload(waiting, task)
            self.state = ModelLifeState.DRAINING
        if drain <= 0:  # this one does not wait for the drain of an earlier one
            unload.drain.finish()
        elif drain != math.inf:
            asyncio.get_running_loop().call_later(drain, unload.drain.finish)
        return unload

    async def _end(self, drain: Drain) -> None:
        engine = None
        try:
            if self._loading is not None:
                self._loading.cancel()
                await asyncio.wait((self._loading,))
            engine = self._engine
            if engine is not None:
                await self._end_engine(engine, drain)
        finally:
            unload, self._unload = self._unload, None
            assert unload is not None
            if unload.failure is not None and not unload.refuses and engine is not None:
                self._record_death(engine, unload.failure)
            else:
                self._reset(ModelLifeState.UNLOADED)
                self.error = None

    async def _end_engine(self, engine: RunningEngine, drain: Drain) -> None:
        try:
            if self.leases.in_flight:
                await drain.wait(engine.exited)
        finally:
            if not engine.exited.done() and (self._unload is None or self._unload.failure is None):
                cut = f"model '{self.name}' was unloaded while it answered"
                self.last_death = engine, Unavailable(cut, code="model_unloaded")
            await engine.stop()
