"""The way to an MCP server over streamable HTTP: to checked addresses only, and no more bytes than a bound."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager
from typing import Any

import httpx2
from mcp.client.streamable_http import streamable_http_client

from sage.addresses import AllowedHosts, parse_url
from sage.middleware.settings.mcp import HOSTS, McpServerSettings

_LOOPBACK = ("127.0.0.0/8", "::1")


def allowed_hosts(url: str, others: Iterable[str]) -> AllowedHosts:
    """The hosts of a server at ``url``: its own, and the addresses that names may have beside public ones."""
    parts = parse_url(url)
    host = f"[{parts.host}]" if ":" in parts.host else parts.host
    own = [f"{host}:{parts.port}"]
    if parts.host == "localhost":
        own += [f"127.0.0.0/8:{parts.port}", f"[::1]:{parts.port}"]
    return AllowedHosts([*own, *others], HOSTS)


class PinnedTransport(httpx2.AsyncBaseTransport):
    """Connects to the addresses of ``hosts`` and to no others, whatever a name server or a redirect says.

    A ``GET``, by which a server could speak unasked, is answered here: the gateway asks for the list of tools itself.
    """

    def __init__(self, hosts: AllowedHosts, most: int) -> None:
        """``most`` bytes are taken of one answer."""
        self._hosts = hosts
        self._most = most
        self._inner = httpx2.AsyncHTTPTransport(trust_env=False)

    async def handle_async_request(self, request: httpx2.Request) -> httpx2.Response:
        if request.method == "GET":
            return httpx2.Response(405, request=request)
        destination = await self._hosts.resolve(str(request.url))
        failure: Exception | None = None
        for address in destination.addresses:
            request.extensions = {**request.extensions, "sni_hostname": destination.url.host}
            request.url = request.url.copy_with(host=str(address))
            try:
                response = await self._inner.handle_async_request(request)
            except (httpx2.ConnectError, httpx2.ConnectTimeout) as exc:
                failure = exc
                continue
            response.stream = BoundedStream(response.stream, self._most)
            return response
        raise failure or httpx2.ConnectError(f"'{destination.url.host}' has no address")

    async def aclose(self) -> None:
        await self._inner.aclose()


class AnswerTooLong(httpx2.StreamError):
    """An answer has more bytes than are taken. Of this sort of error the SDK makes an error of the one call; others end
    the connection, and with it the calls of everybody else."""


class BoundedStream(httpx2.AsyncByteStream):
    """The bytes of an answer; raises :class:`AnswerTooLong` once there are more than ``most``."""

    def __init__(self, inner: Any, most: int) -> None:
        self._inner = inner
        self._most = most

    async def __aiter__(self) -> AsyncIterator[bytes]:
        total = 0
        async for data in self._inner:
            total += len(data)
            if total > self._most:
                raise AnswerTooLong(f"the answer has more than {self._most} bytes")
            yield data

    async def aclose(self) -> None:
        await self._inner.aclose()


@asynccontextmanager
async def http_streams(settings: McpServerSettings, hosts: Iterable[str], most: int) -> AsyncIterator[Any]:
    """The streams of messages from and to the server."""
    assert settings.url is not None
    headers = {name: value.get_secret_value() for name, value in settings.headers.items()}
    timeout = httpx2.Timeout(settings.timeout, connect=settings.connect_timeout)
    transport = PinnedTransport(allowed_hosts(settings.url, hosts), most)
    async with (
        httpx2.AsyncClient(transport=transport, headers=headers, timeout=timeout, trust_env=False) as client,
        streamable_http_client(settings.url, http_client=client, max_sse_event_size=most) as streams,
    ):
        yield streams
