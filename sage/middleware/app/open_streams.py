"""Ends the calls and the answers that are under way for callers who have lost the right to them."""

from __future__ import annotations

import asyncio
import logging
import math
import time
from collections.abc import Callable

from sage.errors import AuthenticationFailed, PermissionDenied, SageError
from sage.middleware.auth.credential_cache import CredentialCache
from sage.middleware.auth.principal import Principal, Scope
from sage.middleware.dispatch.deadlines import Deadlines
from sage.middleware.gateway.watch import Watch
from sage.middleware.routers.http.guard import credential
from sage.middleware.routers.http.open_answers import OpenAnswer, OpenAnswers

logger = logging.getLogger("sage")


class OpenStreams:
    """Looks at the running calls, and the answers of framework routes, whenever the revision of rights has changed, at
    each new one once, and at those whose credential expires; belongs to one event loop.

    A call ends with an error whose code is ``rights_revoked`` where a new one like it would be refused. An access token
    that expires does not end it: its session's end does. While rights cannot be read, no call ends.
    """

    def __init__(
        self,
        authenticator: CredentialCache,
        deadlines: Deadlines,
        answers: OpenAnswers | None = None,
        clock: Callable[[], float] = time.time,
    ) -> None:
        """``answers`` are those of framework routes, where this process has any."""
        self._authenticator = authenticator
        self._deadlines = deadlines
        self._answers = answers
        self._clock = clock
        self._looking: asyncio.Task[None] | None = None
        self._warned = False
        authenticator.on_revision = self._look_if_needed

    def _look_if_needed(self) -> None:
        if self._looking is not None and not self._looking.done():
            return
        revision, now = self._authenticator.revision, self._clock()
        calls: list[Watch | OpenAnswer] = [*self._deadlines.watched(Watch)]
        if self._answers is not None:
            calls += self._answers.list()
        calls = [each for each in calls if each.scope is not None]
        doubtful = [each for each in calls if each.trusted_at != revision or each.until <= now]
        if doubtful:
            self._looking = asyncio.get_running_loop().create_task(self._look(doubtful, revision))

    async def _look(self, doubtful: list[Watch | OpenAnswer], revision: int) -> None:
        """Looks up each credential once. What it does not come to is looked at the next time."""
        known: dict[bytes | None, Principal | SageError] = {}
        for watched in doubtful:
            if watched.scope is None:
                continue  # it has ended meanwhile
            authorization = credential(watched.scope)
            before: Principal = watched.scope["state"]["principal"]
            if authorization not in known:
                try:
                    known[authorization] = await self._rights(authorization, before, watched.until)
                except Exception as exc:  # whatever it is: who cannot be looked up keeps what he has
                    if not self._warned:
                        logger.warning("the rights of running calls cannot be looked up now: %r", exc)
                    self._warned = True
                    return
                self._warned = False
            _judge(watched, before, known[authorization], revision)

    async def _rights(self, authorization: bytes | None, before: Principal, until: float) -> Principal | SageError:
        """The rights that a credential has now, or why it has none."""
        if authorization is None:
            return before
        known = self._authenticator.cached(authorization) if until > self._clock() else None
        try:
            return known or (await self._authenticator.verify_again(authorization, before)).principal
        except (AuthenticationFailed, PermissionDenied) as exc:
            return exc


def _judge(watched: Watch | OpenAnswer, before: Principal, rights: Principal | SageError, revision: int) -> None:
    try:
        if isinstance(rights, SageError):
            raise rights
        if rights.tenant != before.tenant:
            raise AuthenticationFailed(f"the user '{before.user}' has moved to another tenant")
        if isinstance(watched, OpenAnswer):
            watched.require_right(rights)
        else:
            rights.require(Scope.GENERATE)
            for name in (watched.call.model, *watched.call.fallbacks):
                rights.require_model(name)
    except SageError as exc:
        kind = PermissionDenied if isinstance(exc, PermissionDenied) else AuthenticationFailed
        reason = f"the right to this answer was taken away: {exc.message}"
        watched.revoke(kind(reason, code="rights_revoked"))
        return
    expires_at = rights.expires_at if rights.by_key else None  # a job's rights are followed where it runs
    watched.trusted_at, watched.until = revision, math.inf if expires_at is None else expires_at
