"""An MCP server that is a program on this machine: a family of processes that ends with the gateway.

Its environment is exactly the one of its settings. It writes messages to stdout, a line each; what it writes to stderr
is kept for errors.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import shutil
import sys
from collections import deque
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import anyio
from mcp.shared.message import SessionMessage
from mcp_types import jsonrpc_message_adapter

from sage.errors import Unavailable
from sage.middleware.engines import supervisor
from sage.middleware.mcp.client import launcher
from sage.middleware.settings.mcp import McpServerSettings

_GRACE = 2.0
"""Seconds between SIGTERM and SIGKILL."""
_END_WITHIN = 10.0
_LOG_LINES = 20
_LOG_LINE = 500


class ServerProcess:
    """The running family of one server."""

    def __init__(self, process: asyncio.subprocess.Process, stdin: asyncio.StreamWriter) -> None:
        self.process = process
        self.stdin = stdin
        self.log: deque[str] = deque(maxlen=_LOG_LINES)

    async def keep_log(self) -> None:
        """Reads its stderr to the end."""
        assert self.process.stderr is not None
        while True:
            try:
                line = await self.process.stderr.readline()
            except ValueError:  # a line that is too long was passed over
                continue
            if not line:
                return
            self.log.append(line.decode("utf-8", "replace").strip()[:_LOG_LINE])

    async def end(self) -> None:
        """Ends the family: its supervisor reads the end of its stdin."""
        self.stdin.close()
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.process.stdin.close()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(_END_WITHIN):
                while await self.process.stdout.read(2**16):
                    pass  # what it still wants to say; the end comes when the last of the family has ended
                await self.process.wait()


async def start(settings: McpServerSettings, most: int) -> ServerProcess:
    """Starts the server's family. Raises :class:`Unavailable` for a program that is not there."""
    program = shutil.which(settings.command[0])
    if program is None:
        raise Unavailable(f"there is no program '{settings.command[0]}'")
    ours, theirs = os.pipe()[::-1]
    try:
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-I", "-S", str(Path(supervisor.__file__)), str(_GRACE)),
            *(sys.executable, "-I", "-S", str(Path(launcher.__file__)), str(theirs)),
            "=".join(settings.environment),
            *(program, *settings.command[1:]),
            env={name: value.get_secret_value() for name, value in settings.environment.items()},
            cwd=settings.directory or "/",
            pass_fds=(theirs,),
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
            start_new_session=True,
            limit=most,
        )
    except BaseException:
        os.close(ours)
        raise
    finally:
        os.close(theirs)
    transport, protocol = await asyncio.get_running_loop().connect_write_pipe(
        asyncio.streams.FlowControlMixin, os.fdopen(ours, "wb", buffering=0)
    )
    writer = asyncio.StreamWriter(transport, protocol, None, asyncio.get_running_loop())
    return ServerProcess(process, writer)


@asynccontextmanager
async def stdio_streams(settings: McpServerSettings, most: int, ended: Callable[[], None]) -> AsyncIterator[Any]:
    """The streams of messages from and to the server, a line of which has at most ``most`` bytes. ``ended`` is called
    when nothing more comes from it."""
    running = await start(settings, most)
    received, read = anyio.create_memory_object_stream[SessionMessage | Exception](0)
    written, to_write = anyio.create_memory_object_stream[SessionMessage](0)
    logging = asyncio.create_task(running.keep_log())
    try:
        async with anyio.create_task_group() as group:
            group.start_soon(_read, running, received, ended)
            group.start_soon(_write, running, to_write)
            try:
                yield read, written
            finally:
                group.cancel_scope.cancel()
    finally:
        with anyio.CancelScope(shield=True):
            await running.end()
            await asyncio.wait((logging,), timeout=1.0)
        logging.cancel()
        for stream in (received, read, written, to_write):
            stream.close()


async def _read(running: ServerProcess, received: Any, ended: Callable[[], None]) -> None:
    """Passes its messages on; ends the stream when the server has ended, or sends what is no message."""
    async with received:
        while line := await _line(running):
            try:
                message = SessionMessage(jsonrpc_message_adapter.validate_json(line, by_name=False))
            except ValueError:
                continue  # programs print other things, too
            await received.send(message)
    ended()


async def _line(running: ServerProcess) -> bytes:
    """The next line; empty at the end, and for one that is too long: what follows it is no message."""
    assert running.process.stdout is not None
    try:
        return await running.process.stdout.readline()
    except ValueError:
        return b""


async def _write(running: ServerProcess, to_write: Any) -> None:
    async with to_write:
        async for message in to_write:
            text = message.message.model_dump_json(by_alias=True, exclude_unset=True)
            running.stdin.write(text.encode() + b"\n")
            with contextlib.suppress(ConnectionError):
                await running.stdin.drain()
