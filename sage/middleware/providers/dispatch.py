"""Chooses a deployment, makes the call, and tries another one while no byte has gone to the client yet."""

from __future__ import annotations

import asyncio
import contextlib
import math
import random
import time
from collections.abc import Iterator

import orjson

from sage.errors import DeadlineExceeded, NotFound, RateLimited, SageError, Unavailable, UpstreamFailed
from sage.middleware.providers.base import Call, Provider, Relay, Usage
from sage.middleware.providers.deployments import Deployment, Lease, PublicModel
from sage.middleware.providers.registry import Registry
from sage.middleware.providers.transport import Transport, UpstreamResponse

# What another deployment may do better; anything else is the caller's to mend.
_ANOTHER = (UpstreamFailed, DeadlineExceeded, RateLimited, Unavailable, NotFound)
_MAX_REFUSAL = 64 * 1024
_DRAIN = 0.2  # seconds that the end of a body may stay out after its last event
# The transport keeps the limit of the whole time more gently, where it waits for an upstream's bytes. Later than that a
# call is cancelled whatever it waits for: a head that trickles, or a client that does not read.
_LATER = 1.0


class Exchange:
    """One answered call: the deployment that answered, and its answer or the beginning of its stream.

    ``body`` is the whole answer, or the first whole events of a stream. Must be closed, also after an error.
    """

    __slots__ = ("_call", "_lease", "_response", "attempts", "body", "deployment", "relay", "usage")

    def __init__(self, deployment: Deployment, lease: Lease, response: UpstreamResponse, call: Call) -> None:
        self.deployment = deployment
        self.attempts = 1
        self.body = b""
        self.usage: Usage | None = None
        self.relay: Relay | None = None
        self._lease = lease
        self._response = response
        self._call = call

    async def begin(self) -> None:
        """Reads the whole answer, or a stream up to its first whole event; raises if it is an error."""
        call, provider, response = self._call, self.deployment.provider, self._response
        if response.status >= 300:
            raise await _refused(provider, response)
        if not call.stream:
            self.body, self.usage = provider.decode(call, await response.read())
            return
        relay = self.relay = provider.relay(call)
        while not self.body:
            data = await response.chunk()
            if not data:
                self.body = relay.close()
                break
            self.body = relay.feed(data)
            if relay.error is not None:
                raise relay.error  # also after a first piece: nothing of it has gone to the client yet
            if self.body and not _has_data(self.body):
                self.body = b""  # comments that keep a connection alive are no answer yet

    async def more(self) -> bytes:
        """Further whole events; empty at the whole end. Raises when the stream breaks or reports an error."""
        relay = self.relay
        assert relay is not None
        if relay.error is not None:
            raise relay.error
        if relay.finished:
            return b""
        while True:
            data = await self._response.chunk()
            if not data:
                return relay.close()
            events = relay.feed(data)
            if events:
                return events
            if relay.error is not None:
                raise relay.error

    @property
    def overdue(self) -> bool:
        return self._call.overdue

    async def drain(self) -> None:
        """Takes the end of a finished stream off the wire, if it is there, so that its connection can serve again."""
        with contextlib.suppress(SageError, TimeoutError):  # the answer is whole; only a connection is lost
            async with asyncio.timeout(_DRAIN):
                while await self._response.chunk():
                    pass

    async def close(self, exc: BaseException | None) -> None:
        """Lets everything go; raises :class:`DeadlineExceeded` when ``exc`` is the end of the call's whole time."""
        self._response.close()
        await self._lease.__aexit__(None, None, None)
        _check_overdue(self._call, self.deployment, exc)


class Dispatch:
    """The way of a call to an answer, over the deployments of a model and of its fallbacks."""

    def __init__(self, registry: Registry, transport: Transport) -> None:
        self._registry = registry
        self._transport = transport

    async def open(self, call: Call, models: list[PublicModel]) -> Exchange:
        """The first good answer of ``models``, in the order in which they are to answer; the caller closes it.

        Raises what the last attempt raised: never more than three, and never the same deployment twice.
        """
        made = 0
        failure: SageError | None = None
        for deployment in _order(models):
            made += 1
            try:
                exchange = await self._attempt(call, deployment)
            except _ANOTHER as exc:
                failure = exc
                if made > deployment.retries:
                    break
                continue
            exchange.attempts = made
            return exchange
        if failure is None:
            faults = "; ".join(fault for model in models for fault in model.faults)
            raise Unavailable(f"model '{call.model}' cannot serve: {faults}", param="model", code="model_unavailable")
        raise failure

    async def _attempt(self, call: Call, deployment: Deployment) -> Exchange:
        call.ends = math.inf  # an engine that loads has a limit of its own
        lease = self._registry.lease(deployment)
        endpoint = await lease.__aenter__()
        call.ends = time.monotonic() + deployment.timeouts.total + _LATER
        response: UpstreamResponse | None = None
        try:
            request = deployment.provider.encode(call, deployment.target, endpoint)
            request.timeouts, request.socket = deployment.timeouts, endpoint.socket
            response = await self._transport.send(request)
            exchange = Exchange(deployment, lease, response, call)
            await exchange.begin()
        except BaseException as exc:
            if response is not None:
                response.close()
            await lease.__aexit__(None, None, None)
            _check_overdue(call, deployment, exc)
            raise
        return exchange


def _check_overdue(call: Call, deployment: Deployment, exc: BaseException | None) -> None:
    """Raises :class:`DeadlineExceeded` when ``exc`` is the cancellation of a call that has had its whole time."""
    if call.overdue and isinstance(exc, asyncio.CancelledError):
        call.overdue, call.ends = False, math.inf
        task = asyncio.current_task()
        if task is not None:
            task.uncancel()
        raise DeadlineExceeded(
            f"'{deployment.name}' took longer than {deployment.timeouts.total:g} s in all", code="total_timeout"
        ) from exc


def _order(models: list[PublicModel]) -> Iterator[Deployment]:
    """Each model's deployments, lowest priority number first, equals drawn by weight; no deployment twice."""
    seen: set[str] = set()
    for model in models:
        deployments = model.deployments
        if len(deployments) > 1:
            # Weighted order without replacement: Efraimidis and Spirakis, 2006.
            deployments = sorted(deployments, key=lambda d: (d.priority, -(random.random() ** (1 / d.weight))))  # noqa: S311
        for deployment in deployments:
            if deployment.name not in seen:
                seen.add(deployment.name)
                yield deployment


def _has_data(events: bytes) -> bool:
    return events.startswith((b"data", b"event")) or b"\ndata" in events


async def _refused(provider: Provider, response: UpstreamResponse) -> SageError:
    body = b""
    try:
        while len(body) < _MAX_REFUSAL and (data := await response.chunk()):
            body += data
    except SageError:
        pass  # the status says enough
    try:
        parsed = orjson.loads(body)
    except orjson.JSONDecodeError:
        parsed = body[:500].decode("utf-8", "replace").strip() if not body.lstrip().startswith(b"<") else None
    return provider.refuse(response.status, parsed, response.headers)
