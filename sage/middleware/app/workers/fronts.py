"""The fronts of a gateway, in the process that owns everything else: how they start, what they share, how they end."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import secrets
import signal
import socket
import time
from collections.abc import Callable, Iterable, Iterator, Sequence

import uvicorn

from sage.middleware.app.workers.announcements import Announcements
from sage.middleware.app.workers.forwarded_requests import ForwardedConnection
from sage.middleware.app.workers.front_link import FrontLink
from sage.middleware.app.workers.front_process import FrontProcess
from sage.middleware.app.workers.front_usage import take_over
from sage.middleware.app.workers.live_use import FrontUse
from sage.middleware.app.workers.messages import AnsweredConversations, Begin, DeploymentHealth, SettledCalls
from sage.middleware.app.workers.settled_application import SettledApplication
from sage.middleware.app.workers.shared_health import HealthReports
from sage.middleware.app.workers.shared_metrics import Counts, FamilyMetrics
from sage.middleware.auth.authenticator import Authenticator
from sage.middleware.budgets.budgets import Budgets
from sage.middleware.gateway.builtin_embedders import NAMES as EMBEDDER_NAMES
from sage.middleware.gateway.gateway import Gateway
from sage.middleware.gateway.metrics import RetrievalMetrics
from sage.middleware.routers.http.asgi import ASGIApp
from sage.middleware.settings.settings import Settings

_READY_WITHIN = 30.0
_COUNTED_WITHIN = 1.0
_LOOKS_EVERY = 0.1
_END_WITHIN = 3.0
"""Seconds that fronts get beyond the time for running requests: their forwarded ones end after the owner's."""


class Fronts:
    """Belongs to the owner's event loop."""

    def __init__(
        self,
        settings: Settings,
        gateway: Gateway,
        authenticator: Authenticator | None,
        budgets: Budgets | None,
        app: ASGIApp,
        sockets: Sequence[socket.socket],
    ) -> None:
        """``settings`` are a front's; each of ``sockets`` is the listening socket of one of them."""
        self._settings = settings
        self._gateway = gateway
        self._authenticator = authenticator
        self.app = SettledApplication(app, self.settle)
        """Answers what comes here and what fronts forward."""
        self._links: list[FrontLink] = []
        self._processes = [FrontProcess(index, sock, self) for index, sock in enumerate(sockets, 1)]
        self._server: uvicorn.Server | None = None
        self._telling: list[asyncio.Task[None]] = []
        self._affinity_key = secrets.token_bytes(32)
        self._questions = itertools.count(1)
        self._announcements = Announcements(
            gateway.registry, authenticator, budgets, lambda: self._links, self._captured
        )
        self._health = HealthReports(gateway.registry, settings.llm.routing, self._tell)
        self._metrics = FamilyMetrics(self._counts)
        gateway.share_with_others(self._health.changed, self.in_flight)
        gateway.prefixes.share(self._affinity_key)
        gateway.metrics.with_others = self._metrics.with_fronts
        gateway.metrics.retrieval_of_others = self._searched
        gateway.metrics.ask_others = self._ask_counts

    async def start(self, server: uvicorn.Server) -> None:
        """Starts all; returns when they serve. ``server`` is the owner's own."""
        self._server = server
        tellings = (self._announcements.run(), self._look_after())
        self._telling = [asyncio.create_task(telling) for telling in tellings]
        for process in self._processes:
            process.start()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(_READY_WITHIN):
                for process in self._processes:
                    await process.ready.wait()

    async def settle(self) -> None:
        """Returns once every front goes by what is true now, or has not said so in a second."""
        await self._announcements.settle()

    @property
    def are_running(self) -> bool:
        return any(process.is_running for process in self._processes)

    def in_flight(self) -> int:
        """Calls of models that they run, as they have said within the last tenth of a second."""
        return sum(link.use.in_flight for link in self._links)

    def end(self) -> None:
        """Has them take no more connections, and end after their running requests."""
        for process in self._processes:
            process.signal(signal.SIGTERM)

    async def close(self, at_once: Callable[[], bool]) -> None:
        """Returns when all have ended, and all that they told has been heard. From when ``at_once`` is true, running
        requests are ended."""
        closing = asyncio.gather(*(process.close() for process in self._processes))
        deadline = time.monotonic() + _END_WITHIN
        while not (closing.done() or at_once() or time.monotonic() > deadline):
            await asyncio.wait([closing], timeout=0.1)
        for process in self._processes:
            process.signal(signal.SIGKILL)
        await closing
        for telling in self._telling:
            telling.cancel()

    def begin(self, index: int) -> Begin:
        revision = None if self._authenticator is None else self._authenticator.revision
        return Begin(self._settings, index, revision, self._affinity_key, tuple(EMBEDDER_NAMES))

    def link(self, ready: Callable[[], None]) -> FrontLink:
        use = FrontUse(self._gateway.registry)
        return FrontLink(self._authenticator, use, ready, self._heard, self._settled)

    def _captured(self) -> Iterable[str]:
        captures = self._gateway.captures
        return captures.settings if captures is not None else ()

    def _settled(self, calls: SettledCalls) -> None:
        ledger = self._gateway.ledger
        if ledger is not None:
            take_over(ledger, self._gateway.registry, calls)

    def front_began(self, link: FrontLink) -> None:
        self._links.append(link)
        self._announcements.announce()

    def front_ended(self, link: FrontLink) -> None:
        if link in self._links:
            self._links.remove(link)
            self._metrics.front_ended(link.counts, link.retrieval)

    def forwarded(self, index: int) -> ForwardedConnection:
        assert self._server is not None
        return ForwardedConnection(self.app, index, self._server.server_state.tasks)

    def takes_connections(self) -> asyncio.Protocol:
        server = self._server
        assert server is not None
        make = server.config.http_protocol_class
        return make(config=server.config, server_state=server.server_state, app_state=server.lifespan.state)  # type: ignore[call-arg]

    def _counts(self) -> Iterator[Counts]:
        return (link.counts for link in self._links)

    def _searched(self) -> Iterator[RetrievalMetrics]:
        yield self._metrics.searches_ended
        yield from (link.retrieval for link in self._links)

    async def _ask_counts(self) -> None:
        number = next(self._questions)
        waiting = [answer for link in self._links if (answer := link.ask_counts(number)) is not None]
        if waiting:
            await asyncio.wait(waiting, timeout=_COUNTED_WITHIN)

    def _tell(self, message: DeploymentHealth | AnsweredConversations) -> None:
        for link in self._links:
            link.tell(message)

    def _heard(self, message: DeploymentHealth | AnsweredConversations) -> None:
        if isinstance(message, DeploymentHealth):
            self._health.heard(message)
        else:
            self._gateway.prefixes.heard(message.deployments)
        self._tell(message)  # also to the front that said so: it knows that already

    async def _look_after(self) -> None:
        """Tells of conversations, and ends fronts that are stuck, until it is cancelled."""
        while True:
            await asyncio.sleep(_LOOKS_EVERY)
            for process in self._processes:
                process.end_if_stuck()
            if news := self._gateway.prefixes.news():
                self._tell(AnsweredConversations(news))
