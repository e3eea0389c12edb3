"""A front's end of the connection to its owner: it asks for verdicts on credentials, and does what it is told."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import os
import socket
import struct
from collections.abc import Callable

from sage.errors import SageError, Unavailable
from sage.middleware.app.workers.elsewhere import FrontRegistry
from sage.middleware.app.workers.frames import FrameProtocol, PeerGone, frame
from sage.middleware.app.workers.front_usage import FrontRecords
from sage.middleware.app.workers.live_use import UseReport
from sage.middleware.app.workers.messages import (
    AnsweredConversations,
    AskCounts,
    Begin,
    CredentialUses,
    CredentialVerdict,
    DeploymentHealth,
    FrontCounts,
    LastWord,
    Message,
    SharedState,
    StateTaken,
    VerifyCredential,
    decode,
    encode,
)
from sage.middleware.app.workers.remote_authenticator import RemoteAuthenticator
from sage.middleware.auth.credential_cache import Verified
from sage.middleware.auth.principal import Principal
from sage.middleware.dispatch.prefix_affinity import Prefixes
from sage.middleware.gateway.metrics import Metrics

_VERDICT_WITHIN = 10.0
_REPORT_EVERY = 0.1
_COUNTS_EVERY = 10
"""Reports between two of the counts that the owner keeps in case that this process is killed."""


def read_begin(control: socket.socket) -> Begin:
    """The first message, read before there is an event loop. Raises :class:`EOFError` when the owner has ended."""
    length, _ = struct.unpack("<IB", _exactly(control, 5))
    begin = decode(_exactly(control, length))
    assert isinstance(begin, Begin)
    return begin


def _exactly(sock: socket.socket, size: int) -> bytes:
    data = b""
    while len(data) < size:
        part = sock.recv(size - len(data))
        if not part:
            raise EOFError
        data += part
    return data


class OwnerLink(FrameProtocol):
    """Belongs to the event loop of a front. When the owner has ended, so does this process."""

    def __init__(self) -> None:
        super().__init__()
        self.authenticator: RemoteAuthenticator | None = None
        self.registry: FrontRegistry | None = None
        self.metrics: Metrics | None = None
        self.on_health: Callable[[DeploymentHealth], None] | None = None
        self.prefixes: Prefixes | None = None
        self.records: FrontRecords | None = None
        self.is_ending = False
        """Whether this process is about to end, so that it need not when the owner does."""
        self.told = asyncio.Event()
        """Set once the owner has told its state."""
        self._models = 0
        self._numbers = itertools.count(1)
        self._verdicts: dict[int, asyncio.Future[Verified]] = {}

    def connection_lost(self, exc: Exception | None) -> None:
        super().connection_lost(exc)
        if not self.is_ending:
            os._exit(1)  # where the kernel has not done it already

    def tell(self, message: Message) -> None:
        """Raises :class:`PeerGone`."""
        self.write(frame(0, encode(message)))

    async def verify(self, authorization: bytes | None, again: Principal | None = None) -> Verified:
        """The owner's verdict; raises :class:`sage.errors.AuthenticationFailed`."""
        number = next(self._numbers)
        verdict = self._verdicts[number] = asyncio.get_running_loop().create_future()
        try:
            self.tell(VerifyCredential(number, authorization, again))
            return await asyncio.wait_for(verdict, _VERDICT_WITHIN)
        except (PeerGone, TimeoutError):
            raise Unavailable("the credential cannot be verified now; try again soon", retry_after=1.0) from None
        finally:
            del self._verdicts[number]

    def frame_received(self, kind: int, payload: bytes) -> None:
        message = decode(payload)
        if isinstance(message, SharedState):
            self._take(message)
        elif isinstance(message, CredentialVerdict):
            self._settle(message)
        elif isinstance(message, AskCounts):
            self.tell_counts(message.number)
        elif isinstance(message, AnsweredConversations) and self.prefixes is not None:
            self.prefixes.heard(message.deployments)
        elif isinstance(message, DeploymentHealth) and self.on_health is not None:
            self.on_health(message)
        elif isinstance(message, LastWord):
            self.close()

    def _take(self, state: SharedState) -> None:
        if self.authenticator is not None and state.revision is not None:
            self.authenticator.heard(state.revision, state.revision_read_at)
        if self.registry is not None:
            self.registry.sleeping(state.asleep)
            self.registry.budgeted = state.budgeted or None
            self.registry.captured = frozenset(state.captured)
            if state.models != self._models:
                self.registry.mirror()
        self._models = state.models
        self.tell(StateTaken(state.number))
        self.told.set()

    def _settle(self, message: CredentialVerdict) -> None:
        verdict = self._verdicts.get(message.number)
        if verdict is None or verdict.done():
            return
        if isinstance(message.outcome, SageError):
            verdict.set_exception(message.outcome)
        else:
            verdict.set_result(message.outcome)

    def tell_counts(self, number: int = 0) -> None:
        """What was counted here so far, in answer to the question of that number, or without one."""
        assert self.metrics is not None
        self.tell_settled()
        self.tell(FrontCounts(number, self.metrics.by_model, self.metrics.retrieval))

    def _tell_uses(self) -> None:
        uses = self.authenticator.take_uses() if self.authenticator is not None else None
        if uses:
            self.tell(CredentialUses(uses))

    def tell_settled(self) -> None:
        """The calls that have ended here since it was last asked."""
        while self.records is not None and (calls := self.records.take()) is not None:
            self.tell(calls)

    async def end(self) -> None:
        """Tells what is left to tell, and returns once the owner has it all, or has ended."""
        self.is_ending = True
        with contextlib.suppress(PeerGone):
            self._tell_uses()
            self.tell_counts()
            self.tell(LastWord())
        await self.closed()

    async def report(self) -> None:
        """Tells how busy this front is whenever that has changed, until it is cancelled."""
        assert self.registry is not None
        assert self.metrics is not None
        use, rounds, changed, searches = UseReport(self.registry), 0, False, 0
        while self.transport is not None:
            await asyncio.sleep(_REPORT_EVERY)
            changes = use.changes()
            if changes is not None:
                self.tell(changes)
                changed = True
                if self.prefixes is not None and (news := self.prefixes.news()):
                    self.tell(AnsweredConversations(news))
            self.tell_settled()
            rounds += 1
            if (searched := self.metrics.retrieval.searches.total()) != searches:
                changed, searches = True, searched
            if rounds % _COUNTS_EVERY == 0:
                self._tell_uses()
            if changed and rounds % _COUNTS_EVERY == 0:
                self.tell_counts()
                changed = False
