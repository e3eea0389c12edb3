"""The connection to one MCP server: made, kept, made anew, and asked for tools. Nothing that the server does reaches
further than its own calls."""

from __future__ import annotations

import asyncio
import contextlib
import importlib
import logging
import time
from collections.abc import Awaitable, Callable, Mapping
from types import TracebackType
from typing import Any, Protocol

from sage.errors import DeadlineExceeded, SageError, Unavailable, UpstreamFailed
from sage.middleware.mcp.client.definitions import MOST_PAGES, MOST_TOOLS, ToolDefinition, read_tool
from sage.middleware.settings.mcp import McpServerSettings

_log = logging.getLogger("sage")
_FIRST_PAUSE, _LONGEST_PAUSE = 1.0, 60.0
"""Seconds until a server that is down is tried again."""
_OVERHEAD = 1 * 2**20
"""Bytes of an answer beside a result's: the frame, and results that are cut."""
_CLOSE_WITHIN = 8.0
_MOST_LEFT_OUT = 32
_ENDED = "its connection broke"


class AnsweredError(Exception):
    """The server has answered with an error."""


class AnswerLost(Exception):
    """The connection broke before there was an answer."""


class ServerSession(Protocol):
    """A connection through the SDK (:class:`sage.middleware.mcp.client.session.McpSession`)."""

    async def __aenter__(self) -> ServerSession: ...

    async def __aexit__(
        self, kind: type[BaseException] | None, exc: BaseException | None, trace: TracebackType | None
    ) -> None: ...

    async def list_tools(self, cursor: str | None) -> tuple[list[Mapping[str, Any]], str | None]: ...

    async def call_tool(self, name: str, arguments: Mapping[str, Any]) -> Mapping[str, Any]:
        """Raises :class:`AnsweredError` and :class:`AnswerLost`."""
        ...


