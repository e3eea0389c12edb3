"""The memory that managed models may take together: which may load now, which must unload for it, and which wait.

The decision is a pure function, :func:`plan`; :class:`MemoryBudget` keeps the reservations and the queue, and asks
models to unload. A loaded model keeps its place for a *turn* of a few times its load time, or until it has been idle
for a moment. So two busy models that do not fit together take turns, and do not change places with every request.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from typing import Protocol

from sage.errors import Unavailable
from sage.fair_queue import TurnHistory
from sage.middleware.engines.timer import Timer


@dataclass(frozen=True, slots=True)
class Turns:
    """How long a loaded model keeps its memory while others wait for it, in seconds."""

    factor: float = 5.0
    """In units of its load time."""
    shortest: float = 2.0
    longest: float = 60.0
    linger: float = 0.5
    """A model that has been idle for so long unloads before its turn is over."""

    def length(self, load: float) -> float:
        return min(self.longest, max(self.shortest, self.factor * load))


@dataclass(frozen=True, slots=True)
class EvictionCandidate:
    """A model that takes memory, and what decides whether it unloads for another; times are of the budget's clock."""

    name: str
    size: int
    """Bytes."""
    protected: bool = False
    """It is pinned, or loads: nothing makes it unload."""
    leaving: bool = False
    """It unloads already: its memory is free soon."""
    busy: bool = False
    """A caller uses it."""
    last_used: float = 0.0
    turn_ends: float = 0.0


@dataclass(frozen=True, slots=True)
class Plan:
    """What to do for the first model that waits."""

    admit: bool = False
    evict: tuple[EvictionCandidate, ...] = ()
    look_again_at: float | None = None
    """When the plan may change by time alone; ``None`` means only when a candidate changes."""


def plan(budget: int, candidates: Sequence[EvictionCandidate], wanted: int, now: float, turns: Turns) -> Plan:
    """Whether ``wanted`` bytes are free, else which models unload: the longest idle first, then the longest in use.

    No model unloads unless enough of them can: too little room would not help.
    """
    free = budget - sum(candidate.size for candidate in candidates)
    if free >= wanted:
        return Plan(admit=True)
    missing = wanted - free - sum(candidate.size for candidate in candidates if candidate.leaving)
    if missing <= 0:
        return Plan()
    loaded = [c for c in candidates if not (c.protected or c.leaving) and c.size > 0]
    chosen: list[EvictionCandidate] = []
    for candidate in sorted(loaded, key=lambda c: (c.busy, c.turn_ends if c.busy else c.last_used)):
        if missing > 0 and _evictable_from(candidate, turns) <= now:
            chosen.append(candidate)
            missing -= candidate.size
    if missing <= 0:
        return Plan(evict=tuple(chosen))
    return Plan(look_again_at=min((at for c in loaded if (at := _evictable_from(c, turns)) > now), default=None))


def _evictable_from(candidate: EvictionCandidate, turns: Turns) -> float:
    """When its turn is over."""
    return candidate.turn_ends if candidate.busy else min(candidate.turn_ends, candidate.last_used + turns.linger)


class Occupant(Protocol):
    """What the budget needs of a model. The model owns its state, so it unloads by itself when it is asked to."""

    name: str

    @property
    def pinned(self) -> bool: ...
    @property
    def wanted_by(self) -> Collection[str]:
        """The tenants that wait for it."""
        ...

    def eviction_candidate(self, size: int, turns: Turns) -> EvictionCandidate: ...

    def make_room(self) -> None:
        """Takes no new leases, lets the running ones end, and unloads. New callers wait for its next turn."""
        ...


