"""One address for several processes: each has a socket of its own, and the kernel deals the connections out."""

from __future__ import annotations

import math
import socket
import sys

from sage.errors import ConfigError
from sage.middleware.app.gateway_server import bind
from sage.middleware.settings.settings import Api, Settings
from sage.processors import available_processors

_FEW = 4
"""Workers that may run anywhere, also where there are fewer processors."""


def check_workers(count: int) -> None:
    """Raises :class:`ConfigError` for more workers than there can be, or than make sense here."""
    if count == 1:
        return
    if sys.platform == "win32" or not hasattr(socket, "SO_REUSEPORT"):
        raise ConfigError(f"api.workers: {count} need SO_REUSEPORT, which this system does not have; use 1")
    processors = available_processors()
    most = max(_FEW, 2 * processors)
    if count > most:
        raise ConfigError(f"api.workers: {count} are more than make sense on {processors} processor(s): at most {most}")


def bind_all(host: str, port: int, count: int) -> list[socket.socket]:
    """``count`` listening sockets at one address; raises :class:`ConfigError` as :func:`bind`."""
    if count == 1:
        return [bind(host, port)]
    # Without the option first: else two gateways would share one port without a word.
    with bind(host, port) as alone:
        port = alone.getsockname()[1]
    sockets: list[socket.socket] = []
    try:
        while len(sockets) < count:
            sockets.append(bind(host, port, shared=True))
    except ConfigError:
        for sock in sockets:
            sock.close()
        raise
    return sockets


def share_of(settings: Settings, workers: int) -> Settings:
    """``settings`` for one of so many workers, among whom connections are divided.

    The kernel deals them out by a hash, never evenly: a share has room for what that gives to one worker in all but
    one of some 30,000 cases (four standard deviations), so that no client is refused below the limit. All shares
    together are somewhat more than the limit.
    """
    if workers == 1:
        return settings
    api = settings.api
    per_address = api.max_connections_per_address or max(1, api.max_connections // 2)
    share: Api = api.model_copy(
        update={
            "max_connections": _share(api.max_connections, workers),
            "max_connections_per_address": _share(per_address, workers),
        }
    )
    return settings.model_copy(update={"api": share})


def _share(connections: int, workers: int) -> int:
    mean = connections / workers
    return min(connections, math.ceil(mean + 4 * math.sqrt(mean * (1 - 1 / workers))))
