"""The parts of MCP put together: the servers behind the gateway, and ``/mcp`` before it."""

from __future__ import annotations

import asyncio
import importlib
from typing import Any

from starlette.routing import Route

from sage.middleware.app.version import version
from sage.middleware.audit.log import AuditLog
from sage.middleware.auth.authenticator import Authenticator
from sage.middleware.gateway.gateway import Gateway
from sage.middleware.mcp.client.servers import McpServers
from sage.middleware.mcp.pins.store import Pins
from sage.middleware.routers.mcp.endpoint import MOST, PATH, McpEndpoint, McpTransport
from sage.middleware.settings.settings import Settings

_METHODS = ("GET", "POST", "DELETE")


class Mcp:
    """MCP in one application."""

    def __init__(
        self, gateway: Gateway, settings: Settings, audit: AuditLog, authenticator: Authenticator | None
    ) -> None:
        self.servers = McpServers(settings.mcp, Pins(settings.data_dir, settings.database), audit)
        self.servers.settled = gateway.settled
        self._gateway = gateway
        self._transport: Any = None
        if settings.mcp.servers:
            gateway.mcp = self.servers
            gateway.metrics.tools = self.servers
        self.route = Route(PATH, McpEndpoint(settings, authenticator, self._make), methods=_METHODS, name="mcp")

    def begin(self) -> None:
        """Connects to the servers, on the running loop."""
        self.servers.begin()

    async def close(self) -> None:
        """Ends all that runs."""
        if self._transport is not None:
            await self._transport.close()
        await self.servers.close()

    async def _make(self) -> McpTransport:
        # On a thread, and with the first request only: the SDK is an extra, and takes seconds to load.
        protocol: Any = await asyncio.to_thread(importlib.import_module, "sage.middleware.mcp.server.protocol")
        transport: Any = await asyncio.to_thread(importlib.import_module, "sage.middleware.mcp.server.transport")
        servers = self.servers if self.servers.connections else None
        server = protocol.McpHandlers(self._gateway, servers).server(version())
        self._transport = transport.StreamableHttp(server, MOST)
        made: McpTransport = self._transport
        return made