class ServerConnection:
    """One server. ``run`` is a task of its own, which alone opens and closes the connection."""

    def __init__(self, name: str, settings: McpServerSettings, hosts: tuple[str, ...], refresh: float) -> None:
        self.name = name
        self.settings = settings
        self.tools: dict[str, ToolDefinition] = {}
        """What it offers now, by its own names; empty while it is down."""
        self.left_out: list[str] = []
        """Why tools of it are left out."""
        self.fault: str | None = "it was not reached yet"
        """Why it cannot be asked now."""
        self.listed = asyncio.Event()
        """Set once it was tried for the first time."""
        self.revision = 0
        """Counts how often its tools were listed."""
        self.on_listed: Callable[[ServerConnection], Awaitable[None]] = _nobody
        """Called when its tools were listed; must not raise."""
        self._hosts = hosts
        self._refresh = refresh
        self._session: ServerSession | None = None
        self._wake = asyncio.Event()
        self._broken = False
        self._places = asyncio.Semaphore(settings.max_concurrency)

    async def run(self) -> None:
        """Keeps the connection until it is cancelled."""
        pause = _FIRST_PAUSE
        while True:
            started = time.monotonic()
            try:
                await self._serve()
            except BaseException as exc:  # groups of errors, too: whatever it is, only this server is down
                task = asyncio.current_task()
                if task is not None and task.cancelling():
                    raise
                self._is_down(exc)
            finally:
                self._session, self.tools = None, {}
                self.listed.set()
            pause = _FIRST_PAUSE if time.monotonic() - started > _LONGEST_PAUSE else min(pause * 2, _LONGEST_PAUSE)
            self._wake.clear()
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(pause):
                    await self._wake.wait()

    def refresh(self) -> None:
        """Asks the server for its tools soon, or connects to it anew."""
        self._wake.set()

    async def call(self, tool: str, arguments: Mapping[str, Any]) -> Mapping[str, Any]:
        """The result of a tool (``tools/call``). Raises :class:`SageError`."""
        seconds = self.settings.timeout
        try:
            async with asyncio.timeout(seconds), self._places:
                return await self._call(tool, arguments)
        except TimeoutError:
            raise DeadlineExceeded(f"the MCP server '{self.name}' did not answer within {seconds:g} s") from None

    async def _call(self, tool: str, arguments: Mapping[str, Any]) -> Mapping[str, Any]:
        session = self._session
        if session is None:
            self.refresh()
            raise Unavailable(f"the MCP server '{self.name}' is down: {self.fault}")
        try:
            return await session.call_tool(tool, arguments)
        except AnswerLost as exc:
            self._broken = True
            self._wake.set()
            raise UpstreamFailed(f"the MCP server '{self.name}' did not answer: {exc}") from exc
        except AnsweredError as exc:
            raise UpstreamFailed(f"the MCP server '{self.name}' answered: {exc}") from exc

    async def _serve(self) -> None:
        """One connection, from its beginning until it breaks; what is wrong with it is raised."""
        # Here, and on a thread: the SDK is an extra, and takes seconds to load.
        module = await asyncio.to_thread(importlib.import_module, "sage.middleware.mcp.client.session")
        most = self.settings.max_result + _OVERHEAD
        session: ServerSession = module.McpSession(self.settings, self._hosts, most, self.refresh)
        loop = asyncio.get_running_loop()
        try:
            # Blocks within each other, as the SDK's tasks need them: an error in one of these cancels what is inside.
            async with asyncio.timeout(self.settings.connect_timeout) as limit, session:
                limit.reschedule(None)
                try:
                    await self._follow(session)
                finally:
                    self._session, self.fault = None, self.fault or _ENDED
                    limit.reschedule(loop.time() + _CLOSE_WITHIN)
        finally:
            self._session = None

    async def _follow(self, session: ServerSession) -> None:
        """Lists the tools now and again, until the connection breaks, which is raised."""
        self._broken = False
        self._wake.clear()
        await self._list(session)
        self._session, self.fault = session, None
        self.listed.set()
        while not self._broken:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(self._refresh):
                    await self._wake.wait()
            self._wake.clear()
            if not self._broken:
                await self._list(session)
        raise UpstreamFailed(_ENDED)

    async def _list(self, session: ServerSession) -> None:
        """Reads the list of tools, page by page."""
        tools: dict[str, ToolDefinition] = {}
        left_out: list[str] = []
        cursor: str | None = None
        async with asyncio.timeout(self.settings.connect_timeout):
            for _ in range(MOST_PAGES):
                page, cursor = await session.list_tools(cursor)
                for tool in page:
                    read = read_tool(self.name, tool)
                    if isinstance(read, str):
                        left_out.append(read)
                    elif len(tools) < MOST_TOOLS:
                        tools[read.name] = read
                    else:
                        left_out.append(f"'{read.name}': only {MOST_TOOLS} tools of a server are taken")
                if cursor is None:
                    break
        self.tools, self.left_out = tools, left_out[:_MOST_LEFT_OUT]
        self.revision += 1
        await self.on_listed(self)

    def _is_down(self, exc: BaseException) -> None:
        fault = _reason(exc)
        if fault != self.fault:
            _log.warning("the MCP server '%s' is down: %s", self.name, fault)
        self.fault = fault


async def _nobody(_: ServerConnection) -> None:
    pass


def _reason(exc: BaseException) -> str:
    """In a few words why a server was not reached; of a group of errors, the first."""
    while isinstance(exc, BaseExceptionGroup):
        exc = exc.exceptions[0]
    if isinstance(exc, ImportError):
        return "the extra 'mcp' is not installed: pip install 'intellistream-sage-middleware[mcp]'"
    if isinstance(exc, TimeoutError):
        return "it did not answer in time"
    if isinstance(exc, SageError):
        return exc.message[:500]
    return f"{type(exc).__name__}: {exc}"[:500] if not isinstance(exc, AnsweredError | AnswerLost) else str(exc)
