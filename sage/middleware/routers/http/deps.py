"""What the endpoints of framework routes are given: the caller, the gateway, and its collections."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import Annotated, Any

from fastapi import Depends, Request

from sage.middleware.audit.event import AuditEvent
from sage.middleware.audit.log import AuditLog
from sage.middleware.audit.origin import caller_address
from sage.middleware.auth.changes import actor_of
from sage.middleware.auth.principal import Principal
from sage.middleware.gateway.collections.collections import CollectionGateway
from sage.middleware.gateway.gateway import Gateway
from sage.middleware.gateway.jobs.opening import Queue
from sage.middleware.gateway.jobs.submission import Submission
from sage.middleware.routers.http.asgi import caller_of_request


async def _principal(request: Request) -> Principal:
    return caller_of_request(request.scope)


async def _gateway(request: Request) -> Gateway:
    gateway = request.app.state.gateway
    assert isinstance(gateway, Gateway)
    return gateway


Caller = Annotated[Principal, Depends(_principal)]
TheGateway = Annotated[Gateway, Depends(_gateway)]


async def collections(gateway: TheGateway) -> CollectionGateway:
    """The collections of the gateway."""
    return gateway.collections


TheCollections = Annotated[CollectionGateway, Depends(collections)]


async def _queue(request: Request) -> Queue:
    queue = request.app.state.queue
    assert isinstance(queue, Queue)
    return queue


TheQueue = Annotated[Queue, Depends(_queue)]


async def _submission(gateway: TheGateway, queue: TheQueue) -> Submission:
    return Submission(gateway, queue)


TheSubmission = Annotated[Submission, Depends(_submission)]


async def audit_log(request: Request) -> AuditLog:
    """The audit of the installation."""
    log = request.app.state.audit
    assert isinstance(log, AuditLog)
    return log


class AuditNotes:
    """Writes down what the caller of a request has done."""

    def __init__(self, log: AuditLog, principal: Principal) -> None:
        self._log = log
        self._principal = principal

    async def __call__(
        self, action: str, target: str, details: Mapping[str, Any] | None = None, *, tenant: str | None = None
    ) -> None:
        """To be called once it is done. ``tenant`` is the one whose owners may read it: without it the caller's, empty
        for admins alone."""
        by, actor = self._principal, actor_of(self._principal)
        tenant = by.tenant if tenant is None else tenant
        event = AuditEvent(action, target, actor.name, actor.credential, tenant, details or {}, caller_address.get())
        await asyncio.to_thread(self._log.append, event)


async def _audit_notes(log: Annotated[AuditLog, Depends(audit_log)], principal: Caller) -> AuditNotes:
    return AuditNotes(log, principal)


TheAudit = Annotated[AuditLog, Depends(audit_log)]
AuditNote = Annotated[AuditNotes, Depends(_audit_notes)]
