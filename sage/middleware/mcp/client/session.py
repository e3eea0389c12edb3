"""One connection to an MCP server through the official SDK."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import TracebackType
from typing import Any

import mcp_types as types
from mcp.client.client import Client
from mcp.shared.exceptions import MCPError

from sage.middleware.mcp.client.connection import AnsweredError, AnswerLost
from sage.middleware.mcp.client.http import http_streams
from sage.middleware.mcp.client.stdio import stdio_streams
from sage.middleware.settings.mcp import McpServerSettings

_CLIENT = types.Implementation(name="sage", version="1")
_BROKEN = frozenset({types.CONNECTION_CLOSED, types.INVALID_REQUEST})
"""Codes under which the SDK reports that the connection, or the session at the server, has ended; servers have the
same ones for other things."""


class McpSession:
    """To be entered and left by the same task. ``changed`` is called when the server says that its tools have."""

    def __init__(
        self, settings: McpServerSettings, hosts: tuple[str, ...], most: int, changed: Callable[[], None]
    ) -> None:
        """``most`` bytes are taken of one message."""
        is_http = settings.url is not None
        streams = http_streams(settings, hosts, most) if is_http else stdio_streams(settings, most, changed)
        self._changed = changed
        # Neither sampling nor elicitation nor roots: a server gets nothing of callers, and asks them nothing.
        self._client = Client(streams, cache=None, client_info=_CLIENT, message_handler=self._on_message)

    async def __aenter__(self) -> McpSession:
        """Connects, and agrees on a version of the protocol."""
        await self._client.__aenter__()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, exc: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Ends the connection, and the program behind it."""
        await self._client.__aexit__(kind, exc, trace)

    async def list_tools(self, cursor: str | None) -> tuple[list[Mapping[str, Any]], str | None]:
        """A page of the server's tools in MCP's shape, and the cursor of the next."""
        page = await self._client.session.list_tools(params=types.PaginatedRequestParams(cursor=cursor))
        return [tool.model_dump(by_alias=True, mode="json", exclude_none=True) for tool in page.tools], page.next_cursor

    async def call_tool(self, name: str, arguments: Mapping[str, Any]) -> Mapping[str, Any]:
        """The result in MCP's shape. It is not held against the server's schema, whose patterns may be made to take
        for ever. Raises :class:`AnsweredError` and :class:`AnswerLost`."""
        params = types.CallToolRequestParams(name=name, arguments=dict(arguments))
        try:
            result = await self._client.session.send_request(types.CallToolRequest(params=params), types.CallToolResult)
        except MCPError as exc:
            if exc.code in _BROKEN:
                self._changed()  # asked for its tools, a server that is gone shows that it is
            raise AnsweredError(exc.message[:500]) from exc
        except Exception as exc:
            raise AnswerLost(f"{type(exc).__name__}: {exc}"[:500]) from exc
        return result.model_dump(by_alias=True, mode="json", exclude_none=True)

    async def _on_message(self, message: Any) -> None:
        if isinstance(message, types.ToolListChangedNotification):
            self._changed()
