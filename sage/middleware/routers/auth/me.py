"""The caller's own account over HTTP: who it is, and a new password."""

from __future__ import annotations

from fastapi import Request
from pydantic import BaseModel, Field

from sage.errors import AuthenticationFailed, InvalidRequest
from sage.middleware.auth.addresses import network_of
from sage.middleware.auth.principal import Scope
from sage.middleware.auth.subjects import stored_limits
from sage.middleware.routers.auth.bodies import AccountsDep, LimitsAnswer, StrictBody
from sage.middleware.routers.http.deps import Caller
from sage.middleware.routers.http.guard import guarded_router, requires

router = guarded_router("Accounts")


class MeAnswer(BaseModel):
    """Who the caller is, and what its credential may do."""

    user: str
    role: str
    tenant: str
    scopes: list[str]
    models: list[str] = Field(description="Patterns of the models that the credential reaches.")
    team_models: list[str] = Field(description="Patterns that a model must match as well: those of the team.")
    tags: list[str]
    limits: dict[str, LimitsAnswer] = Field(
        description="By what they hold for: `key:<id>`, also of the keys that made it, `user:<name>`, `tenant:<name>`."
    )
    credential: str
    expires_at: int | None


class PasswordBody(StrictBody):
    """A new password of the caller."""

    current: str
    new: str
    revoke_keys: bool = Field(False, description="Whether the caller's API keys end too; without it they are kept.")


class PasswordAnswer(BaseModel):
    """What the new password has ended."""

    ended_sessions: int
    revoked_keys: int


@router.get("/auth/me", name="auth_me")
@requires(Scope.ACCOUNT)
async def auth_me(caller: Caller) -> MeAnswer:
    """Who the caller is, and what its credential may do."""
    return MeAnswer(
        user=caller.user,
        role=caller.role,
        tenant=caller.tenant,
        scopes=sorted(caller.scopes),
        models=list(caller.models),
        team_models=list(caller.tenant_models),
        tags=list(caller.tags),
        limits={limits.subject: stored_limits(limits.limits) for limits in caller.limits},
        credential=caller.credential,
        expires_at=None if caller.expires_at is None else int(caller.expires_at),
    )


@router.post("/auth/password", name="auth_password")
@requires(Scope.ACCOUNT)
async def auth_password(body: PasswordBody, accounts: AccountsDep, caller: Caller, request: Request) -> PasswordAnswer:
    """Gives the caller a new password. All its sessions end but the one that asks; API keys are kept, or revoked with
    `revoke_keys`. Wrong passwords are slowed down as at a login (429 with `Retry-After`)."""
    address = network_of(request.client.host) if request.client is not None else ""
    change, passwords = accounts.own_password.change, accounts.passwords
    try:
        with await accounts.throttle.attempt(caller.user, address):
            done = await passwords.run(change, caller, body.current, body.new, revoke_keys=body.revoke_keys)
    except AuthenticationFailed as exc:  # a 401 would say that the credential is wrong
        raise InvalidRequest(exc.message, param="current", code=exc.code) from exc
    except InvalidRequest as exc:
        raise InvalidRequest(exc.message, param="new", code=exc.code) from exc
    return PasswordAnswer(ended_sessions=done.ended_sessions, revoked_keys=done.revoked_keys)
