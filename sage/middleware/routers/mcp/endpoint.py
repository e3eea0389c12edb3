"""``/mcp``: the gateway as an MCP server over streamable HTTP. Here are its checks; the protocol is in
:mod:`sage.middleware.mcp.server`."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any, Protocol
from urllib.parse import urlsplit

from sage.addresses import AddressRefused, parse_url
from sage.errors import AuthenticationFailed, MethodNotAllowed, NotFound, PermissionDenied
from sage.middleware.auth.credential_cache import CredentialCache
from sage.middleware.auth.principal import Principal
from sage.middleware.gateway.watch import AsgiClient, ClientLeft
from sage.middleware.routers.http.asgi import Message, Receive, Scope, Send, read_body
from sage.middleware.routers.http.browser_origin import header
from sage.middleware.routers.http.guard import identify
from sage.middleware.routers.mcp.metadata import METADATA, base_url
from sage.middleware.settings.settings import LOOPBACK, Settings

PATH = "/mcp"
MOST = 4 * 2**20
"""Bytes of one request."""
INSTALL = "the MCP server needs the extra 'mcp': pip install 'intellistream-sage-middleware[mcp]'"


class McpTransport(Protocol):
    """What speaks MCP: :class:`sage.middleware.mcp.server.transport.StreamableHttp`."""

    async def __call__(self, scope: Scope, receive: Receive, send: Send, principal: Principal) -> None: ...


class McpEndpoint:
    """The ASGI endpoint. ``transport`` makes what speaks MCP, once, on the first request; it raises
    :class:`ImportError` where the extra is missing."""

    def __init__(
        self,
        settings: Settings,
        authenticator: CredentialCache | None,
        transport: Callable[[], Awaitable[McpTransport]],
        methods: tuple[str, ...] = ("POST",),
    ) -> None:
        self._settings = settings
        self._authenticator = authenticator
        self._make = transport
        self._methods = methods
        self._transport: McpTransport | None = None
        self._making = asyncio.Lock()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if not self._settings.mcp.enabled:
            raise NotFound("this gateway is no MCP server (mcp.enabled)")
        self._check_origin(scope)
        scope["state"]["principal"] = principal = await self._identify(scope)
        if scope["method"] not in self._methods:
            # Without sessions there is no stream that the server could send unasked, and none to end.
            refusal = MethodNotAllowed(f"{PATH} takes POST")
            refusal.headers = ((b"allow", ", ".join(self._methods).encode()),)
            raise refusal
        transport = await self._started()
        body = await read_body(receive) if scope["method"] == "POST" else b""
        client = ConnectedClient(scope, receive, body)
        with client:
            await transport(scope, client.receive, send, principal)

    async def _started(self) -> McpTransport:
        if self._transport is None:
            async with self._making:
                if self._transport is None:
                    try:
                        self._transport = await self._make()
                    except ImportError as exc:
                        raise NotFound(INSTALL, code="missing_extra") from exc
        return self._transport

    async def _identify(self, scope: Scope) -> Principal:
        try:
            return await identify(scope, self._authenticator)
        except AuthenticationFailed as exc:
            where = f"{base_url(scope, self._settings)}{METADATA}{PATH}"
            exc.headers = ((b"www-authenticate", f'Bearer realm="sage", resource_metadata="{where}"'.encode()),)
            raise

    def _check_origin(self, scope: Scope) -> None:
        """Refuses what a page of a browser sends, unless the page is of a site that may.

        A page can make its own name lead to this machine (DNS rebinding), and is then of the origin that ``Host``
        names. So that alone is trusted only where the host is an address, a name of this machine, or a configured one.
        """
        if not any(name == b"origin" for name, _ in scope["headers"]):
            return
        origin = header(scope, b"origin").lower()
        if origin in self._settings.api.allowed_origins:
            return
        host = header(scope, b"host").lower()
        try:
            name = urlsplit(origin).hostname or ""
            is_own = origin.partition("://")[2] == host and self._is_trusted(name)
        except ValueError:
            is_own = False
        if not is_own:
            raise PermissionDenied(
                f"pages of '{origin[:200]}' may not call {PATH} (api.allowed_origins)", code="origin_not_allowed"
            )

    def _is_trusted(self, host: str) -> bool:
        named = {name.lower() for name in self._settings.api.allowed_hosts}
        public = self._settings.mcp.public_url
        if public is not None:
            named.add(urlsplit(public).hostname or "")
        if host in named or host in LOOPBACK:
            return True
        try:
            return parse_url(f"http://[{host}]/" if ":" in host else f"http://{host}/").address is not None
        except AddressRefused:
            return False


class ConnectedClient:
    """``with`` around the answer to one request: it is cancelled when its client leaves, and so is all that it does.

    The body, which is read already, is given to the SDK as if it came now.
    """

    def __init__(self, scope: Scope, receive: Receive, body: bytes) -> None:
        self._client = scope.get("sage.exchange") or AsgiClient(receive)
        self._body: bytes | None = body
        self._left = asyncio.Event()
        self._task: asyncio.Task[Any] | None = None

    async def receive(self) -> Message:
        """The body; then that the client has left, once it has."""
        body, self._body = self._body, None
        if body is not None:
            return {"type": "http.request", "body": body, "more_body": False}
        await self._left.wait()
        return {"type": "http.disconnect"}

    def __enter__(self) -> ConnectedClient:
        self._task = asyncio.current_task()
        if self._client.disconnected:
            raise ClientLeft
        self._client.on_disconnect = self._leave
        return self

    def _leave(self) -> None:
        self._left.set()
        assert self._task is not None
        self._task.cancel()

    def __exit__(self, kind: type[BaseException] | None, exc: BaseException | None, trace: object) -> None:
        self._client.on_disconnect = None
        if self._left.is_set():
            assert self._task is not None
            self._task.uncancel()
            if kind is None or issubclass(kind, asyncio.CancelledError):
                raise ClientLeft
