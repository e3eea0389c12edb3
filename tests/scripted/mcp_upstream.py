"""An MCP server made with the official SDK, for tests: over streamable HTTP in a thread, or over stdio as a program.

Its tools can be changed while it runs; ``python mcp_upstream.py`` is the program.
"""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any, Self

import mcp_types as types
import uvicorn
from mcp.server.lowlevel.server import Server
from mcp.server.stdio import stdio_server
from mcp.shared.exceptions import MCPError
from starlette.requests import Request
from starlette.types import Receive, Scope, Send

SCHEMA: dict[str, Any] = {
    "type": "object",
    "properties": {"text": {"type": "string"}},
    "required": ["text"],
}


def tool(name: str, description: str = "Says it again.", **fields: Any) -> dict[str, Any]:
    """A tool in MCP's shape."""
    return {"name": name, "description": description, "inputSchema": SCHEMA, **fields}


def said(text: str, **fields: Any) -> dict[str, Any]:
    """A result of a tool."""
    return {"content": [{"type": "text", "text": text}], **fields}


class McpUpstream:
    """A server on a free port of 127.0.0.1, until the end of the ``with`` block.

    ``tools`` are what it lists; ``handlers`` answer calls, by the name of the tool; the others say ``text`` again.
    """

    def __init__(self, *tools: dict[str, Any], sessions: bool = False) -> None:
        self.tools = list(tools) or [tool("echo")]
        self.handlers: dict[str, Callable[[dict[str, Any]], Any]] = {}
        self.calls: list[tuple[str, dict[str, Any]]] = []
        self.headers: list[dict[str, str]] = []
        self.cancelled = threading.Event()
        self.is_down = False
        self._sessions = sessions
        self._uvicorn: uvicorn.Server | None = None

    def server(self) -> Server[Any]:
        """The SDK's server."""
        return Server("upstream", version="1", on_list_tools=self._list, on_call_tool=self._call)

    async def _list(self, ctx: Any, params: Any) -> types.ListToolsResult:
        return types.ListToolsResult.model_validate({"tools": self.tools})

    async def _call(self, ctx: Any, params: types.CallToolRequestParams) -> types.CallToolResult:
        arguments = params.arguments or {}
        self.calls.append((params.name, arguments))
        handler = self.handlers.get(params.name)
        try:
            result = said(str(arguments.get("text", ""))) if handler is None else handler(arguments)
            if asyncio.iscoroutine(result):
                result = await result
        except asyncio.CancelledError:
            self.cancelled.set()
            raise
        if isinstance(result, str):
            raise MCPError(-32000, result)
        return types.CallToolResult.model_validate(result)

    def __enter__(self) -> Self:
        manager = self.server().streamable_http_app(
            stateless_http=not self._sessions,
            json_response=False,
            transport_security=None,
            host="0.0.0.0",
        )

        async def app(scope: Scope, receive: Receive, send: Send) -> None:
            if scope["type"] == "http":
                self.headers.append(dict(Request(scope).headers))
                if self.is_down:
                    await send({"type": "http.response.start", "status": 503, "headers": []})
                    await send({"type": "http.response.body", "body": b""})
                    return
            await manager(scope, receive, send)

        config = uvicorn.Config(app, host="127.0.0.1", port=0, log_level="critical")
        self._uvicorn = uvicorn.Server(config)
        self._thread = threading.Thread(target=self._uvicorn.run, daemon=True)
        self._thread.start()
        while not self._uvicorn.started:
            threading.Event().wait(0.01)
        self.port = self._uvicorn.servers[0].sockets[0].getsockname()[1]
        self.url = f"http://127.0.0.1:{self.port}/mcp"
        return self

    def __exit__(self, *_: object) -> None:
        assert self._uvicorn is not None
        self._uvicorn.should_exit = self._uvicorn.force_exit = True
        self._thread.join(10)


def main() -> None:
    """The program over stdio: ``environment`` tells its variables, ``child`` starts a child in a session of its own."""

    def child(_: dict[str, Any]) -> dict[str, Any]:
        started = subprocess.Popen(["/bin/sleep", "1000"], start_new_session=True)
        return said(json.dumps({"pid": os.getpid(), "child": started.pid}))

    upstream = McpUpstream(tool("environment"), tool("child"), tool("echo"), tool("flood"))
    upstream.handlers["environment"] = lambda _: said(json.dumps(Path("/proc/self/environ").read_text().split("\0")))
    upstream.handlers["child"] = child
    upstream.handlers["flood"] = lambda _: said("x" * 50_000_000)

    async def run() -> None:
        async with stdio_server() as (read, write):
            server = upstream.server()
            await server.run(read, write, server.create_initialization_options())

    print("this line is no message", flush=True)
    asyncio.run(run())


if __name__ == "__main__":
    sys.exit(main())
