"""The answer of an upstream: a whole one, or a stream to its end, which shows what the deployment is worth."""

from __future__ import annotations

import asyncio
import contextlib
import math
import time
from typing import Protocol

from sage.errors import DeadlineExceeded, SageError, UpstreamFailed
from sage.middleware.dispatch.deployment import Deployment, DeploymentLease
from sage.middleware.providers.base import ModelCall, Provider, Sink, UpstreamResponse, Usage, takes_nothing
from sage.middleware.providers.wire import lenient_json
from sage.middleware.providers.wire.repeated_events import HasShape
from sage.middleware.providers.wire.sse import EventRelay

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


class UpstreamAnswer:
    """A whole answer, and which deployment gave it. Nothing is held for it any more."""

    __slots__ = ("body", "deployment", "usage")

    def __init__(self, deployment: Deployment, body: bytes, usage: Usage | None) -> None:
        self.deployment = deployment
        self.body = body
        """The complete answer, or the first complete events of a stream."""
        self.usage = usage
        """Of a stream, once it is closed."""

    @property
    def finished(self) -> bool:
        """Whether nothing more comes of it."""
        return True

    @property
    def sender(self) -> HasShape | None:
        """Who sends events of a stream by their shape; ``None`` means that nobody does."""
        return None

    async def more(self, write: Sink = takes_nothing) -> bytes:
        """Further complete events; empty at the end. Raises when the stream breaks or reports an error.

        ``write`` is given events as they come, and returns whether it has taken them: those that it has not are what
        this returns, so that without one each read of the stream is returned by itself.
        """
        return b""

    @property
    def is_drained(self) -> bool:
        """Whether nothing is left for :meth:`drain`."""
        return True

    async def drain(self) -> None:
        """Reads the end of a finished stream, if it has come, so that the connection can serve again."""

    def close(self) -> None:
        """Gives back what it holds."""


class UpstreamStream(UpstreamAnswer):
    """A stream that has begun. It holds its deployment and its connection, and must be closed."""

    __slots__ = (
        "_call",
        "_failure",
        "_fault",
        "_is_drained",
        "_lease",
        "_owner",
        "_refused",
        "_relay",
        "_response",
        "_write",
        "last_events",
        "passed_bytes",
    )

    def __init__(self, lease: DeploymentLease, response: UpstreamResponse, call: ModelCall, owner: Owner) -> None:
        super().__init__(lease.deployment, b"", None)
        self._lease = lease
        self._response = response
        self._call = call
        self._owner = owner
        self._relay = self.deployment.provider.relay(call)
        self._failure: SageError | None = None
        self._write: Sink = takes_nothing
        self._refused = b""
        """Events that ``_write`` has not taken."""
        self._fault: Exception | None = None
        """What :meth:`_pass_on` has raised."""
        self.passed_bytes = 0
        """Of events that were passed on after the first ones."""
        self.last_events = b""
        """Those that were passed on last."""
        self._is_drained = False
        """Whether the upstream's stream was read to its clean end."""

    async def begin(self) -> None:
        """Reads up to its first complete event; raises if that is an error."""
        relay, body = self._relay, b""
        while not body:
            data = await self._response.chunk()
            if not data:
                body = relay.close()
                break
            body = relay.feed(data)
            if relay.error is not None:
                raise relay.error  # also after a first event: nothing of it has gone to the client yet
            if body and not _has_data(body):
                body = b""  # comments that keep a connection alive are no answer yet
        self.body = body

    @property
    def finished(self) -> bool:
        return self._relay.finished

    @property
    def sender(self) -> HasShape | None:
        return self._relay if isinstance(self._relay, EventRelay) else None

    async def more(self, write: Sink = takes_nothing) -> bytes:
        relay = self._relay
        self._write = write
        try:
            while not relay.finished:
                if relay.error is not None:
                    raise relay.error
                self._is_drained = await self._response.pour(self._pass_on)
                if self._fault is not None:
                    raise self._fault
                if self._refused:
                    events, self._refused = self._refused, b""
                    return events
                if self._is_drained and not relay.finished and relay.error is None:
                    return relay.close()
        except SageError as exc:
            death = await engine_death(self._lease, exc, self._call.deadline)
            if death is not None:
                raise death from exc
            self._failure = exc
            raise
        return b""

    def _pass_on(self, data: bytes) -> bool:
        """Passes on what has come of the stream; whether more of it can be."""
        relay = self._relay
        try:
            events = relay.feed(data)
            if events:
                self.passed_bytes += len(events)
                self.last_events = events
                if not self._write(events):
                    self._refused = events
                    return False
        except Exception as exc:  # it is raised where the stream is waited for
            self._fault = exc
            return False
        return not relay.finished and relay.error is None

    @property
    def is_drained(self) -> bool:
        return self._is_drained

    async def drain(self) -> None:
        if self._is_drained:
            return
        with contextlib.suppress(SageError, TimeoutError):  # the answer is complete; only a connection is lost
            async with asyncio.timeout(_DRAIN_TIME):
                while await self._response.chunk():
                    pass

    def close(self) -> None:
        self._response.close()
        self.usage = self._relay.usage
        failure = self._failure
        if failure is not None and failure.code == "total_timeout":
            failure = None  # a long answer, or a client that reads slowly: not the deployment's fault
        self._owner.end(self._lease, failure, is_complete=self._relay.finished)


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


async def refusal_of(provider: Provider, response: UpstreamResponse) -> SageError:
    """The error that an upstream answered with."""
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
