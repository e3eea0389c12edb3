"""``sage flower``: Flower, the web page of Celery's workers and tasks, behind the gateway's login."""

from __future__ import annotations

import hmac
import logging
import os
import secrets
import signal
import socket
import sys
from typing import TYPE_CHECKING, Annotated, Any

import typer

from sage.errors import ConfigError, MissingExtra
from sage.middleware.cli.config import ConfigFile
from sage.middleware.cli.language.catalogue import _
from sage.middleware.settings.reading import find_config, load_settings
from sage.middleware.settings.settings import LOOPBACK, Settings

if TYPE_CHECKING:
    from sage.middleware.gateway.flower_access import FlowerAccess

_PREFIX = "flower"
_MAX_TASKS = 20_000
"""Tasks that it remembers; Flower's own default, five times as many, takes some hundred MB."""
_CONNECTIONS = 64
"""To the broker. Flower asks workers on some dozen threads, each of which needs two: with fewer they would wait for
each other for ever."""
_EVERYWHERE = {"0.0.0.0": "127.0.0.1", "::": "::1"}  # noqa: S104 (how they are reached from here)


def flower_command(
    config: ConfigFile = None,
    host: Annotated[
        str,
        typer.Option(
            metavar="ADDRESS",
            help="The address to listen on. Beyond this machine only with queue.flower.password in the configuration.",
        ),
    ] = "127.0.0.1",
    port: Annotated[
        int, typer.Option(metavar="PORT", help="The port to listen on; 0 takes a free one.", min=0, max=65535)
    ] = 5555,
) -> None:
    """Run Flower, the page that shows workers and tasks, until Ctrl-C.

    The gateway shows it to admins at /flower. Flower itself answers nobody but the gateway.
    """
    settings = load_settings(find_config(config, os.environ), os.environ)
    _refuse_open(settings, host)
    # Imported here: no other command needs them.
    from sage.middleware.gateway.flower_access import announce_flower, new_access
    from sage.middleware.queue.celery_app import make_celery_app

    with announce_flower(settings.data_dir) as announcement:
        server = _FlowerServer(make_celery_app(settings.queue, settings.data_dir))
        url = _url(host, server.listen(host, port))
        access = new_access(settings.queue.flower, url)
        server.require(access)
        announcement.write(access)
        typer.echo(_("Flower listens on {url}; the gateway shows it to admins at /flower").format(url=url))
        status = server.run()
    sys.stdout.flush()
    os._exit(status)  # its threads may wait for a broker that does not answer, and would be waited for


def _refuse_open(settings: Settings, host: str) -> None:
    """Raises :class:`ConfigError` where Flower would be open to others."""
    if host not in LOOPBACK and settings.queue.flower.password is None:
        raise ConfigError(
            f"Flower beyond this machine ('{host}') needs a password that the gateway knows too: set "
            "queue.flower.password, and queue.flower.url for the gateway; openssl rand -hex 24 makes one"
        )
    if os.environ.get("FLOWER_UNAUTHENTICATED_API"):
        raise ConfigError(
            "FLOWER_UNAUTHENTICATED_API is set: it would open Flower's API to everyone; unset it, the gateway logs in"
        )


class _FlowerServer:
    """Flower in this process, set up here alone: it reads no ``FLOWER_…`` variables and no ``flowerconfig.py``.

    Raises :class:`MissingExtra` when it is not installed.
    """

    def __init__(self, app: Any) -> None:
        try:
            from flower.app import Flower
            from flower.urls import settings
            from tornado.options import options
            from tornado.web import ErrorHandler
        except ImportError as exc:
            raise MissingExtra("'sage flower'", "queue") from exc

        class GuardedFlower(Flower):  # type: ignore[misc]
            """Asks for the password before all else: Flower itself leaves its metrics open."""

            authorization = secrets.token_urlsafe()  # which nobody knows

            def find_handler(self, request: Any, **rest: Any) -> Any:
                given = request.headers.get("Authorization", "")
                if not hmac.compare_digest(given.encode(), self.authorization.encode()):
                    return self.get_handler_delegate(request, ErrorHandler, {"status_code": 401})
                return super().find_handler(request, **rest)

        for name in ("tornado.access", "flower"):
            logging.getLogger(name).setLevel(logging.ERROR)  # else a warning for each page that is not there
        app.conf.broker_pool_limit = _CONNECTIONS
        options.url_prefix = _PREFIX
        options.max_tasks = _MAX_TASKS
        options.basic_auth = ["nobody:"]  # until there is a password; nothing is answered before :meth:`run`
        self._options = options
        pages = {"static_url_prefix": f"/{_PREFIX}/static/", "login_url": f"/{_PREFIX}/login", "debug": False}
        self._flower = GuardedFlower(capp=app, options=options, **{**settings, **pages})

    def listen(self, host: str, port: int) -> int:
        """Takes the port; returns it. Raises :class:`ConfigError` when it cannot be had."""
        self._options.address, self._options.port = host, port
        try:
            bound: int = self._flower.start_http_server()
        except (OSError, socket.gaierror) as exc:
            raise ConfigError(f"cannot listen on {host}:{port}: {exc.strerror or exc}") from exc
        return bound

    def require(self, access: FlowerAccess) -> None:
        """Answers only requests with that user and password."""
        self._options.basic_auth = [f"{access.user}:{access.password}"]
        self._flower.authorization = access.authorization

    def run(self) -> int:
        """Serves until SIGTERM or Ctrl-C; returns the status for the shell."""
        loop, events = self._flower.io_loop, self._flower.events
        note = events.on_event

        def on_event(event: dict[str, Any]) -> None:
            note(event)
            if event["type"] == "worker-online":
                loop.add_callback(events.on_enable_events)

        # Flower asks workers to tell of their tasks every five seconds only, and would miss those until then.
        events.on_event = on_event
        loop.add_callback(events.on_enable_events)
        signal.signal(signal.SIGTERM, lambda *_: loop.add_callback_from_signal(self._flower.stop))
        try:
            self._flower.start()
        except KeyboardInterrupt:
            return 130
        finally:
            self._flower.stop()
        return 0


def _url(host: str, port: int) -> str:
    name = _EVERYWHERE.get(host, host)
    return f"http://[{name}]:{port}" if ":" in name else f"http://{name}:{port}"
