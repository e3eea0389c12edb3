"""A gateway that nobody has used yet: its data directory is empty."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from running_gateway import LOW_COST

from sage.middleware.app.gateway_server import bind
from sage.middleware.app.main import create_app
from sage.middleware.app.server import make_server
from sage.middleware.settings.settings import Settings


@contextmanager
def run_fresh_gateway(data_dir: Path, **sections: Any) -> Iterator[str]:
    """Its address. It has no users: a set-up token is in ``data_dir``."""
    settings = Settings.model_validate({"data_dir": data_dir, "api": {"port": 0, "access_log": False}, **sections})
    sock = bind(settings.api.host, settings.api.port)
    ready = threading.Event()
    server = make_server(create_app(settings, hash_cost=LOW_COST), settings, ready.set)
    thread = threading.Thread(target=asyncio.run, args=[server.serve(sockets=[sock])])
    thread.start()
    try:
        assert ready.wait(30)
        yield f"http://127.0.0.1:{sock.getsockname()[1]}"
    finally:
        server.should_exit = True
        thread.join(30)
        sock.close()
    assert not thread.is_alive()