class MemoryBudget:
    """The owner of ``budget`` bytes; ``None`` means no bound, so that no model waits. It lives on one event loop."""

    def __init__(
        self, budget: int | None = None, *, turns: Turns | None = None, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self.budget = budget
        self._turns = turns or Turns()
        self._clock = clock
        self._reserved: dict[Occupant, int] = {}
        self._queue: dict[Occupant, _WaitingModel] = {}
        self._history = TurnHistory()
        """Of tenants."""
        self._timer = Timer(self.rebalance)

    @property
    def reserved(self) -> int:
        """Bytes that are reserved."""
        return sum(self._reserved.values())

    @property
    def waiting(self) -> int:
        """Models that wait for room."""
        return len(self._queue)

    def reserved_for(self, model: Occupant) -> int:
        """Bytes."""
        return self._reserved.get(model, 0)

    async def reserve(self, model: Occupant, size: int, patience: float) -> None:
        """Returns once ``model`` may take ``size`` bytes: in the order of asking, but tenants take turns.

        Raises :class:`Unavailable`: at once when the model is larger than the budget or what is pinned leaves too
        little, else after ``patience`` seconds.
        """
        if self.budget is None:
            self._reserved[model] = size
            return
        self._check(model, size)
        waiting = self._queue[model] = _WaitingModel(model, size, asyncio.get_running_loop().create_future())
        self.rebalance()
        try:
            async with asyncio.timeout(patience):
                await waiting.admitted
        except TimeoutError:
            raise Unavailable(
                f"model '{model.name}' found no room within {patience:g} s: {self._needs(size)}; {self._loaded()}",
                code="no_memory",
            ) from None
        finally:
            self._queue.pop(model, None)
            if not waiting.admitted.done() or waiting.admitted.cancelled():
                self.rebalance()

    def correct(self, model: Occupant, size: int) -> None:
        """Sets what a loaded model really takes; raises :class:`Unavailable` if that is over the budget."""
        if self.budget is not None and size > self.budget:
            raise self._too_large(model, size)
        self._reserved[model] = size

    def release(self, model: Occupant) -> None:
        """The model's process has ended, or will not be started."""
        if self._reserved.pop(model, None) is not None:
            self.rebalance()

    def rebalance(self) -> None:
        """Call when a model has changed: admits waiting models that fit, and asks others to unload for the next one."""
        if self.budget is None or (not self._queue and self.reserved <= self.budget):
            return
        self._timer.cancel()
        while True:
            candidates = {m: m.eviction_candidate(size, self._turns) for m, size in self._reserved.items()}
            first = self._first()
            wanted = first.size if first is not None else 0
            step = plan(self.budget, list(candidates.values()), wanted, self._clock(), self._turns)
            if first is None or not step.admit:
                break
            self._reserved[first.model] = first.size
            first.admitted.set_result(None)
            for tenant in first.model.wanted_by:
                self._history.record(tenant)
        for model in [m for m, candidate in candidates.items() if any(candidate is c for c in step.evict)]:
            model.make_room()
        if step.look_again_at is not None:
            self._timer.set(max(0.0, step.look_again_at - self._clock()))

    def _first(self) -> _WaitingModel | None:
        """The waiting model whose turn it is: of those that a tenant waits for whose last turn is longest ago."""
        waiting = [waiting for waiting in self._queue.values() if not waiting.admitted.done()]
        return min(
            waiting, key=lambda each: min(map(self._history.last, each.model.wanted_by), default=0), default=None
        )

    def fits(self, size: int) -> bool:
        """Whether so many bytes are free and no model waits for them."""
        return self.budget is None or (not self._queue and self.reserved + size <= self.budget)

    def _check(self, model: Occupant, size: int) -> None:
        assert self.budget is not None
        if size > self.budget:
            raise self._too_large(model, size)
        pinned = [
            (other.name, reserved) for other, reserved in self._reserved.items() if other.pinned and other is not model
        ]
        if size > self.budget - sum(reserved for _, reserved in pinned):
            names = ", ".join(f"'{name}' ({show_bytes(reserved)})" for name, reserved in pinned)
            raise Unavailable(
                f"model '{model.name}' does not fit: {self._needs(size)}, and {names} are pinned; unload one of them "
                "or raise llm.memory_budget",
                code="no_memory",
                retry_after=30.0,
            )

    def _too_large(self, model: Occupant, size: int) -> Unavailable:
        return Unavailable(
            f"model '{model.name}' is too large: {self._needs(size)}; raise llm.memory_budget or load a smaller one",
            code="model_too_large",
            retry_after=60.0,
        )

    def _needs(self, size: int) -> str:
        return f"it takes {show_bytes(size)}, and the memory budget is {show_bytes(self.budget or 0)}"

    def _loaded(self) -> str:
        names = ", ".join(f"'{model.name}' ({show_bytes(size)})" for model, size in self._reserved.items())
        return f"loaded: {names or 'none'}; try again, or unload one"


@dataclass(frozen=True, slots=True, eq=False)
class _WaitingModel:
    model: Occupant
    size: int
    admitted: asyncio.Future[None]


def show_bytes(size: int) -> str:
    """``3.2 GiB``"""
    for unit, name in ((2**30, "GiB"), (2**20, "MiB"), (2**10, "KiB")):
        if size >= unit:
            return f"{size / unit:.1f} {name}"
    return f"{size} bytes"
