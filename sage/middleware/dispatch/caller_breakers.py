"""One deployment's circuit breakers: of each caller, of each tenant, and of all.

A request may be poison: its own fields make the deployment fail. It must not take the deployment from others. So a
caller's failures in a row open the caller's own breaker; those of several callers of a tenant open the tenant's; those
of several tenants, or failures that no request can provoke, open the one of all. A request needs all three closed.
"""

from __future__ import annotations

from collections.abc import Iterator

from sage.errors import SageError
from sage.middleware.dispatch.circuit_breaker import Breaker
from sage.middleware.settings.settings import Routing

Caller = tuple[str, str]
"""A tenant and a user of it."""
NOBODY: Caller = ("", "")
_MOST = 512
"""Breakers of callers and tenants; only those are kept whose last requests failed."""
_FORGOTTEN_AFTER = 120.0
"""Seconds after which an open one is forgotten whose caller did not come back."""
_UNPROVOKED = ("connect_failed", "connect_timeout")
"""Codes of failures that no request can provoke."""


class Breakers:
    """The breakers of one deployment. All times are those of ``time.monotonic``."""

    __slots__ = ("_of_some", "all", "failing", "is_open")

    def __init__(self) -> None:
        self.all = Breaker(shared=True)
        self._of_some: dict[tuple[str, ...], Breaker] = {}
        """By tenant, and by tenant and user."""
        self.is_open = False
        """Whether any of them is not closed."""
        self.failing = False
        """Whether any of them has counted a failure."""

    @property
    def is_divided(self) -> bool:
        """Whether it may admit one caller and not another."""
        return self.is_open and bool(self._of_some)

    def of(self, caller: Caller) -> Iterator[Breaker]:
        """Those that a request of ``caller`` has to pass, the narrowest first."""
        for scope in (caller, caller[:1]):
            breaker = self._of_some.get(scope)
            if breaker is not None:
                yield breaker
        yield self.all

    def admits(self, now: float, caller: Caller = NOBODY) -> bool:
        """Whether a request of ``caller`` may go now."""
        if not self.is_open:
            return True
        self._forget(now)
        return all(breaker.admits(now) for breaker in self.of(caller))

    def opens_at(self, now: float, caller: Caller) -> float:
        """When a request of ``caller`` may go if only time passes; 0 if a probe has to come back first."""
        closed = [breaker for breaker in self.of(caller) if not breaker.admits(now)]
        return max((breaker.until for breaker in closed), default=0.0) if all(b.until > now for b in closed) else 0.0

    def blocking(self, now: float, caller: Caller) -> Breaker | None:
        """The first breaker that keeps ``caller`` out."""
        return next((breaker for breaker in self.of(caller) if not breaker.admits(now)), None)

    def shown(self, now: float) -> Breaker:
        """The one to show to people: that of all, unless only narrower ones count failures, then the worst of them."""
        return max((self.all, *self._of_some.values()), key=lambda b: (b.until > now, bool(b.until), b.failures))

    def take(self, caller: Caller) -> tuple[Breaker, ...]:
        """A request of ``caller`` goes; returns the breakers whose probe it is."""
        return tuple(breaker for breaker in self.of(caller) if breaker.take()) if self.is_open else ()

    def answered(self, probes: tuple[Breaker, ...], limit: int) -> None:
        """The probe of ``probes`` got its first byte."""
        for breaker in probes:
            breaker.answered(limit)
        self._review()

    def succeed(self, caller: Caller) -> None:
        """A whole answer came."""
        for breaker in self.of(caller):
            breaker.succeed()
        for scope in (caller, caller[:1]):
            breaker_of_some = self._of_some.get(scope)
            if breaker_of_some is not None and not breaker_of_some.failures:
                del self._of_some[scope]
        self._review()

    def fail(
        self, caller: Caller, now: float, failure: SageError, probes: tuple[Breaker, ...], routing: Routing
    ) -> None:
        """A request of ``caller`` failed, and was the probe of ``probes``."""
        tenant, user = caller
        unprovoked = failure.code in _UNPROVOKED
        if not unprovoked:
            own = self._get(caller, shared=False)
            own.fail(now, failure, own in probes, routing)
            tenants = self._get((tenant,), shared=True)
            tenants.fail(now, failure, tenants in probes, routing, user)
        self.all.fail(now, failure, self.all in probes, routing, None if unprovoked else tenant)
        for breaker in probes:
            breaker.give_back()  # of those that the failure says nothing of
        self._review()

    def heard(self, until: float, failure: SageError | None, limit: int) -> None:
        """Another process of this gateway has opened the breaker of all until then; 0 means that its probe was
        answered, as in :meth:`answered`."""
        if until > self.all.until:
            self.all.open(until, failure)
        elif not until and self.all.until:
            self.all.answered(limit)
        self._review()

    def give_back(self, probes: tuple[Breaker, ...]) -> None:
        """The probe ended without showing anything of the deployment."""
        for breaker in probes:
            breaker.give_back()

    def _get(self, scope: tuple[str, ...], *, shared: bool) -> Breaker:
        breaker = self._of_some.get(scope)
        if breaker is None:
            if len(self._of_some) >= _MOST:
                oldest = next((s for s, b in self._of_some.items() if not b.until), next(iter(self._of_some)))
                del self._of_some[oldest]
            breaker = self._of_some[scope] = Breaker(shared=shared)
        return breaker

    def _forget(self, now: float) -> None:
        """Drops open breakers whose callers did not come back."""
        gone = [s for s, b in self._of_some.items() if b.until and not b.probing and now > b.until + _FORGOTTEN_AFTER]
        for scope in gone:
            del self._of_some[scope]
        if gone:
            self._review()

    def _review(self) -> None:
        breakers = (self.all, *self._of_some.values())
        self.is_open = any(breaker.until for breaker in breakers)
        self.failing = bool(self._of_some) or self.all.failures > 0
