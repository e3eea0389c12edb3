"""Chooses a deployment, makes the call, and tries another one while no byte has gone to the client yet."""

from __future__ import annotations

import random
from collections.abc import Iterator
from types import TracebackType

import orjson

from sage.errors import DeadlineExceeded, NotFound, RateLimited, SageError, Unavailable, UpstreamFailed
from sage.middleware.providers.base import Call, Relay, Usage
from sage.middleware.providers.refusals import refusal
from sage.middleware.providers.registry import Deployment, Lease, PublicModel, Registry
from sage.middleware.providers.transport import Transport, UpstreamResponse

# What another deployment may do better; anything else is the caller's to mend.
_ANOTHER = (UpstreamFailed, DeadlineExceeded, RateLimited, Unavailable, NotFound)
_MAX_REFUSAL = 64 * 1024


class Exchange:
    """One answered call: the deployment that answered, and its answer or the beginning of its stream.

    ``body`` is the whole answer, or the first whole events of a stream. Must be closed, also after an error.
    """

    __slots__ = ("_lease", "_response", "attempts", "body", "deployment", "relay", "usage")

    def __init__(self, deployment: Deployment, lease: Lease, response: UpstreamResponse) -> None:
        self.deployment = deployment
        self.attempts = 1
        self.body = b""
        self.usage: Usage | None = None
        self.relay: Relay | None = None
        self._lease = lease
        self._response = response

    async def begin(self, call: Call) -> None:
        """Reads the whole answer, or a stream up to its first whole event; raises if it is an error."""
        provider, response = self.deployment.provider, self._response
        if response.status >= 300:
            raise await _refused(provider.name, response)
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

    async def drain(self) -> None:
        """Takes the end of a finished stream off the wire, so that its connection can serve again."""
        try:
            while await self._response.chunk():
                pass
        except SageError:
            pass  # the answer is whole; only the connection is lost

    async def close(self) -> None:
        self._response.close()
        await self._lease.__aexit__(None, None, None)


class Dispatch:
    """The way of a call to an answer, over the deployments of a model and of its fallbacks."""

    def __init__(self, registry: Registry, transport: Transport) -> None:
        self._registry = registry
        self._transport = transport

    def open(self, call: Call, models: list[PublicModel]) -> Opening:
        """``async with dispatch.open(call, models) as exchange``; ``models`` in the order in which they are to answer.

        Raises what the last attempt raised: never more than three, and never the same deployment twice.
        """
        return Opening(self, call, models)

    async def attempts(self, call: Call, models: list[PublicModel]) -> Exchange:
        made, most = 0, 1
        failure: SageError | None = None
        for deployment in _order(models):
            most = max(most, 1 + deployment.retries)
            if made >= most:
                break
            made += 1
            try:
                exchange = await self._attempt(call, deployment)
            except _ANOTHER as exc:
                failure = exc
                continue
            exchange.attempts = made
            return exchange
        if failure is None:
            faults = "; ".join(fault for model in models for fault in model.faults)
            raise Unavailable(f"model '{call.model}' cannot serve: {faults}", param="model", code="model_unavailable")
        raise failure

    async def _attempt(self, call: Call, deployment: Deployment) -> Exchange:
        lease = self._registry.lease(deployment)
        endpoint = await lease.__aenter__()
        try:
            request = deployment.provider.encode(call, deployment.model, endpoint)
            request.timeouts = deployment.timeouts
            response = await self._transport.send(request)
            try:
                exchange = Exchange(deployment, lease, response)
                await exchange.begin(call)
            except BaseException:
                response.close()
                raise
        except BaseException:
            await lease.__aexit__(None, None, None)
            raise
        return exchange


class Opening:
    """The context of one call; a class, since a generator's costs several µs on every request."""

    __slots__ = ("_call", "_dispatch", "_exchange", "_models")

    def __init__(self, dispatch: Dispatch, call: Call, models: list[PublicModel]) -> None:
        self._dispatch = dispatch
        self._call = call
        self._models = models

    async def __aenter__(self) -> Exchange:
        self._exchange = await self._dispatch.attempts(self._call, self._models)
        return self._exchange

    async def __aexit__(
        self, kind: type[BaseException] | None, exc: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._exchange.close()


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


async def _refused(provider: str, response: UpstreamResponse) -> SageError:
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
    return refusal(provider, response.status, parsed, response.headers)
