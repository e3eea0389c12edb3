"""The SDK's streamable HTTP over one server, begun with the first request and kept until the gateway ends."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any

from mcp.server.auth.middleware.bearer_auth import AuthenticatedUser
from mcp.server.auth.provider import AccessToken
from mcp.server.lowlevel.server import Server
from mcp.server.streamable_http_manager import StreamableHTTPSessionManager

from sage.middleware.auth.principal import Principal

_IDLE = 900.0
"""Seconds without a request after which a session ends, where there are sessions."""
_MOST_SESSIONS = 1000

Scope = MutableMapping[str, Any]
Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]


class StreamableHttp:
    """One server behind the gateway's own checks, which have put the caller's principal into the scope.

    The gateway's own server keeps no sessions: each request stands for itself. With ``sessions`` a client has one,
    which is good only with the rights of the caller that has begun it.
    """

    def __init__(self, server: Server[Any], most: int, *, sessions: bool = False) -> None:
        """``most`` bytes are taken of one request."""
        self._sessions = sessions
        self._manager = StreamableHTTPSessionManager(
            server,
            json_response=not sessions,
            stateless=not sessions,
            session_idle_timeout=_IDLE,
            max_sessions=_MOST_SESSIONS,
            max_request_body_size=most,
        )
        self._running: asyncio.Task[None] | None = None
        self._ready: asyncio.Future[None] | None = None

    async def __call__(self, scope: Scope, receive: Receive, send: Send, principal: Principal) -> None:
        if self._running is None:
            self._ready = asyncio.get_running_loop().create_future()
            self._running = asyncio.create_task(self._run(), name="mcp server")
        assert self._ready is not None
        await self._ready
        if self._sessions:
            holder = f"{principal.tenant}/{principal.user}/{principal.session or principal.credential}"
            token = AccessToken(token="", client_id=holder, scopes=[*principal.scopes])
            scope["user"] = AuthenticatedUser(token)
        await self._manager.handle_request(scope, receive, send)

    async def _run(self) -> None:
        """The SDK's tasks live in one of ours, since one task has to begin and to end them."""
        assert self._ready is not None
        async with self._manager.run():
            self._ready.set_result(None)
            await asyncio.Event().wait()

    async def close(self) -> None:
        """Ends what runs."""
        if self._running is not None:
            self._running.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._running
