"""HTTP of a service that does not serve: for the workers of its jobs, and for nobody else."""

from __future__ import annotations

import asyncio
import secrets
import socket
import threading
from concurrent.futures import Future
from contextlib import ExitStack
from pathlib import Path

from sage.errors import ConfigError
from sage.middleware.app.gateway_server import GatewayServer, bind
from sage.middleware.app.main import create_app
from sage.middleware.app.server import make_server
from sage.middleware.llm.gateway_thread import GatewayThread
from sage.middleware.queue.leader import Leader
from sage.middleware.settings.settings import Settings

_HOST = "127.0.0.1"


class PrivateServer:
    """Serves the gateway of ``running`` on a free port of loopback, to those that have :attr:`secret`, who are the user
    ``local``. Jobs that are left from an earlier run go on with its start."""

    def __init__(self, settings: Settings, running: GatewayThread) -> None:
        """Raises :class:`ConfigError` when another gateway has the jobs of the data directory."""
        _check_free(settings.data_dir)
        api = settings.api.model_copy(update={"host": _HOST, "port": 0, "access_log": False, "shutdown_grace": 0.5})
        settings = settings.model_copy(update={"api": api, "auth": settings.auth.model_copy(update={"enabled": False})})
        self.secret = secrets.token_urlsafe(32)
        """The credential of its callers."""
        with ExitStack() as undo:
            sock, ready = undo.enter_context(bind(_HOST, 0)), threading.Event()
            self.url = f"http://{_HOST}:{sock.getsockname()[1]}"
            app = create_app(settings, gateway=running.gateway, secret=self.secret)
            self._server = make_server(app, settings, ready.set)
            self._serving: Future[None] = running.submit(_serve(self._server, sock))
            self._serving.add_done_callback(lambda _: ready.set())
            ready.wait()
            if self._serving.done():
                self._serving.result()
                raise ConfigError("the service could not serve the workers of its jobs")
            undo.pop_all()

    def close(self) -> None:
        """Ends it, and the worker; jobs that are not done wait for the next start."""
        self._server.should_exit = True
        self._serving.result()


def _check_free(data_dir: Path) -> None:
    """The gateway that has the jobs knows neither this program's user nor the models that it has registered."""
    lock = data_dir / "queue" / "leader.lock"
    if not lock.exists():
        return
    leader = Leader(lock)
    if not leader.try_lead():
        raise ConfigError(
            f"another gateway has the jobs in {data_dir}: submit to it with JobsClient() (SAGE_URL, SAGE_API_KEY), or "
            "take another data_dir (SAGE_DATA_DIR)"
        )
    leader.resign()


async def _serve(server: GatewayServer, sock: socket.socket) -> None:
    """Serves until the server is to end. When this is cancelled, the server still ends in order."""
    serving = asyncio.ensure_future(server.serve(sockets=[sock]))
    try:
        await asyncio.shield(serving)
    except asyncio.CancelledError:
        server.should_exit = True
        await serving
        raise
