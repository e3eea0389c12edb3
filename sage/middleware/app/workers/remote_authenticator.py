"""Credentials at a front: the owner verifies them, once each, and says when rights were taken away."""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable

from sage.middleware.auth.credential_cache import CredentialCache, Verified


class HeardRevision:
    """The newest revision of rights that the owner has told."""

    def __init__(self, revision: int) -> None:
        self.revision = revision


class RemoteAuthenticator(CredentialCache):
    """What was verified counts for as long as the owner says, at most a second ago, that no rights have changed."""

    def __init__(self, revision: int, verify: Callable[[bytes | None], Awaitable[Verified]]) -> None:
        """``verify`` asks the owner; it raises :class:`sage.errors.AuthenticationFailed`."""
        super().__init__(HeardRevision(revision), time.time)
        self._ask = verify

    def heard(self, revision: int, read_at: float) -> None:
        """The owner has read ``revision`` at that time (``time.monotonic``)."""
        self._observe(revision)
        self._revision_read_at = read_at

    async def verify(self, authorization: bytes | None) -> Verified:
        verified = await self._ask(authorization)
        if authorization is not None:
            self._remember(authorization, verified)
        return verified

    def _observe(self, revision: int) -> None:
        super()._observe(revision)
        self._newest = HeardRevision(self._revision)
