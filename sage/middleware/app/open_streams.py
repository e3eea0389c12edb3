"""Ends the calls that are under way for callers who have lost the right to them."""

from __future__ import annotations

import asyncio

from sage.errors import AuthenticationFailed, PermissionDenied, SageError
from sage.middleware.auth.authenticator import Authenticator
from sage.middleware.auth.credential_cache import CredentialCache
from sage.middleware.auth.principal import Principal, Scope
from sage.middleware.dispatch.deadlines import Deadlines
from sage.middleware.gateway.watch import Watch
from sage.middleware.routers.http.guard import credential

_PAUSE = 1.0
"""Seconds until the next look, when the rights cannot be read now."""


class OpenStreams:
    """Looks at all running calls when the revision of rights has changed; belongs to one event loop.

    A call ends with an error whose code is ``rights_revoked`` when its credential is no longer good, or not for that
    model. A token that has merely expired does not end the calls that began with it.
    """

    def __init__(self, authenticator: CredentialCache, deadlines: Deadlines) -> None:
        self._authenticator = authenticator
        self._deadlines = deadlines
        self._looking: asyncio.Task[None] | None = None
        self._again = False
        authenticator.on_change = self._changed

    def _changed(self) -> None:
        self._again = True
        if self._looking is None or self._looking.done():
            self._looking = asyncio.get_running_loop().create_task(self._look())

    async def _look(self) -> None:
        while self._again:
            self._again = False
            known: dict[bytes, Principal | SageError] = {}
            for watched in self._deadlines.watched():
                if not isinstance(watched, Watch) or watched.scope is None:
                    continue
                authorization = credential(watched.scope)
                if authorization is None:
                    continue
                if authorization not in known:
                    known[authorization] = await self._rights(authorization, watched.scope["state"]["principal"])
                if self._deadlines.is_watched(watched):  # it may have ended meanwhile
                    self._judge(watched, known[authorization])
            if self._again:
                await asyncio.sleep(_PAUSE)

    async def _rights(self, authorization: bytes, before: Principal) -> Principal | SageError:
        """The rights that a credential has now, or why it has none."""
        try:
            try:
                found = self._authenticator.cached(authorization)
                return found or await self._authenticator.authenticate(authorization)
            except AuthenticationFailed as exc:
                if exc.code != "token_expired":
                    raise
                if isinstance(self._authenticator, Authenticator):
                    return await self._authenticator.rights_of(before.asker)
                return before
        except (AuthenticationFailed, PermissionDenied) as exc:
            return exc
        except SageError:
            self._again = True
            return before

    def _judge(self, watched: Watch, rights: Principal | SageError) -> None:
        assert watched.scope is not None
        before: Principal = watched.scope["state"]["principal"]
        if isinstance(rights, Principal):
            if (
                Scope.GENERATE in rights.scopes
                and rights.tenant == before.tenant
                and rights.allows_model(watched.call.model)
            ):
                return
            reason = "it may not ask this model any more"
        else:
            reason = rights.message
        watched.revoke(
            AuthenticationFailed(f"the right to this answer was taken away: {reason}", code="rights_revoked")
        )
