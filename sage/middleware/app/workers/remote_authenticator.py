"""Credentials at a front: the owner verifies them, once each, and says when rights were taken away."""

from __future__ import annotations

import time
from typing import Protocol

from sage.middleware.auth.credential_cache import CredentialCache, Verified
from sage.middleware.auth.principal import Principal


class HeardRevision:
    """The newest revision of rights that the owner has told."""

    def __init__(self, revision: int) -> None:
        self.revision = revision


class AsksOwner(Protocol):
    """Asks the owner for its verdict on a header value, or on the caller ``again`` of a call that runs."""

    async def __call__(self, authorization: bytes | None, again: Principal | None = None) -> Verified: ...


class RemoteAuthenticator(CredentialCache):
    """What was verified counts for as long as the owner says, at most a second ago, that no rights have changed."""

    def __init__(self, revision: int, verify: AsksOwner) -> None:
        """``verify`` asks the owner; it raises :class:`sage.errors.AuthenticationFailed`."""
        super().__init__(HeardRevision(revision), time.time)
        self._ask = verify

    def heard(self, revision: int, read_at: float) -> None:
        """The owner has read ``revision`` at that time (``time.monotonic``)."""
        self._observe(revision)
        self._revision_read_at = read_at
        if self.on_revision is not None:
            self.on_revision()

    async def verify(self, authorization: bytes | None) -> Verified:
        verified = await self._ask(authorization)
        if authorization is not None:
            self._remember(authorization, verified)
        return verified

    async def verify_again(self, authorization: bytes, before: Principal) -> Verified:
        return await self._ask(authorization, before)

    def _observe(self, revision: int) -> None:
        super()._observe(revision)
        self._newest = HeardRevision(self._revision)
