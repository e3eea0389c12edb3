"""One answered call: its answer, or its stream to the end, and what the end shows of the deployment."""

from __future__ import annotations

import asyncio
import contextlib
import math
import time
from typing import Protocol

from sage.errors import DeadlineExceeded, SageError, Unavailable, UpstreamFailed
from sage.middleware.dispatch.deployment import Deployment, DeploymentLease
from sage.middleware.providers.base import ModelCall, Provider, Relay, UpstreamResponse, Usage
from sage.middleware.providers.wire import lenient_json
from sage.middleware.providers.wire.errors import retry_after

_MAX_REFUSAL = 64 * 1024
_DRAIN_TIME = 0.2  # seconds that the end of a body may take after its last event
_REFUSAL_TIME = 1.0  # seconds that the text of a refusal may take, while another deployment could answer
_DEATH_TIME = 1.0  # seconds until the death of an engine is known, after its connection broke
_BROKEN = ("connect_failed", "upstream_broken")


class Owner(Protocol):
    """Made the call, and takes its lease back."""

    def end(self, lease: DeploymentLease, failure: SageError | None = None, *, is_complete: bool = False) -> None:
        """Takes ``lease`` back, with what was learnt: a failure, or a complete answer."""
        ...


class UpstreamCall:
    """One answered call: the deployment that answered, and its answer or the beginning of its stream.

    ``body`` is the complete answer, or the first complete events of a stream. Must be closed, also after an error.
    """

    __slots__ = (
        "_call",
        "_failure",
        "_lease",
        "_owner",
        "_response",
        "attempts",
        "body",
        "cooldown",
        "deployment",
        "relay",
        "usage",
    )

    def __init__(self, lease: DeploymentLease, response: UpstreamResponse, call: ModelCall, owner: Owner) -> None:
        self.deployment = lease.deployment
        self.attempts = 1
        self.body = b""
        self.usage: Usage | None = None
        self.relay: Relay | None = None
        self.cooldown: float | None = None
        """The seconds of ``Retry-After`` in the refusal of a server that is down."""
        self._lease = lease
        self._response = response
        self._call = call
        self._owner = owner
        self._failure: SageError | None = None

    async def begin(self) -> None:
        """Reads the complete answer, or a stream up to its first complete event; raises if it is an error."""
        call, provider, response = self._call, self.deployment.provider, self._response
        if response.status >= 300:
            error = await _refused(provider, response)
            if isinstance(error, Unavailable) and retry_after(response.headers) is not None:
                self.cooldown = error.retry_after
            raise error
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
                raise relay.error  # also after a first event: nothing of it has gone to the client yet
            if self.body and not _has_data(self.body):
                self.body = b""  # comments that keep a connection alive are no answer yet

    async def more(self) -> bytes:
        """Further complete events; empty at the end. Raises when the stream breaks or reports an error."""
        relay = self.relay
        assert relay is not None
        try:
            while not relay.finished:
                if relay.error is not None:
                    raise relay.error
                data = await self._response.chunk()
                events = relay.feed(data) if data else relay.close()
                if events or not data:
                    return events
        except SageError as exc:
            death = await engine_death(self._lease, exc, self._call.deadline)
            if death is not None:
                raise death from exc
            self._failure = exc
            raise
        return b""

    @property
    def timed_out(self) -> bool:
        return self._call.timed_out

    async def drain(self) -> None:
        """Reads the end of a finished stream, if it has come, so that the connection can serve again."""
        with contextlib.suppress(SageError, TimeoutError):  # the answer is complete; only a connection is lost
            async with asyncio.timeout(_DRAIN_TIME):
                while await self._response.chunk():
                    pass

    def close(self, exc: BaseException | None) -> None:
        """Gives everything back; raises :class:`DeadlineExceeded` when ``exc`` means that the call's time is over."""
        self._response.close()
        failure = self._failure
        if failure is not None and failure.code == "total_timeout":
            failure = None  # a long answer, or a client that reads slowly: not the deployment's fault
        self._owner.end(self._lease, failure, is_complete=self.relay is not None and self.relay.finished)
        if exc is not None and (timeout := timeout_error(self._call, self.deployment, exc)) is not None:
            raise timeout from exc


def timeout_error(call: ModelCall, deployment: Deployment, exc: BaseException | None) -> DeadlineExceeded | None:
    """The error that ``exc`` means if it is the cancellation of a call whose time is over, else ``None``."""
    if not call.timed_out or not isinstance(exc, asyncio.CancelledError):
        return None
    call.timed_out, call.deadline = False, math.inf
    task = asyncio.current_task()
    if task is not None:
        task.uncancel()
    return total_timeout(deployment)


def total_timeout(deployment: Deployment) -> DeadlineExceeded:
    """The error for a call whose time is over."""
    return DeadlineExceeded(
        f"'{deployment.name}' took longer than {deployment.timeouts.total:g} s in all", code="total_timeout"
    )


async def engine_death(lease: DeploymentLease, failure: BaseException, deadline: float) -> SageError | None:
    """Why the engine of ``lease`` ended, if that is the cause of ``failure``; waits until ``deadline`` at most."""
    if isinstance(failure, UpstreamFailed) and failure.code in _BROKEN:
        return await lease.engine_death(min(_DEATH_TIME, max(0.0, deadline - time.monotonic())))
    return None


def _has_data(events: bytes) -> bool:
    return events.startswith((b"data", b"event")) or b"\ndata" in events


async def _refused(provider: Provider, response: UpstreamResponse) -> SageError:
    body = b""
    with contextlib.suppress(SageError, TimeoutError):  # the status alone will do
        async with asyncio.timeout(_REFUSAL_TIME):
            while len(body) < _MAX_REFUSAL and (data := await response.chunk()):
                body += data
    try:
        parsed = lenient_json.read(body)
    except ValueError:
        parsed = body[:500].decode("utf-8", "replace").strip() if not body.lstrip().startswith(b"<") else None
    return provider.make_error(response.status, parsed, response.headers)
