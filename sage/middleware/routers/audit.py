"""``/audit``: who changed what."""

from __future__ import annotations

import asyncio
import re
from typing import Annotated, Any

from fastapi import Query
from fastapi.responses import Response
from pydantic import BaseModel

from sage.errors import InvalidRequest, PermissionDenied
from sage.middleware.audit.log import AuditFilter
from sage.middleware.audit.verification import verify
from sage.middleware.auth.principal import Principal, Scope
from sage.middleware.routers.http.deps import Caller, TheAudit
from sage.middleware.routers.http.guard import guarded_router, requires
from sage.middleware.routers.http.key_names import TheKeyNames
from sage.middleware.routers.items import reply
from sage.middleware.usage.periods import read_period

router = guarded_router("Audit")

_KEY = re.compile(r"^(?:budget:)?key:([a-z0-9]+)$")
_CURSOR = re.compile(r"[0-9]{1,18}")


class AuditEntry(BaseModel):
    """One event. `time` is in Unix seconds; `actor` is `user:<name>`, `operator` (who is on the machine itself) or
    `anonymous`; `credential` is what it came with, and never secret. `tenant` is whose it is; null means that it is the
    installation's. `hash` is SHA-256 over the event and the `hash` of the one before."""

    seq: int
    time: float
    actor: str
    credential: str | None
    tenant: str | None
    action: str
    target: str
    details: dict[str, Any]
    address: str | None
    hash: str


class AuditEntries(BaseModel):
    """Events, the newest first; `cursor` gives the next page, and is null at the last. `key_names` has what the keys of
    these events are called, by id."""

    events: list[AuditEntry]
    cursor: str | None
    key_names: dict[str, str]


class AuditVerified(BaseModel):
    """Whether the chain of events is whole. `events` stand before the first `fault`; `hash` is the last one's."""

    ok: bool
    events: int
    hash: str
    fault: str | None


@router.get("/audit", name="audit", response_model=AuditEntries)
@requires(Scope.TENANT_ADMIN)
async def audit(
    *,
    log: TheAudit,
    caller: Caller,
    key_names: TheKeyNames,
    actor: Annotated[str | None, Query(description="`ann` or `user:ann`, `operator`, `anonymous`.")] = None,
    action: Annotated[str | None, Query(description="Such as `key.create`, or a noun alone: `key`.")] = None,
    target: Annotated[str | None, Query(description="Such as `key:ab12`, `user:ann`, `model:gpt-4o`.")] = None,
    tenant: Annotated[str | None, Query(description="For admins.")] = None,
    begin: Annotated[str | None, Query(alias="from", description="A date, a time (ISO 8601), or Unix seconds.")] = None,
    end: Annotated[str | None, Query(alias="to", description="As `from`; a date belongs to the period.")] = None,
    tz: Annotated[str | None, Query(description="Whose dates: a name (Asia/Kolkata) or an offset; UTC.")] = None,
    cursor: Annotated[str | None, Query(description="The `cursor` of the page before.")] = None,
    limit: Annotated[int, Query(ge=1, le=1000)] = 50,
) -> Response:
    """Who changed what: for admins everything, for owners of a tenant what is their tenant's. Nobody can change or
    delete an event; `sage audit verify` tells whether somebody has got round that."""
    period = read_period(begin or "0", end, tz)
    wanted = AuditFilter(
        *(_reach(caller, tenant), actor, action, target), period.begin if begin else None, period.end if end else None
    )
    events, following = await asyncio.to_thread(log.page, wanted, _before(cursor), limit)
    names = await key_names.of(
        found
        for event in events
        for each in (event["credential"], event["target"])
        for found in _KEY.findall(each or "")
    )
    following_page = None if following is None else str(following)
    return reply({"events": events, "cursor": following_page, "key_names": names})


@router.get("/audit/verify", name="audit_verify")
@requires(Scope.ADMIN)
async def audit_verify(log: TheAudit) -> AuditVerified:
    """Walks the chain of all events: nothing was changed, taken out, put in or cut off. Who can write the database can
    also write a whole new chain: only a hash that was kept elsewhere shows that (`sage audit verify --anchors`)."""
    verdict = await asyncio.to_thread(lambda: verify(log.open()))
    return AuditVerified(ok=verdict.fault is None, events=verdict.events, hash=verdict.hash, fault=verdict.fault)


def _reach(caller: Principal, tenant: str | None) -> str | None:
    """The tenant whose events the caller sees; ``None`` means all."""
    if Scope.ADMIN in caller.scopes:
        return tenant
    if tenant not in (None, caller.tenant):
        raise PermissionDenied("only admins see the audit of other tenants", param="tenant", code="missing_scope")
    return caller.tenant


def _before(cursor: str | None) -> int | None:
    if cursor is None:
        return None
    if _CURSOR.fullmatch(cursor) is None:
        raise InvalidRequest("'cursor' is not one that this route has given", param="cursor")
    return int(cursor)
