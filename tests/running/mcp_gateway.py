"""A running gateway with MCP servers behind it, and the official SDK's client before it."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, TypeVar

if TYPE_CHECKING:
    from mcp.client.client import Client
    from mcp_upstream import McpUpstream
    from running_gateway import Running
    from upstream import Upstream

T = TypeVar("T")


@dataclass
class McpGateway:
    """A running gateway, and what is behind it."""

    running: Running
    up: Upstream
    docs: McpUpstream
    _users: set[str] = field(default_factory=set)

    def key(self, *scopes: str, tenant: str = "default", **fields: Any) -> str:
        """A new key of a user of ``tenant``."""
        from sage.middleware.auth.grants import KeyRequest

        accounts = self.running.accounts
        assert accounts is not None
        name = f"user-of-{tenant}"
        if name not in self._users:
            self._users.add(name)
            accounts.users.add(name, "correct horse battery staple", role="user", tenant=tenant)
        return accounts.keys.create_for(name, KeyRequest("k", scopes=scopes or None, **fields)).secret

    def ask(self, work: Callable[[Client], Awaitable[T]], key: str | None = None, mode: str = "auto") -> T:
        """What ``work`` does with the SDK's client at ``/mcp``."""

        async def run() -> T:
            async with client_of(f"{self.running.url}/mcp", key or self.running.key, mode) as client:
                return await work(client)

        return asyncio.run(run())

    def states(self) -> dict[str, str]:
        """Whether each server is ``up`` or ``down``."""
        return {each["name"]: each["state"] for each in self.running.get("/mcp/servers").json()["servers"]}

    def tools(self, server: str) -> dict[str, str]:
        """The state of each tool of a server."""
        return {
            each["tool"]: each["state"] for each in self.running.get(f"/mcp/servers/{server}/tools").json()["tools"]
        }

    @staticmethod
    def wait(condition: Callable[[], bool], seconds: float = 30.0) -> None:
        """Returns once ``condition`` is true."""
        until = time.monotonic() + seconds
        while not condition():
            assert time.monotonic() < until, "it did not come true in time"
            time.sleep(0.05)

    def names(self, key: str | None = None) -> list[str]:
        """The tools that a key sees."""

        async def work(client: Client) -> list[str]:
            return [tool.name for tool in (await client.list_tools()).tools]

        return self.ask(work, key)

    def call(self, name: str, arguments: dict[str, Any], key: str | None = None) -> Any:
        """The result of a tool, or the error of the protocol."""
        from mcp.shared.exceptions import MCPError

        async def work(client: Client) -> Any:
            try:
                return await client.call_tool(name, arguments)
            except MCPError as error:
                return error

        return self.ask(work, key)


@asynccontextmanager
async def client_of(url: str, key: str | None, mode: str = "auto") -> AsyncIterator[Client]:
    """The SDK's client, with a key as bearer."""
    import httpx2
    from mcp.client.client import Client
    from mcp.client.streamable_http import streamable_http_client

    headers = {"Authorization": f"Bearer {key}"} if key is not None else {}
    async with (
        httpx2.AsyncClient(headers=headers, timeout=30) as http,
        Client(streamable_http_client(url, http_client=http), mode=mode) as client,
    ):
        yield client
