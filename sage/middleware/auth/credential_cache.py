"""Credentials that were verified before: what makes the check of a request's caller cheap.

The two that verify them are the :class:`~sage.middleware.auth.authenticator.Authenticator`, which asks the database,
and in a further process of one gateway the
:class:`~sage.middleware.app.workers.remote_authenticator.RemoteAuthenticator`, which asks the process that has it.
"""

from __future__ import annotations

import asyncio
import math
import time
from abc import ABC, abstractmethod
from collections import OrderedDict
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from hashlib import sha256
from typing import NamedTuple, Protocol

from sage.middleware.auth.principal import Principal

_STALE_AFTER = 1.0  # seconds since the revision was last read, after which the cache is not used


@dataclass(frozen=True, slots=True)
class Verified:
    """A principal, and the revision of rights at which it was read."""

    principal: Principal
    revision: int


def digest_of(authorization: bytes) -> bytes:
    """What a header value is kept under, so that no credential is."""
    return sha256(authorization).digest()


class RightsRevision(Protocol):
    """Where the newest revision of rights stands that this process knows of."""

    @property
    def revision(self) -> int: ...


class _Verification(NamedTuple):
    """A full check that runs."""

    done: asyncio.Future[Verified | None]
    """``None`` means that it failed, or was given up."""
    revision: int
    """The newest revision of rights that was known when it began."""
    began: float


class CredentialCache(ABC):
    """Verified credentials under the SHA-256 of the whole header value, until they expire or the revision of rights
    changes. It is not used while the revision was not read for a second. Belongs to one event loop.
    """

    def __init__(
        self,
        newest: RightsRevision,
        clock: Callable[[], float],
        *,
        capacity: int = 10_000,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self._newest = newest
        self._clock = clock
        self._capacity = capacity
        self._monotonic = monotonic
        self._cache: OrderedDict[bytes, tuple[Principal, float]] = OrderedDict()
        self._running: dict[bytes, _Verification] = {}
        """By the digest of the header value."""
        self._uses: dict[str, float] = {}
        """By credential, when it was last used since that was taken (Unix seconds)."""
        self._revision = newest.revision
        self._revision_read_at = -math.inf
        self.on_revision: Callable[[], None] | None = None
        """Called on the event loop several times a second, after the revision was read or heard, or could not be."""

    @property
    def revision(self) -> int:
        """The newest revision of rights that is known here."""
        return max(self._revision, self._newest.revision)

    @property
    def revision_read_at(self) -> float:
        """When it was last read (``time.monotonic``); -infinity means that it cannot be read."""
        return self._revision_read_at

    def cached(self, authorization: bytes) -> Principal | None:
        """The principal of a header value that was verified before; ``None`` means that it needs the full check."""
        return self.cached_under(digest_of(authorization))

    def cached_under(self, digest: bytes) -> Principal | None:
        """As :meth:`cached`, for the header value with that :func:`digest_of` it."""
        if self._monotonic() - self._revision_read_at > _STALE_AFTER or self._newest.revision != self._revision:
            return None
        entry = self._cache.get(digest)
        if entry is None:
            return None
        principal, expires_at = entry
        now = self._clock()
        if expires_at <= now:
            del self._cache[digest]
            return None
        self._uses[principal.credential] = now
        self._cache.move_to_end(digest)
        return principal

    async def authenticate(self, authorization: bytes | None) -> Principal:
        """The full check of a header value; raises :class:`sage.errors.AuthenticationFailed` with what to do.

        A thousand clients may come with one credential before it is verified, or after a second in which no revision
        could be read: they share one check, if it succeeds. It is one that began less than a second ago, and since then
        no change of rights is known, so that nobody is let in for longer than by the cache.
        """
        if not authorization:
            return (await self.verify(authorization)).principal
        digest, now, revision = digest_of(authorization), self._monotonic(), self.revision
        running = self._running.get(digest)
        if running is None or running.revision != revision or now - running.began > _STALE_AFTER:
            return await self._verify_for_all(authorization, digest, now, revision)
        await asyncio.wait([running.done])
        verified = running.done.result() or await self.verify(authorization)
        return verified.principal

    async def _verify_for_all(self, authorization: bytes, digest: bytes, now: float, revision: int) -> Principal:
        """Verifies a header value for those, too, that come with it in the meantime."""
        running = self._running[digest] = _Verification(asyncio.get_running_loop().create_future(), revision, now)
        verified = None
        try:
            verified = await self.verify(authorization)
        finally:
            running.done.set_result(verified)
            if self._running.get(digest) is running:
                del self._running[digest]
        return verified.principal

    def take_uses(self) -> dict[str, float]:
        """When credentials were used since the last call: Unix seconds by credential."""
        uses, self._uses = self._uses, {}
        return uses

    def note_uses(self, uses: Mapping[str, float]) -> None:
        """Adds what was used elsewhere, or could not be written."""
        for credential, used_at in uses.items():
            self._uses[credential] = max(used_at, self._uses.get(credential, 0.0))

    @abstractmethod
    async def verify(self, authorization: bytes | None) -> Verified:
        """As :meth:`authenticate`, with the revision at which it was read."""

    @abstractmethod
    async def verify_again(self, authorization: bytes, before: Principal) -> Verified:
        """The rights that ``before``, the caller of a call that runs, has now. The call may outlive its access token,
        but not the token's session. Raises :class:`sage.errors.AuthenticationFailed`. It counts as no use of a key."""

    @property
    def _is_fresh(self) -> bool:
        return self._monotonic() - self._revision_read_at <= _STALE_AFTER

    def _observe(self, revision: int) -> None:
        """Moves on to a newer revision and forgets what was verified before it."""
        if revision > self._revision:
            self._cache.clear()
            self._revision = revision

    def _remember(self, authorization: bytes, verified: Verified) -> None:
        self._uses[verified.principal.credential] = self._clock()
        self._observe(verified.revision)
        if verified.revision != self._revision:
            return  # read before a change that this process has seen
        digest, expires_at = digest_of(authorization), verified.principal.expires_at
        self._cache[digest] = (verified.principal, math.inf if expires_at is None else expires_at)
        self._cache.move_to_end(digest)
        if len(self._cache) > self._capacity:
            self._cache.popitem(last=False)
