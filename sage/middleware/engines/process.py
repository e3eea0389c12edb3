"""Engines: child processes that serve one model each, and whose whole family ends with them.

The gateway starts the supervisor (:mod:`sage.middleware.engines.supervisor`), which starts the engine. The gateway
holds the write end of the supervisor's stdin, so the family ends when the gateway does, also by SIGKILL. What an engine
writes on stderr is always read, and the last lines are kept.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import secrets
import signal
import sys
from collections import deque
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, cast
from urllib.parse import urlsplit

from sage.errors import Unavailable
from sage.middleware.engines.proc_stats import descendants, kill_marked
from sage.middleware.providers.base import Endpoint, EngineSpec

_SUPERVISOR = Path(__file__).with_name("supervisor.py")
_LOOPBACK = ("127.0.0.1", "::1", "localhost")
_LINE = 2000
"""Bytes kept of one log line."""
_ANNOUNCEMENT = 65536
"""Bytes kept of one line on stdout."""
_INHERITED = frozenset(
    {
        *("PATH", "HOME", "USER", "LOGNAME", "LANG", "LANGUAGE", "TZ", "TMPDIR", "LD_LIBRARY_PATH", "PYTHONPATH"),
        *("PYTHONHOME", "VIRTUAL_ENV", "XDG_CACHE_HOME", "HF_HOME", "SSL_CERT_FILE", "SSL_CERT_DIR"),
    }
)
_INHERITED_PREFIXES = ("LC_", "CUDA_", "NVIDIA_", "ROCR_", "HIP_", "GGML_", "OMP_", "GOMP_", "KMP_", "COVERAGE_")
_FAMILY = "SAGE_ENGINE_FAMILY"


class EngineFailed(Unavailable):
    """An engine could not start, or died (503); ``log`` holds its last lines on stderr."""

    default_code = "engine_failed"

    def __init__(self, message: str, log: Sequence[str] = (), *, retry_after: float | None = 1.0) -> None:
        super().__init__(message, retry_after=retry_after)
        self.log = tuple(log)


def engine_environment(environ: Mapping[str, str], extra: Mapping[str, str]) -> dict[str, str]:
    """The environment of an engine: paths, language and accelerators of ours, never a vendor's key."""
    inherited = {k: v for k, v in environ.items() if k in _INHERITED or k.startswith(_INHERITED_PREFIXES)}
    return inherited | dict(extra)


def describe_status(status: int) -> str:
    """How a process ended, from the supervisor's exit status."""
    number = status - 128 if status > 128 else -status
    if number in signal.valid_signals():
        return f"was ended by {signal.Signals(number).name}"
    return f"exited with status {status}"


class LineSplitter:
    """Splits bytes into lines of at most ``limit`` bytes; a longer line is cut."""

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._rest = b""

    def feed(self, data: bytes) -> list[str]:
        *complete, rest = data.split(b"\n")
        if complete:
            complete[0] = self._rest + complete[0]
            self._rest = b""
        self._rest = (self._rest + rest)[: self._limit]
        return [line[: self._limit].decode("utf-8", "replace").rstrip("\r") for line in complete]

    def flush(self) -> list[str]:
        rest, self._rest = self._rest, b""
        return [rest.decode("utf-8", "replace")] if rest else []


