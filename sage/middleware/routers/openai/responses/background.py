"""Responses in the background: accepted as jobs, made while a worker waits, and followed event by event."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping, Sequence
from typing import Any

import orjson

from sage.errors import Conflict, PermissionDenied, SageError, Unavailable
from sage.middleware.auth.principal import Principal, Scope
from sage.middleware.gateway.gateway import Gateway
from sage.middleware.gateway.responses.kept import KeptResponses
from sage.middleware.responses.kept import RUNNING, KeptResponse, NewResponse
from sage.middleware.routers.http.respond import Events
from sage.middleware.routers.openai.responses.events import ChatStreamEvents, Keep
from sage.middleware.routers.openai.responses.kept_items import kept_items
from sage.middleware.routers.openai.responses.native import NativeEvents
from sage.middleware.routers.openai.responses.request import ResponsesRequest

_LOOKS_EVERY = 0.3
_WRITES_EVERY = 0.4
_MOST_AT_ONCE = 500
_ENDS = (b"event: response.completed", b"event: response.incomplete", b"event: response.failed")


async def accept(
    gateway: Gateway,
    principal: Principal,
    request: ResponsesRequest,
    response: dict[str, Any],
    fallbacks: Sequence[str],
) -> None:
    """Keeps ``response`` as queued, and has a job make it. Raises :class:`PermissionDenied` for a caller who may have
    no jobs done; nothing is kept then."""
    responses, jobs = gateway.responses, gateway.responses.background
    if jobs is None:
        raise Unavailable("this gateway has no queue for responses in the background")
    if Scope.TASKS not in principal.scopes:
        raise PermissionDenied("a response in the background is a job, and needs the scope 'tasks'", param="background")
    response["status"] = "queued"
    name, tenant = response["id"], principal.tenant
    new = NewResponse(tenant, principal.user, response, kept_items(request.input, name))
    await responses.run(lambda store: store.add(new), tenant)
    try:
        job = await jobs.submit(principal, {**request.body, "id": name, "models": list(fallbacks) or None})
    except BaseException:
        await responses.run(lambda store: store.delete(tenant, name), tenant)
        raise
    await responses.run(lambda store: store.set_job(name, job), tenant)


async def current(responses: KeptResponses, tenant: str, name: str) -> KeptResponse:
    """A response as it is now: one whose job has failed, or was cancelled, says so. Raises
    :class:`sage.errors.NotFound`."""
    kept = await responses.run(lambda store: store.get(tenant, name), tenant)
    if kept.status not in RUNNING or kept.job is None or responses.background is None:
        return kept
    failure = await responses.background.failure(tenant, kept.job)
    if failure is None:
        return kept
    status, message = failure
    body = {**kept.body, "status": status}
    if status == "failed":
        body["error"] = {"code": "server_error", "message": message}
    await responses.run(lambda store: store.change(name, body), tenant)
    return await responses.run(lambda store: store.get(tenant, name), tenant)


async def cancel(responses: KeptResponses, tenant: str, name: str) -> KeptResponse:
    """Cancels a response, unless it has ended. Raises :class:`Conflict` for one that is not in the background."""
    kept = await current(responses, tenant, name)
    if not kept.body.get("background"):
        raise Conflict(f"'{name}' is no response in the background; there is nothing to cancel")
    if kept.status in RUNNING:
        body = {**kept.body, "status": "cancelled"}
        await responses.run(lambda store: store.change(name, body), tenant)
        if kept.job is not None and responses.background is not None:
            await responses.background.cancel(tenant, kept.job)
        kept = await responses.run(lambda store: store.get(tenant, name), tenant)
    return kept


async def follow(responses: KeptResponses, tenant: str, name: str, after: int) -> AsyncIterator[bytes]:
    """The events with a higher number than ``after``, as they come, until the response has ended."""
    while True:
        kept = await current(responses, tenant, name)
        found = await _events_after(responses, tenant, name, after)
        for number, event in found:
            after = number
            yield event
        if found and found[-1][1].startswith(_ENDS):
            return
        if not found and kept.status not in RUNNING:
            return
        if len(found) < _MOST_AT_ONCE:
            await asyncio.sleep(_LOOKS_EVERY)


async def _events_after(responses: KeptResponses, tenant: str, name: str, number: int) -> list[tuple[int, bytes]]:
    return await responses.run(lambda store: store.events_after(name, number, _MOST_AT_ONCE), tenant)


class BackgroundRun:
    """One run of a job: its events are kept, as well as what becomes of the response."""

    def __init__(self, responses: KeptResponses, tenant: str, response: dict[str, Any]) -> None:
        self._responses = responses
        self._tenant = tenant
        self._response = response
        self._name = response["id"]
        self._pending: list[tuple[int, bytes]] = []
        self._writing: asyncio.Task[None] | None = None

    @classmethod
    async def begin(
        cls, gateway: Gateway, principal: Principal, response: dict[str, Any], body: Mapping[str, Any]
    ) -> BackgroundRun:
        """Raises :class:`Conflict` for a response that does not wait any more."""
        responses, tenant, name = gateway.responses, principal.tenant, body.get("id")
        if not isinstance(name, str):
            raise PermissionDenied("a running job cannot submit jobs", code="no_jobs_in_jobs")
        kept = await responses.run(lambda store: store.get(tenant, name), tenant)
        if kept.status not in RUNNING or kept.user != principal.user:
            raise Conflict(f"the response '{name}' is {kept.status}")
        response.update({**kept.body, "status": "in_progress"})
        if not await responses.run(lambda store: store.change(name, response), tenant):
            raise Conflict(f"the response '{name}' has ended")
        await responses.run(lambda store: store.clear_events(name), tenant)
        return cls(responses, tenant, response)

    @property
    def keep(self) -> Keep:
        """Keeps the response at its end."""
        return self._keep

    async def _keep(self, response: dict[str, Any]) -> None:
        await self._responses.run(lambda store: store.change(self._name, response), self._tenant)

    def recorded(self, events: ChatStreamEvents | NativeEvents) -> Events:
        """``events``, which are kept too."""

        def translate(sent: bytes) -> bytes:
            made = events.translate(sent)
            self._note(made)
            return made

        async def end() -> bytes:
            last = events.end()
            made = last if isinstance(last, bytes) else await last
            self._note(made)
            await self._write()
            return made

        def error_event(error: SageError) -> bytes:
            made = events.error_event(error)
            self._note(made)
            self._writing = asyncio.get_running_loop().create_task(self._fail())
            return made

        return Events(translate, end, error_event)

    def _note(self, events: bytes) -> None:
        for event in events.split(b"\n\n"):
            if event.startswith(b"event:"):
                number = orjson.loads(event.partition(b"\ndata: ")[2])["sequence_number"]
                self._pending.append((number, event + b"\n\n"))
        if self._pending and (self._writing is None or self._writing.done()):
            self._writing = asyncio.get_running_loop().create_task(self._write_soon())

    async def _write_soon(self) -> None:
        await asyncio.sleep(_WRITES_EVERY)
        await self._write()

    async def _write(self) -> None:
        pending, self._pending = self._pending, []
        if pending:
            await self._responses.run(lambda store: store.add_events(self._name, pending), self._tenant)

    async def _fail(self) -> None:
        await self._keep(self._response)
        await self._write()
