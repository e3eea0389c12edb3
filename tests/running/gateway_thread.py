"""A gateway on an event loop in a thread, as collections meet it."""

from __future__ import annotations

import asyncio
import threading
from typing import Self

from sage.middleware.app.main import make_gateway
from sage.middleware.gateway.gateway import Gateway
from sage.middleware.settings.settings import Settings


class GatewayThread:
    """Runs within its ``with`` block, or until it is stopped."""

    def __init__(self, settings: Settings) -> None:
        self._gateway = make_gateway(settings)
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="gateway")

    def running_gateway(self) -> tuple[Gateway, asyncio.AbstractEventLoop]:
        return self._gateway, self._loop

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def stop(self) -> None:
        if not self._loop.is_closed():
            asyncio.run_coroutine_threadsafe(self._gateway.close(), self._loop).result(10)
            self._loop.call_soon_threadsafe(self._loop.stop)
            self._thread.join(10)
            self._loop.close()