class Engine:
    """One running family of processes; made on the event loop that runs it, and started once."""

    def __init__(self, spec: EngineSpec, name: str, *, grace: float = 2.0) -> None:
        """``grace``: seconds between SIGTERM and SIGKILL when the family is ended."""
        self.name = name
        self.exited: asyncio.Future[int] = asyncio.get_running_loop().create_future()
        """The exit status, once the whole family has ended."""
        self._spec = spec
        self._grace = grace
        self._family = secrets.token_hex(16)
        self._log: deque[str] = deque(maxlen=50)
        self._announced: asyncio.Future[dict[str, Any]] = asyncio.get_running_loop().create_future()
        self._spawning: asyncio.Task[asyncio.SubprocessTransport] | None = None
        self._stopping: asyncio.Task[None] | None = None
        self._finishing: asyncio.Task[None] | None = None
        self._transport: asyncio.SubprocessTransport | None = None
        self._endpoint: Endpoint | None = None
        self._health_path: str | None = None

    @property
    def log_tail(self) -> tuple[str, ...]:
        """The last 50 lines that the family wrote on stderr."""
        return tuple(self._log)

    @property
    def pid(self) -> int | None:
        """The supervisor's pid; ``None`` before it runs and after it ended."""
        return None if self._transport is None or self.exited.done() else self._transport.get_pid()

    @property
    def pids(self) -> tuple[int, ...]:
        """The pids of the outer supervisor and all its descendants (Linux; elsewhere only its own)."""
        return () if self.pid is None else descendants(self.pid)

    async def start(self) -> Endpoint:
        """Starts the family and returns once the engine serves.

        Raises :class:`EngineFailed` if it says why it cannot, exits, or takes longer than ``start_timeout``. Nothing
        is left running then, nor when the caller is cancelled.
        """
        assert self._spawning is None, "an engine is started once"
        key = secrets.token_urlsafe(32)
        self._spawning = asyncio.create_task(self._spawn(key), name=f"spawn {self.name}")
        try:
            async with asyncio.timeout(self._spec.start_timeout):
                return await self._wait_serving(key)
        except TimeoutError as exc:
            await self.stop()
            cause = f"did not serve within {self._spec.start_timeout:g} s"
            raise self._failed(f"the engine of model '{self.name}' {cause}") from exc
        except OSError as exc:
            await self.stop()
            raise self._failed(f"the engine of model '{self.name}' cannot be started: {exc}") from exc
        except BaseException:
            await self.stop()
            raise

    async def health(self, within: float) -> int:
        """The status of its health check; 0 if it does not answer ``within`` so many seconds."""
        if self._endpoint is None or self.exited.done():
            return 0
        try:
            async with asyncio.timeout(within):
                return await _health(self._endpoint, self._health_path)
        except (OSError, TimeoutError, ValueError):  # ValueError: its answer is no HTTP at all
            return 0

    async def stop(self) -> None:
        """Ends the family; returns once it has ended. Continues when the caller is cancelled; may be called again."""
        if self._stopping is None:
            self._stopping = asyncio.create_task(self._end(), name=f"end {self.name}")
        await asyncio.shield(self._stopping)

    async def _spawn(self, key: str) -> asyncio.SubprocessTransport:
        extra = {**self._spec.environment, "SAGE_ENGINE_KEY": key, _FAMILY: self._family}
        supervisor = (sys.executable, "-I", "-S", str(_SUPERVISOR), str(self._grace))
        transport, _ = await asyncio.get_running_loop().subprocess_exec(
            lambda: _Pipes(self),
            *supervisor,
            *self._spec.command,
            env=engine_environment(os.environ, extra),
            start_new_session=True,  # a Ctrl-C in the terminal is ours to handle: engines end after the drain
        )
        self._transport = transport
        return transport

    async def _wait_serving(self, key: str) -> Endpoint:
        assert self._spawning is not None
        await asyncio.shield(self._spawning)
        await asyncio.wait((self._announced, self.exited), return_when=asyncio.FIRST_COMPLETED)
        if not self._announced.done():
            status = describe_status(self.exited.result())
            raise self._failed(f"the engine of model '{self.name}' {status} before it served")
        announcement = self._announced.result()
        if "error" in announcement:
            await asyncio.wait((self.exited,), timeout=self._grace)  # it exits by itself: a signal would cut its log
            await self.stop()
            raise self._failed(str(announcement["error"]) + self._cause(announcement.get("log_mark")))
        base_url, socket = str(announcement["base_url"]).rstrip("/"), announcement.get("socket")
        endpoint = Endpoint(base_url, {"Authorization": f"Bearer {key}"}, socket)
        self._health_path = announcement.get("health")
        status_code = await _health(endpoint, self._health_path)
        if status_code != 200:
            raise self._failed(f"the engine of model '{self.name}' answered its health check with {status_code}")
        self._endpoint = endpoint
        return endpoint

    async def _end(self) -> None:
        if self._spawning is None:
            return
        try:
            transport = await self._spawning
        except OSError:
            self._set_exited(127)  # it never ran
            return
        for end in (transport.terminate, transport.kill):
            if not self.exited.done():
                with contextlib.suppress(ProcessLookupError):
                    end()
                await asyncio.wait((self.exited,), timeout=self._grace + 5)

    def _cause(self, mark: object) -> str:
        """What follows ``mark`` in the first line of the log that holds it: the cause, in the words of the engine."""
        if not isinstance(mark, str) or not mark:
            return ""
        causes = [line.partition(mark)[2].strip() for line in self._log if mark in line]
        return f": {causes[0]}" if causes else "; the engine's log may tell why"

    def _failed(self, message: str) -> EngineFailed:
        return EngineFailed(message, self.log_tail)

    # Called by `_Pipes`, with output and with the end of the supervisor

    def _on_stdout_line(self, line: str) -> None:
        """The announcement, or else a line for the log."""
        try:
            value = json.loads(line) if line.startswith("{") else None
        except ValueError:
            value = None
        if not self._announced.done() and isinstance(value, dict) and ("base_url" in value or "error" in value):
            self._announced.set_result(value)
        elif line:
            self._log.append(line)

    def _on_stderr_lines(self, lines: list[str]) -> None:
        self._log.extend(lines)

    def _on_exit(self, pipes: _Pipes) -> None:
        self._finishing = asyncio.ensure_future(self._finish(pipes))

    async def _finish(self, pipes: _Pipes) -> None:
        status = pipes.status()
        if status < 0:  # the supervisor itself was killed, so it could not end the descendants of the engine
            await asyncio.to_thread(kill_marked, f"{_FAMILY}={self._family}".encode())
        await asyncio.wait((pipes.closed,), timeout=1)
        pipes.close()
        self._set_exited(status)

    def _set_exited(self, status: int) -> None:
        if not self.exited.done():
            self.exited.set_result(status)


