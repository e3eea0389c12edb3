"""What the askers of jobs may do, at the moment at which their jobs run."""

from __future__ import annotations

import contextlib

from sage.errors import AuthenticationFailed, PermissionDenied, SageError
from sage.middleware.auth.authenticator import Authenticator
from sage.middleware.auth.job_tokens import JobTokens
from sage.middleware.auth.principal import LOCAL, Asker, Principal, Scope

CREDENTIAL_SECONDS = 600
"""How long a job's credential is valid. A worker gets the next one with each renewal of its lease."""
WORK = {
    "generate": Scope.GENERATE,
    "embed": Scope.GENERATE,
    "evaluate": Scope.GENERATE,
    "batch": Scope.GENERATE,
    "response": Scope.GENERATE,
    "ingest": Scope.COLLECTIONS_WRITE,
    "reembed": Scope.COLLECTIONS_WRITE,
    "snapshot": Scope.COLLECTIONS_WRITE,
}
"""Every kind of job, and the scope of its work, which it takes beside ``tasks``."""


TASK_KINDS = tuple(kind for kind in WORK if kind not in ("batch", "response"))
"""Kinds that ``POST /tasks/{kind}`` takes; batches and responses have OpenAI's routes."""


class RightsRevoked(SageError):
    """Who asked for a job may not have it done any more."""

    status = 403
    type = "permission_error"
    default_code = "rights_revoked"


class JobRights:
    """Looks up what an asker may do now. Without accounts everyone is ``local`` and may do everything."""

    def __init__(self, authenticator: Authenticator | None, tokens: JobTokens | None) -> None:
        self._authenticator = authenticator
        self._tokens = tokens
        self._has_local = False

    async def prepare(self) -> None:
        """To be awaited once, before :meth:`serves` is asked."""
        if self._authenticator is not None:
            with contextlib.suppress(AuthenticationFailed):
                self._has_local = await self._authenticator.tenant_of(LOCAL.user) == LOCAL.tenant

    def serves(self, user: str, tenant: str) -> bool:
        """Whether jobs of this user are for this gateway. With accounts and without them, gateways may run on one data
        directory one after the other: each leaves the jobs of the other's users as they are."""
        if self._authenticator is None:
            return tenant == LOCAL.tenant
        return self._has_local or (user, tenant) != (LOCAL.user, LOCAL.tenant)

    async def check(self, asker: Asker, kind: str) -> Principal:
        """The rights of ``asker``; raises :class:`RightsRevoked` when it may not run a job of ``kind`` now."""
        if self._authenticator is None:
            if asker.tenant != LOCAL.tenant:
                raise RightsRevoked(
                    f"the tenant '{asker.tenant}' does not exist while the gateway runs without accounts (--no-auth)"
                )
            return LOCAL
        try:
            principal = await self._authenticator.rights_of(asker)
            principal.require(WORK[kind])
            principal.require(Scope.TASKS)
        except (AuthenticationFailed, PermissionDenied) as exc:
            raise RightsRevoked(exc.message) from None
        return principal

    async def of_user(self, user: str, tenant: str | None, kind: str) -> Principal:
        """The rights of a user whom the configuration names, ``tenant`` being its own (``None``: whichever that is).
        Raises :class:`RightsRevoked`. Without accounts it is ``local``, whatever its name."""
        if self._authenticator is None:
            return await self.check(LOCAL.asker, kind)
        if tenant is None:
            try:
                tenant = await self._authenticator.tenant_of(user)
            except AuthenticationFailed as exc:
                raise RightsRevoked(exc.message) from None
        return await self.check(Asker(user, tenant), kind)

    def credential(self, asker: Asker, job: str) -> str | None:
        """The credential with which a job calls the gateway; ``None`` means that none is needed."""
        return None if self._tokens is None else self._tokens.make(asker, job, CREDENTIAL_SECONDS)
