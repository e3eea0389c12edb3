"""One front: a process that takes connections at the gateway's address, and answers what it can without its owner.

:mod:`sage.middleware.app.workers.front_process` runs it with the descriptors of its listening socket, of the connection
to its owner and of the doorway for forwarded requests, and the owner's pid.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import socket
import sys
from typing import Any, cast

from sage.middleware.app.access_log import AccessLog
from sage.middleware.app.edge import EdgeMiddleware
from sage.middleware.app.inference_routes import INFERENCE_ROUTES
from sage.middleware.app.memory import leave_alone_what_lives, prepare_for_large_blocks
from sage.middleware.app.open_streams import OpenStreams
from sage.middleware.app.registry import make_registry
from sage.middleware.app.slashes import Slashes
from sage.middleware.app.workers.elsewhere import RECORDED, FrontGateway, FrontRegistry, FrontRoute
from sage.middleware.app.workers.forwarding import Forwarder, RecordedRequest
from sage.middleware.app.workers.frames import PeerGone
from sage.middleware.app.workers.front_collections import FrontCollections
from sage.middleware.app.workers.front_server import FrontServer
from sage.middleware.app.workers.messages import Begin, FrontReady
from sage.middleware.app.workers.owner_link import OwnerLink, read_begin
from sage.middleware.app.workers.remote_authenticator import RemoteAuthenticator
from sage.middleware.app.workers.shared_health import HealthReports
from sage.middleware.dispatch.dispatch import Dispatch
from sage.middleware.engines.supervisor import end_with_parent
from sage.middleware.gateway.metrics import Metrics
from sage.middleware.limits.limiter import make_limiter
from sage.middleware.providers.clients import make_transport
from sage.middleware.routers.http.asgi import ASGIApp, Receive, Scope, Send
from sage.middleware.routers.search import ROUTES as SEARCH_ROUTES


class FrontApplication:
    """The ASGI application of a front: hot routes go through its own edge, everything else to the owner as it is."""

    def __init__(self, edge: EdgeMiddleware, hot: frozenset[tuple[str, str]], forwarder: Forwarder, index: int) -> None:
        self._edge = edge
        self._hot = hot
        self._forwarder = forwarder
        self._index = index

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if (scope["method"], scope["path"]) not in self._hot:
            await self._forwarder.forward(scope, receive, send)
            return
        recorded = scope[RECORDED] = RecordedRequest(scope["sage.exchange"], send)
        scope.setdefault("state", {})["log"] = {"worker": self._index}
        await self._edge(scope, recorded.receiver, send)


class Front:
    """Everything that a front has, made of what its owner told it first."""

    def __init__(self, begin: Begin, control: socket.socket, doorway: socket.socket) -> None:
        settings = begin.settings
        self._control = control
        self._link = link = OwnerLink()
        self._forwarder = Forwarder(doorway)
        self._log = AccessLog() if settings.api.access_log else None
        self._transport = transport = make_transport(settings.llm.transport)
        self._registry = registry = make_registry(FrontRegistry, settings, transport)
        registry.elsewhere = frozenset(begin.own_models)
        self._running: list[asyncio.Task[None]] = []
        dispatch = Dispatch(transport, settings.llm.routing)
        health = HealthReports(registry, settings.llm.routing, link.tell)
        dispatch.on_health, link.on_health = health.changed, health.heard
        self._limiter = make_limiter(settings.limits)
        shared = self._limiter if settings.limits.redis is not None else None
        gateway = FrontGateway(registry, dispatch, transport, Metrics(), settings, shared)
        link.registry, link.metrics, link.prefixes = registry, gateway.metrics, dispatch.prefixes
        link.records = gateway.records
        root = settings.data_dir / "collections"
        self._collections = FrontCollections(root, settings.retrieval, gateway.metrics.retrieval)
        dispatch.prefixes.share(begin.affinity_key)
        if begin.revision is not None:
            link.authenticator = RemoteAuthenticator(begin.revision, link.verify)
            OpenStreams(link.authenticator, gateway.deadlines)
        hot: dict[tuple[str, str], ASGIApp] = {}
        for route in INFERENCE_ROUTES:
            hot["POST", route.path] = FrontRoute(route.mount(gateway, link.authenticator).app, self._forwarder)
        for route in SEARCH_ROUTES:
            mounted = route.mount(cast(Any, self._collections), link.authenticator).app
            hot["POST", route.path] = FrontRoute(mounted, self._forwarder)
        routes = (*INFERENCE_ROUTES, *SEARCH_ROUTES)
        limits = {("POST", route.path): route.max_body for route in routes if route.max_body is not None}
        slashes = Slashes(route.path for route in routes)
        edge = EdgeMiddleware(self._forwarder.forward, hot, limits, slashes, settings, self._log)
        application = FrontApplication(edge, frozenset(hot), self._forwarder, begin.index)
        self.server = FrontServer(application, edge.refusals(), settings, self._open, self._listens, self._close)

    async def _open(self) -> None:
        if self._log is not None:
            self._log.start()
        loop = asyncio.get_running_loop()
        await loop.create_unix_connection(lambda: self._link, sock=self._control)
        await self._link.told.wait()
        self._limiter.begin()
        self._running = [
            loop.create_task(running) for running in (self._link.report(), self._collections.let_go_of_deleted())
        ]

    def _listens(self) -> None:
        leave_alone_what_lives()
        self._link.tell(FrontReady())

    async def _close(self) -> None:
        self._link.is_ending = True
        with contextlib.suppress(PeerGone):
            self._link.tell_settled()  # before what may take its time
        for task in self._running:
            task.cancel()
        await self._collections.close()
        await self._limiter.close()
        await self._transport.close()
        self._forwarder.close()
        if self._log is not None:
            self._log.stop()
        await self._link.end()


def main(arguments: list[str]) -> None:
    """Serves until the owner ends, or SIGTERM comes."""
    listening, control, doorway, owner = map(int, arguments)
    end_with_parent()
    if os.getppid() != owner:
        return
    logging.basicConfig(level=logging.WARNING, format="%(levelname)s %(name)s: %(message)s", stream=sys.stderr)
    prepare_for_large_blocks()
    with socket.socket(fileno=listening) as sock, socket.socket(fileno=control) as link:
        front = Front(read_begin(link), link, socket.socket(fileno=doorway))
        link.setblocking(False)
        front.server.run(sockets=[sock])