class _Pipes(asyncio.SubprocessProtocol):
    """Reads a family's stdout and stderr as they come, so that no pipe fills up."""

    def __init__(self, engine: Engine) -> None:
        self.closed: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._engine = engine
        self._lines = {1: LineSplitter(_ANNOUNCEMENT), 2: LineSplitter(_LINE)}
        self._transport: asyncio.SubprocessTransport | None = None

    def status(self) -> int:
        assert self._transport is not None
        return self._transport.get_returncode() or 0

    def close(self) -> None:
        assert self._transport is not None
        self._transport.close()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.SubprocessTransport, transport)  # uvloop's is one but does not derive from it

    def pipe_data_received(self, fd: int, data: bytes) -> None:
        self._pass_on(fd, self._lines[fd].feed(data))

    def pipe_connection_lost(self, fd: int, exc: Exception | None) -> None:
        if fd in self._lines:
            self._pass_on(fd, self._lines.pop(fd).flush())
        if not self._lines and not self.closed.done():
            self.closed.set_result(None)

    def process_exited(self) -> None:
        self._engine._on_exit(self)

    def _pass_on(self, fd: int, lines: list[str]) -> None:
        if fd == 2:
            self._engine._on_stderr_lines(lines)
        else:
            for line in lines:
                self._engine._on_stdout_line(line)


async def _health(endpoint: Endpoint, path: str | None = None) -> int:
    """The status of ``GET /health``, or of ``path``; raises :class:`OSError` if there is no answer in HTTP."""
    parts = urlsplit(endpoint.base_url)
    if parts.scheme != "http" or parts.hostname not in _LOOPBACK or (parts.port is None and endpoint.socket is None):
        raise OSError(f"it announced '{endpoint.base_url}', which is no http:// address on loopback with a port")
    if endpoint.socket is not None:
        reader, writer = await asyncio.open_unix_connection(endpoint.socket)
    else:
        reader, writer = await asyncio.open_connection(parts.hostname, parts.port)
    try:
        head = f"GET {path or parts.path + '/health'} HTTP/1.1\r\nHost: {parts.netloc}\r\nConnection: close\r\n"
        fields = "".join(f"{name}: {value}\r\n" for name, value in endpoint.headers.items())
        writer.write(f"{head}{fields}\r\n".encode())
        words = (await reader.readline()).split()
        if len(words) < 2 or not words[0].startswith(b"HTTP/") or not words[1].isdigit():
            raise OSError("its health check was not answered in HTTP")
        return int(words[1])
    finally:
        writer.close()
