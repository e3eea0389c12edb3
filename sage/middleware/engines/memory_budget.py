"""The memory that managed models may take together: who may load now, who has to leave for it, and who waits.

What is decided is a pure function, :func:`plan`; :class:`MemoryBudget` keeps the reservations and the queue, and asks
models to leave. A model that was loaded keeps its place for a *turn* of a few times its load time, or until it has been
idle for a moment: so two busy models that do not fit together change places once a turn, not once a request, and all
requests for one of them are answered in its turn.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

from sage.errors import Unavailable
from sage.middleware.engines.timer import Timer


@dataclass(frozen=True, slots=True)
class Turns:
    """How long a loaded model keeps its place while others wait for it, in seconds."""

    factor: float = 5.0
    """Times what its load took."""
    shortest: float = 2.0
    longest: float = 60.0
    linger: float = 0.5
    """One that has been idle for so long leaves before its turn is over."""

    def length(self, load: float) -> float:
        return min(self.longest, max(self.shortest, self.factor * load))


@dataclass(frozen=True, slots=True)
class EvictionCandidate:
    """How a model that takes memory stands; times are of the clock that decides."""

    name: str
    size: int
    """Bytes."""
    held: bool = False
    """It is pinned, or loads: nothing makes it leave."""
    leaving: bool = False
    """Its memory is free soon."""
    busy: bool = False
    """Somebody uses it."""
    used: float = 0.0
    """When it was last used."""
    turn_ends: float = 0.0


@dataclass(frozen=True, slots=True)
class Plan:
    """What is to be done for the first that waits."""

    admit: bool = False
    evict: tuple[EvictionCandidate, ...] = ()
    again: float | None = None
    """When time alone may change the answer; none: only when somebody's standing changes."""


def plan(budget: int, standings: Sequence[EvictionCandidate], wanted: int, now: float, turns: Turns) -> Plan:
    """Whether ``wanted`` bytes are free, else who leaves for them: the longest idle first, then the longest in use.

    Nobody leaves unless enough can leave together: half a room helps nobody.
    """
    free = budget - sum(standing.size for standing in standings)
    if free >= wanted:
        return Plan(admit=True)
    missing = wanted - free - sum(standing.size for standing in standings if standing.leaving)
    if missing <= 0:
        return Plan()
    loaded = [s for s in standings if not (s.held or s.leaving) and s.size > 0]
    chosen: list[EvictionCandidate] = []
    for standing in sorted(loaded, key=lambda s: (s.busy, s.used if not s.busy else s.turn_ends)):
        if missing > 0 and _leaves_at(standing, turns) <= now:
            chosen.append(standing)
            missing -= standing.size
    if missing <= 0:
        return Plan(evict=tuple(chosen))
    return Plan(again=min((at for s in loaded if (at := _leaves_at(s, turns)) > now), default=None))


def _leaves_at(standing: EvictionCandidate, turns: Turns) -> float:
    """From when on it leaves for another."""
    return standing.turn_ends if standing.busy else min(standing.turn_ends, standing.used + turns.linger)


class Occupant(Protocol):
    """What the memory asks of a model: it owns its state, so it tells how it stands and leaves by itself."""

    name: str

    @property
    def pinned(self) -> bool: ...

    def standing(self, size: int, turns: Turns) -> EvictionCandidate: ...

    def make_room(self) -> None:
        """Takes no new leases, lets those that run end, and unloads. Callers wait for its next turn meanwhile."""
        ...


class MemoryBudget:
    """The owner of ``budget`` bytes (none: no bound, nobody waits). It lives on one event loop."""

    def __init__(
        self, budget: int | None = None, *, turns: Turns | None = None, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self.budget = budget
        self._turns = turns or Turns()
        self._clock = clock
        self._taken: dict[Occupant, int] = {}
        self._queue: dict[Occupant, _Waiting] = {}
        self._alarm = Timer(self.look)

    @property
    def taken(self) -> int:
        """Bytes that are reserved."""
        return sum(self._taken.values())

    async def reserve(self, model: Occupant, size: int, patience: float) -> None:
        """Returns once ``model`` may take ``size`` bytes, in the order of asking.

        Raises :class:`Unavailable`: at once when the model is larger than the budget or what is pinned leaves too
        little, else after ``patience`` seconds.
        """
        if self.budget is None:
            self._taken[model] = size
            return
        self._check(model, size)
        waiting = self._queue[model] = _Waiting(model, size, asyncio.get_running_loop().create_future())
        self.look()
        try:
            async with asyncio.timeout(patience):
                await waiting.admitted
        except TimeoutError:
            raise Unavailable(
                f"model '{model.name}' found no room within {patience:g} s: {self._needs(size)}; {self._holders()}",
                code="no_memory",
            ) from None
        finally:
            self._queue.pop(model, None)
            if not waiting.admitted.done() or waiting.admitted.cancelled():
                self.look()

    def settle(self, model: Occupant, size: int) -> None:
        """Says what a model that has loaded takes in truth; raises :class:`Unavailable` if that is over the budget."""
        if self.budget is not None and size > self.budget:
            raise self._too_large(model, size)
        self._taken[model] = size

    def release(self, model: Occupant) -> None:
        """The model's process is gone, or will not be started."""
        if self._taken.pop(model, None) is not None:
            self.look()

    def look(self) -> None:
        """Call when a model's standing has changed: admits who fits, and asks models to leave for who does not."""
        if self.budget is None or (not self._queue and self.taken <= self.budget):
            return
        self._alarm.cancel()
        while True:
            standings = {model: model.standing(size, self._turns) for model, size in self._taken.items()}
            first = next((waiting for waiting in self._queue.values() if not waiting.admitted.done()), None)
            wanted = first.size if first is not None else 0
            step = plan(self.budget, list(standings.values()), wanted, self._clock(), self._turns)
            if first is None or not step.admit:
                break
            self._taken[first.model] = first.size
            first.admitted.set_result(None)
        for model in [model for model, standing in standings.items() if any(standing is s for s in step.evict)]:
            model.make_room()
        if step.again is not None:
            self._alarm.set(max(0.0, step.again - self._clock()))

    def fits(self, size: int) -> bool:
        """Whether so many bytes are free and nobody waits for them."""
        return self.budget is None or (not self._queue and self.taken + size <= self.budget)

    def _check(self, model: Occupant, size: int) -> None:
        assert self.budget is not None
        if size > self.budget:
            raise self._too_large(model, size)
        pinned = [(other.name, taken) for other, taken in self._taken.items() if other.pinned and other is not model]
        if size > self.budget - sum(taken for _, taken in pinned):
            names = ", ".join(f"'{name}' ({show_bytes(taken)})" for name, taken in pinned)
            raise Unavailable(
                f"model '{model.name}' finds no room: {self._needs(size)}, and {names} are pinned; unload one of them "
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

    def _holders(self) -> str:
        names = ", ".join(f"'{model.name}' ({show_bytes(size)})" for model, size in self._taken.items())
        return f"loaded: {names or 'none'}; try again, or unload one"


@dataclass(frozen=True, slots=True, eq=False)
class _Waiting:
    model: Occupant
    size: int
    admitted: asyncio.Future[None]


def show_bytes(size: int) -> str:
    """``3.2 GiB``"""
    for unit, name in ((2**30, "GiB"), (2**20, "MiB"), (2**10, "KiB")):
        if size >= unit:
            return f"{size / unit:.1f} {name}"
    return f"{size} bytes"
