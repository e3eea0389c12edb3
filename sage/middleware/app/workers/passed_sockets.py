"""Sockets that one process hands to another over a Unix socket (``SCM_RIGHTS``).

So a front gets connections to its owner without an address that others could connect to: there is no path, and nothing
to authenticate.
"""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable

_AT_ONCE = 64


async def pass_socket(over: socket.socket, passed: socket.socket) -> None:
    """Sends ``passed`` over ``over``, which does not block; the receiver has a descriptor of its own then.

    Raises :class:`OSError` when the other process is gone.
    """
    loop = asyncio.get_running_loop()
    while True:
        try:
            socket.send_fds(over, [b"s"], [passed.fileno()])
        except BlockingIOError:
            await _writable(loop, over)
        else:
            return


async def _writable(loop: asyncio.AbstractEventLoop, sock: socket.socket) -> None:
    ready = loop.create_future()
    loop.add_writer(sock, _set, ready)
    try:
        await ready
    finally:
        loop.remove_writer(sock)


def _set(ready: asyncio.Future[None]) -> None:
    if not ready.done():
        ready.set_result(None)


class PassedSockets:
    """Takes the sockets that come over ``over``, until it is closed."""

    def __init__(self, over: socket.socket, taken: Callable[[socket.socket], None]) -> None:
        self._over = over
        self._taken = taken
        self._loop = asyncio.get_running_loop()
        over.setblocking(False)
        self._loop.add_reader(over, self._read)

    def _read(self) -> None:
        for _ in range(_AT_ONCE):
            try:
                data, descriptors, _, _ = socket.recv_fds(self._over, 1, 1)
            except BlockingIOError:
                return
            except OSError:
                data, descriptors = b"", []
            for descriptor in descriptors:
                self._taken(socket.socket(fileno=descriptor))
            if not data:
                self.close()
                return

    def close(self) -> None:
        if self._over.fileno() >= 0:
            self._loop.remove_reader(self._over)
            self._over.close()
