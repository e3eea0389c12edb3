"""Connections to the addresses that were checked, and to no others (see :mod:`sage.addresses`)."""

from __future__ import annotations

import socket

import aiohttp
from aiohttp.abc import AbstractResolver, ResolveResult

from sage.addresses import Destination


class PinnedResolver(AbstractResolver):
    """Answers an aiohttp connector with the addresses of one destination, and asks nobody."""

    def __init__(self, destination: Destination) -> None:
        self._destination = destination

    async def resolve(
        self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_UNSPEC
    ) -> list[ResolveResult]:
        if host.lower().rstrip(".") != self._destination.url.host:
            raise OSError(f"'{host}' is not the host that was checked")
        return [
            ResolveResult(
                hostname=host,
                host=str(address),
                port=port,
                family=socket.AF_INET if address.version == 4 else socket.AF_INET6,
                proto=0,
                flags=socket.AI_NUMERICHOST,
            )
            for address in self._destination.addresses
        ]

    async def close(self) -> None:
        """Nothing is open."""


def pinned_session(destination: Destination) -> aiohttp.ClientSession:
    """A session for one request to ``destination``: without proxies and ``.netrc``, cookies, decompression, and time
    limits of its own. The request has to refuse redirects."""
    return aiohttp.ClientSession(
        connector=aiohttp.TCPConnector(resolver=PinnedResolver(destination), use_dns_cache=False, force_close=True),
        auto_decompress=False,
        cookie_jar=aiohttp.DummyCookieJar(),
        timeout=aiohttp.ClientTimeout(total=None),
        trust_env=False,
    )
