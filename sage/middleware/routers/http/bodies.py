"""Bodies of requests: how many bytes each route takes, and what large ones may cost."""

from __future__ import annotations

from collections import Counter
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any

from sage.errors import PayloadTooLarge, Unavailable
from sage.thread_pool import ThreadPool

Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]

SMALL_BODY = 2**20
"""Bytes. What routes take that say nothing else. Larger bodies are parsed away from the event loop."""
VALIDATED_BODY = 16 * 2**10
"""Bytes. What routes take whose bodies the framework validates, which costs µs for each value at fault."""
SEARCH_BODY = 2 * 2**20
"""Bytes of a search: a query, a filter and a vector."""
_ENCODED = 16  # bodies of the largest size that are held at one time


def too_large(limit: int, setting: str | None = None) -> PayloadTooLarge:
    """The error for a body of more than ``limit`` bytes; ``setting`` names what says so."""
    if setting is None:
        return PayloadTooLarge(f"a body for this route has at most {limit} bytes")
    return PayloadTooLarge(f"the body is larger than {limit} bytes ({setting})")


class LargeBodies:
    """The large bodies of all requests of one server: how many bytes are held, of each caller, and the threads that
    parse them. ``largest`` is the limit on one, in bytes. One caller may hold half of what there may be."""

    def __init__(self, largest: int) -> None:
        self.threads = ThreadPool(2, "sage-bodies")
        self._most = _ENCODED * largest
        self._total = 0
        self._held: Counter[str] = Counter()

    def take(self, caller: str, size: int) -> None:
        """Counts bytes that ``caller`` sends. Raises :class:`Unavailable` when there is no place for them."""
        if self._total + size > self._most or self._held[caller] + size > self._most // 2:
            raise Unavailable("too many large bodies at this moment; try again soon", code="too_many_large_bodies")
        self._total += size
        self._held[caller] += size

    def release(self, caller: str, size: int) -> None:
        """Counts them no longer."""
        self._total -= size
        self._held[caller] -= size
        if not self._held[caller]:
            del self._held[caller]


class LargeBody:
    """The ``receive`` of a request whose body may be large, until :meth:`release`."""

    __slots__ = ("_bodies", "_caller", "_limit", "_read", "_receive", "_scope", "_setting", "_taken")

    def __init__(
        self, receive: Receive, scope: MutableMapping[str, Any], bodies: LargeBodies, limit: int, setting: str | None
    ) -> None:
        self._receive = receive
        self._scope = scope
        self._bodies = bodies
        self._limit = limit
        self._setting = setting
        self._read = 0
        self._taken = 0
        self._caller = ""

    @property
    def threads(self) -> ThreadPool:
        """Where it is to be parsed."""
        return self._bodies.threads

    def narrow(self, limit: int) -> None:
        """Lets at most ``limit`` bytes pass, if it were more."""
        if limit < self._limit:
            self._limit, self._setting = limit, None

    async def __call__(self) -> MutableMapping[str, Any]:
        message = await self._receive()
        size = len(message.get("body", b""))
        self._read += size
        if self._read > self._limit:
            raise too_large(self._limit, self._setting)
        if size and self._read > SMALL_BODY:
            if not self._taken:
                self._caller, size = _caller(self._scope), self._read
            self._bodies.take(self._caller, size)
            self._taken += size
        return message

    def release(self) -> None:
        """The request is over."""
        if self._taken:
            self._bodies.release(self._caller, self._taken)
            self._taken = 0


def _caller(scope: MutableMapping[str, Any]) -> str:
    """Who sends a body: the user, or on public routes the address."""
    principal = scope["state"].get("principal")
    if principal is not None:
        return f"{principal.tenant}/{principal.user}"
    client = scope.get("client")
    return client[0] if client else ""
