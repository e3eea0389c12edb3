"""Real HTTP servers on free ports, for clients: uvicorn and hypercorn with an application that echoes, and nginx.

``/echo`` answers with the body, ``/chunks`` too, in chunks; ``/steps/NAME`` streams the body's lines, each once
``/go/NAME`` was asked; ``/half`` and ``/half/chunks`` break off. All end with their blocks.
"""

from __future__ import annotations

import asyncio
import os
import shutil
import subprocess
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import uvicorn
from ports import free_port, wait_for_port

Send = Any

_PIECE = 50_000


class EchoApp:
    """The ASGI application. It belongs to the loop of its server."""

    def __init__(self) -> None:
        self._steps: dict[str, asyncio.Semaphore] = {}

    async def __call__(self, scope: dict[str, Any], receive: Any, send: Send) -> None:
        if scope["type"] != "http":
            raise RuntimeError("only requests are answered")
        kind, _, name = scope["path"].strip("/").partition("/")
        body = await _read(receive)
        match kind:
            case "echo":
                await _start(send, 200, len(body))
                await send({"type": "http.response.body", "body": body})
            case "chunks":
                await _start(send, 200)
                for place in range(0, len(body), _PIECE):
                    await _more(send, body[place : place + _PIECE])
                await send({"type": "http.response.body"})
            case "steps":
                await self._step(send, name, body)
            case "go":
                self._gate(name).release()
                await _start(send, 204)
                await send({"type": "http.response.body"})
            case "half":
                await _start(send, 200, None if name else 2 * len(body))
                await _more(send, body)
                raise _BreaksOff

    def _gate(self, name: str) -> asyncio.Semaphore:
        return self._steps.setdefault(name, asyncio.Semaphore(0))

    async def _step(self, send: Send, name: str, body: bytes) -> None:
        await _start(send, 200)
        for line in body.splitlines(keepends=True):
            await _more(send, line)
            await self._gate(name).acquire()
        await send({"type": "http.response.body"})


class _BreaksOff(Exception):
    """The application fails in the middle of an answer, as it is told to."""


async def _read(receive: Any) -> bytes:
    parts, more = [], True
    while more:
        message = await receive()
        parts.append(message.get("body", b""))
        more = message.get("more_body", False)
    return b"".join(parts)


async def _start(send: Send, status: int, size: int | None = None) -> None:
    headers = [] if size is None else [(b"content-length", b"%d" % size)]
    await send({"type": "http.response.start", "status": status, "headers": headers})


async def _more(send: Send, data: bytes) -> None:
    await send({"type": "http.response.body", "body": data, "more_body": True})


@contextmanager
def uvicorn_server(keep_alive: float) -> Iterator[int]:
    """Its port. Idle connections are closed after ``keep_alive`` seconds."""
    port = free_port()
    config = uvicorn.Config(
        EchoApp(),
        port=port,
        lifespan="off",
        log_config=None,
        timeout_keep_alive=keep_alive,  # type: ignore[arg-type]
    )
    server = uvicorn.Server(config)
    server.install_signal_handlers = lambda: None  # type: ignore[attr-defined]
    thread = threading.Thread(target=server.run, name="uvicorn")
    thread.start()
    try:
        while not server.started:
            assert thread.is_alive()
            time.sleep(0.005)
        yield port
    finally:
        server.should_exit = True
        thread.join(20)
        assert not thread.is_alive()


@contextmanager
def hypercorn_server(keep_alive: float) -> Iterator[int]:
    """Its port. Idle connections are closed after ``keep_alive`` seconds."""
    from hypercorn.asyncio import serve
    from hypercorn.config import Config

    port = free_port()
    config = Config()
    config.bind = [f"127.0.0.1:{port}"]
    config.keep_alive_timeout = keep_alive
    config.errorlog = None
    loop = asyncio.new_event_loop()
    ended = asyncio.Event()

    def run() -> None:
        try:
            loop.run_until_complete(serve(EchoApp(), config, shutdown_trigger=ended.wait))  # type: ignore[arg-type]
        finally:
            loop.close()

    thread = threading.Thread(target=run, name="hypercorn")
    thread.start()
    try:
        wait_for_port(port)
        yield port
    finally:
        loop.call_soon_threadsafe(ended.set)
        thread.join(20)
        assert not thread.is_alive()


@dataclass(frozen=True)
class Nginx:
    port: int
    socket: str
    process: subprocess.Popen[bytes]


def nginx_program() -> str:
    """nginx. Without one the test fails in CI, and elsewhere is skipped."""
    program = shutil.which("nginx") or shutil.which("nginx", path="/usr/sbin:/usr/local/sbin")
    if program is None:
        reason = "this test needs nginx: apt-get install nginx"
        pytest.fail(reason, pytrace=False) if os.environ.get("CI") else pytest.skip(reason)
    return program


_CONFIGURATION = """
daemon off; master_process off; pid {directory}/nginx.pid; error_log {directory}/error.log warn;
events {{ worker_connections 256; }}
http {{
  access_log off; client_max_body_size 64m;
  client_body_temp_path {directory}/bodies; proxy_temp_path {directory}/proxied;
  fastcgi_temp_path {directory}/f; uwsgi_temp_path {directory}/u; scgi_temp_path {directory}/s;
  keepalive_timeout {keep_alive}ms; keepalive_requests 1000;
  upstream app {{ server 127.0.0.1:{app}; }}
  server {{
    listen 127.0.0.1:{port}; listen unix:{directory}/socket;
    location / {{ proxy_pass http://app; proxy_http_version 1.1; proxy_set_header Connection "";
                 proxy_buffering off; proxy_request_buffering off; }}
    location /files/ {{ root {directory}; gzip on; gzip_types text/plain; error_page 405 =200 $uri; }}
    location /refused/ {{ client_max_body_size 1k; return 200 "taken"; }}
    location /slow/ {{ root {directory}; limit_rate 100k; error_page 405 =200 $uri; }}
    location /few/ {{ keepalive_requests 3; return 200 "$connection_requests"; }}
  }}
}}
"""


@contextmanager
def nginx_server(directory: Path, keep_alive: float) -> Iterator[Nginx]:
    """nginx before a uvicorn; it serves the files in ``directory/files`` and, slowly, in ``directory/slow``."""
    with uvicorn_server(keep_alive=60) as app:
        port = free_port()
        configuration = directory / "nginx.conf"
        configuration.write_text(
            _CONFIGURATION.format(directory=directory, port=port, app=app, keep_alive=int(keep_alive * 1000))
        )
        command = [nginx_program(), "-p", str(directory), "-c", str(configuration), "-e", str(directory / "error.log")]
        process = subprocess.Popen(command, stdin=subprocess.DEVNULL)
        try:
            wait_for_port(port)
            yield Nginx(port, str(directory / "socket"), process)
        finally:
            process.kill()
            process.wait(10)
