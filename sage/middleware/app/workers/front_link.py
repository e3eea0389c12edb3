"""The owner's end of the connection to one front."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable

from sage.errors import SageError
from sage.middleware.app.workers.frames import FrameProtocol, PeerGone, frame
from sage.middleware.app.workers.live_use import FrontUse
from sage.middleware.app.workers.messages import (
    AnsweredConversations,
    AskCounts,
    CredentialUses,
    CredentialVerdict,
    DeploymentHealth,
    FrontCounts,
    FrontReady,
    LastWord,
    LiveUse,
    Message,
    SettledCalls,
    SharedState,
    StateTaken,
    VerifyCredential,
    decode,
    encode,
)
from sage.middleware.app.workers.shared_metrics import Counts
from sage.middleware.auth.credential_cache import CredentialCache, Verified
from sage.middleware.gateway.metrics import RetrievalMetrics


class FrontLink(FrameProtocol):
    """Belongs to the owner's event loop."""

    def __init__(
        self,
        authenticator: CredentialCache | None,
        use: FrontUse,
        ready: Callable[[], None],
        heard: Callable[[DeploymentHealth | AnsweredConversations], None],
        settled: Callable[[SettledCalls], None],
    ) -> None:
        """``ready`` is called once the front serves, ``heard`` with what concerns other fronts too, ``settled`` with
        calls that have ended."""
        super().__init__()
        self.counts: Counts = {}
        """The newest metrics of the front, by model."""
        self.retrieval = RetrievalMetrics()
        """Those of its searches."""
        self.use = use
        self._authenticator = authenticator
        self._ready = ready
        self._heard = heard
        self._settled = settled
        self.unanswered = 0
        """States that the front was told since it has last said that it goes by one."""
        self._taken = 0
        """The number of the newest state that the front goes by; 0 while it starts."""
        self._awaited: dict[int, asyncio.Future[None]] = {}
        """States that somebody waits for, by their numbers."""
        self._counted: dict[int, asyncio.Future[None]] = {}
        """Questions for its counts."""
        self._verifying: set[asyncio.Task[None]] = set()
        self._is_over = False

    def connection_lost(self, exc: Exception | None) -> None:
        super().connection_lost(exc)
        self.use.end()
        for answer in (*self._awaited.values(), *self._counted.values()):
            _settle(answer)  # it knows nothing any more that could be wrong

    def tell(self, message: Message) -> None:
        """Nothing happens where the front has ended, or is about to: a write that fails would close the connection
        before it is read to its end."""
        if self._is_over:
            return
        if isinstance(message, SharedState) and self._taken:
            self.unanswered += 1
        with contextlib.suppress(PeerGone):
            self.write(frame(0, encode(message)))

    def taken(self, number: int) -> asyncio.Future[None] | None:
        """Done once the front goes by the state of that number, or has ended; ``None`` means that it does already, or
        that it does not serve yet."""
        if self.transport is None or not self._taken or self._taken >= number:
            return None
        if number not in self._awaited:
            self._awaited[number] = asyncio.get_running_loop().create_future()
        return self._awaited[number]

    def ask_counts(self, number: int) -> asyncio.Future[None] | None:
        """Done once :attr:`counts` are those of now, or the front has ended; ``None`` means that it does not serve."""
        if self.transport is None or not self._taken:
            return None
        answer = self._counted[number] = asyncio.get_running_loop().create_future()
        self.tell(AskCounts(number))
        return answer

    def frame_received(self, kind: int, payload: bytes) -> None:
        message = decode(payload)
        if isinstance(message, StateTaken):
            self._taken, self.unanswered = message.number, 0
            for number in [each for each in self._awaited if each <= message.number]:
                _settle(self._awaited.pop(number))
        elif isinstance(message, VerifyCredential):
            task = asyncio.get_running_loop().create_task(self._verify(message))
            self._verifying.add(task)
            task.add_done_callback(self._verifying.discard)
        elif isinstance(message, LiveUse):
            self.use.heard(message)
        elif isinstance(message, SettledCalls):
            self._settled(message)
        elif isinstance(message, FrontCounts):
            self.counts, self.retrieval = message.models, message.retrieval
            if message.number in self._counted:
                _settle(self._counted.pop(message.number))
        elif isinstance(message, DeploymentHealth | AnsweredConversations):
            self._heard(message)
        elif isinstance(message, CredentialUses):
            if self._authenticator is not None:
                self._authenticator.note_uses(message.times)
        elif isinstance(message, FrontReady):
            self._ready()
        elif isinstance(message, LastWord):
            self.tell(message)
            self._is_over = True

    async def _verify(self, message: VerifyCredential) -> None:
        assert self._authenticator is not None
        outcome: Verified | SageError
        value = message.authorization
        try:
            if value is not None and message.again is not None:
                outcome = await self._authenticator.verify_again(value, message.again)
            elif value is not None and (known := self._authenticator.cached(value)) is not None:
                outcome = Verified(known, self._authenticator.revision)
            else:
                outcome = await self._authenticator.verify(value)
        except SageError as error:
            outcome = error.with_traceback(None)
        self.tell(CredentialVerdict(message.number, outcome))


def _settle(answer: asyncio.Future[None]) -> None:
    if not answer.done():
        answer.set_result(None)
