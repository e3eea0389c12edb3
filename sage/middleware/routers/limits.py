"""``/limits``: whose rate limits hold, where they come from, and how far they are used."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator, Mapping
from typing import Literal

from fastapi import Request
from pydantic import BaseModel, Field

from sage.middleware.auth.accounts import Accounts
from sage.middleware.auth.principal import Principal, Scope
from sage.middleware.routers.http.deps import Caller, TheGateway
from sage.middleware.routers.http.guard import guarded_router, requires
from sage.middleware.routers.http.key_names import TheKeyNames
from sage.middleware.settings.limits import Limits, SubjectLimits
from sage.middleware.settings.settings import Settings

router = guarded_router("Usage")

_Source = Literal["own", "team", "role", "config"]
_Found = Iterator[tuple[str, Limits, _Source]]


class LimitsUsed(BaseModel):
    """Of the last minute its requests and tokens, and the requests that run now."""

    requests: int
    tokens: int
    running: int


class LimitsStanding(BaseModel):
    """The limits of a key, user, tenant or model: requests and tokens a minute, and requests at one time; null is no
    bound. `source` is `own`, `team` where its team gives them to each member, `role` for the role's in the
    configuration, `config` for a model's."""

    subject: str
    kind: str
    name: str
    rpm: int | None
    tpm: int | None
    concurrent: int | None
    source: _Source
    used: LimitsUsed
    key_name: str | None = Field(None, description="What a key is called; null if it has no name.")


class LimitsStandings(BaseModel):
    """Limits by subject."""

    limits: list[LimitsStanding]
    fault: str | None = Field(description="Why each process counts for itself, though they share a Redis.")


@router.get("/limits", name="limits_list")
@requires(Scope.USAGE)
async def list_limits(request: Request, gateway: TheGateway, caller: Caller, key_names: TheKeyNames) -> LimitsStandings:
    """The rate limits that the caller's own calls meet, with how far they are used; to owners those of their tenant, to
    admins all. Keys that are revoked have none."""
    accounts: Accounts | None = request.app.state.accounts
    settings: Settings = request.app.state.settings
    found: dict[str, tuple[Limits, _Source]] = {each.subject: (each.limits, "own") for each in caller.limits}
    if accounts is not None and Scope.TENANT_ADMIN in caller.scopes:
        roles = settings.auth.default_limits()
        rows = await asyncio.to_thread(lambda: list(_of_accounts(accounts, caller, roles)))
        found |= {subject: (limits, source) for subject, limits, source in rows}
    if accounts is None or Scope.ADMIN in caller.scopes:
        for model in gateway.registry.models():
            found |= {each.subject: (each.limits, "config") for each in model.limits}
    bounded = sorted((subject, *each) for subject, each in found.items() if each[0] != Limits())
    limiter = gateway.rates.limiter
    used = await limiter.standings([subject for subject, _, _ in bounded])
    names = await key_names.of(subject[4:] for subject, _, _ in bounded if subject.startswith("key:"))
    standings = [
        LimitsStanding(
            **_named(SubjectLimits(subject, limits)),
            source=source,
            key_name=names.get(subject[4:]) if subject.startswith("key:") else None,
            used=LimitsUsed(requests=use.requests, tokens=use.tokens, running=use.running),
        )
        for (subject, limits, source), use in zip(bounded, used, strict=True)
    ]
    return LimitsStandings(limits=standings, fault=limiter.fault)


def _of_accounts(accounts: Accounts, caller: Principal, roles: Mapping[str, Limits]) -> _Found:
    """What the keys, users and teams have that ``caller`` manages."""
    teams = {team.name: team for team in accounts.teams.list(caller) if not team.deleted}
    for team in teams.values():
        if team.limits is not None:
            yield f"tenant:{team.name}", team.limits, "own"
    for user in accounts.users.list(caller):
        team_of = teams.get(user.tenant)
        if user.limits is not None:
            yield f"user:{user.name}", user.limits, "own"
        elif team_of is not None and team_of.member_limits is not None:
            yield f"user:{user.name}", team_of.member_limits, "team"
        elif user.role in roles:
            yield f"user:{user.name}", roles[user.role], "role"
    for key in accounts.keys.list(by=caller):
        if key.limits is not None and key.revoked_at is None:
            yield f"key:{key.id}", key.limits, "own"


def _named(bounded: SubjectLimits) -> dict[str, object]:
    kind, _, name = bounded.subject.partition(":")
    return {"subject": bounded.subject, "kind": kind, "name": name, **bounded.limits.model_dump()}
