"""Opens connections: looks names up, tries a host's addresses, IPv6 and IPv4 in turn, and speaks TLS."""

from __future__ import annotations

import asyncio
import itertools
import socket
import ssl
from functools import partial

from aiohappyeyeballs import AddrInfoType, start_connection

from sage.middleware.providers.http.address import Address
from sage.middleware.providers.http.connection import HttpConnection
from sage.middleware.providers.http.pool import ConnectionPool

_NAMES_LIVE = 60.0
"""Seconds for which the addresses of a name are remembered."""
_MOST_NAMES = 1000
_NEXT_ADDRESS = 0.25
"""Seconds after which the next address is tried beside the first (RFC 8305)."""


class NoSuchHost(OSError):
    """A name has no address."""


class Dialer:
    """Opens connections in one event loop; knows the names that it has looked up, for a minute."""

    def __init__(self) -> None:
        self._names: dict[tuple[str, int], tuple[float, asyncio.Task[list[AddrInfoType]]]] = {}
        self._turns = itertools.count()
        self._context: asyncio.Task[ssl.SSLContext] | None = None

    async def dial(self, pool: ConnectionPool) -> HttpConnection:
        """A new connection of ``pool``.

        Raises :class:`NoSuchHost`, :class:`ssl.SSLError` and :class:`OSError`.
        """
        loop, address = pool.loop, pool.address
        context = await self._tls() if address.is_tls else None
        name = address.host.rstrip(".") if context is not None else None
        connection = partial(HttpConnection, loop, pool)
        if address.socket is not None:
            path = address.socket
            _, made = await loop.create_unix_connection(connection, path, ssl=context, server_hostname=name)
            return made
        found = [] if address.is_literal else await self._addresses(address)
        if len(found) < 2:
            host, port = found[0][4][:2] if found else (address.host, address.port)
            _, made = await loop.create_connection(connection, str(host), int(port), ssl=context, server_hostname=name)
            return made
        sock = await start_connection(found, happy_eyeballs_delay=_NEXT_ADDRESS, loop=loop)
        try:
            _, made = await loop.create_connection(connection, sock=sock, ssl=context, server_hostname=name)
        except BaseException:
            sock.close()
            raise
        return made

    async def _addresses(self, address: Address) -> list[AddrInfoType]:
        """Where the host, which is a name, listens; another of its addresses is the first each time."""
        loop, key = asyncio.get_running_loop(), (address.host, address.port)
        expires, lookup = self._names.get(key, (0.0, None))
        if lookup is None or loop.time() >= expires or _has_failed(lookup):
            if len(self._names) >= _MOST_NAMES:
                self._names.clear()
            lookup = loop.create_task(_look_up(address))
            lookup.add_done_callback(_has_failed)  # somebody has looked, even if all who waited have left
            self._names[key] = loop.time() + _NAMES_LIVE, lookup
        found = await asyncio.shield(lookup)  # others wait for it, too
        turn = next(self._turns) % len(found)
        return found[turn:] + found[:turn]

    async def _tls(self) -> ssl.SSLContext:
        if self._context is None:
            self._context = asyncio.create_task(asyncio.to_thread(_make_context))
        return await asyncio.shield(self._context)


def _has_failed(lookup: asyncio.Task[list[AddrInfoType]]) -> bool:
    return lookup.done() and (lookup.cancelled() or lookup.exception() is not None)


async def _look_up(address: Address) -> list[AddrInfoType]:
    try:
        found = await asyncio.get_running_loop().getaddrinfo(address.host, address.port, type=socket.SOCK_STREAM)
    except (socket.gaierror, UnicodeError) as exc:
        raise NoSuchHost from exc
    if not found:
        raise NoSuchHost
    return list(found)


def _make_context() -> ssl.SSLContext:
    """Certificates and names are checked. It reads the system's authorities, which takes 20 ms."""
    context = ssl.create_default_context()
    context.set_alpn_protocols(["http/1.1"])
    return context
