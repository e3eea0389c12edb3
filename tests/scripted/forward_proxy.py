"""A small forward proxy on loopback: ``CONNECT`` tunnels, and requests in absolute form. All names lead to one port."""

from __future__ import annotations

import asyncio
import base64
import contextlib
from dataclasses import dataclass

from raw_server import RawServer


@dataclass(frozen=True)
class Proxied:
    """One request as the proxy got it: ``target`` is ``host:port`` of a tunnel, else the absolute URL."""

    method: str
    target: str
    headers: dict[str, str]


class ForwardProxy(RawServer):
    """Whatever a client wants to reach is at ``port`` of 127.0.0.1.

    With a ``password`` it answers 407 to whoever is not ``name`` with that password; with ``refuses`` it answers that
    status to every tunnel.
    """

    def __init__(self, port: int, *, password: str | None = None, refuses: int | None = None) -> None:
        super().__init__()
        self.seen: list[Proxied] = []
        self._upstream = port
        self._password = password
        self._refuses = refuses

    @property
    def address(self) -> str:
        return f"127.0.0.1:{self.port}"

    @property
    def url(self) -> str:
        return f"http://{self.address}"

    async def connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Serves one connection: each of its requests goes to the upstream over one connection of its own."""
        upstream: tuple[asyncio.StreamReader, asyncio.StreamWriter] | None = None
        pumping: asyncio.Task[None] | None = None
        try:
            while True:
                head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1")
                request = self._read(head)
                self.seen.append(request)
                status = self._fault(request)
                if status is not None:
                    writer.write(b"HTTP/1.1 %d Refused\r\nContent-Length: 0\r\nConnection: close\r\n\r\n" % status)
                    await writer.drain()
                    return
                if upstream is None:
                    upstream = await asyncio.open_connection("127.0.0.1", self._upstream)
                    if request.method == "CONNECT":
                        writer.write(b"HTTP/1.1 200 Connection established\r\n\r\n")
                    pumping = asyncio.ensure_future(_pump(upstream[0], writer))
                if request.method == "CONNECT":
                    await _pump(reader, upstream[1])
                    return
                path = "/" + request.target.split("/", 3)[3]
                lines = [line for line in head.split("\r\n")[1:] if not line.lower().startswith("proxy-")]
                upstream[1].write(f"{request.method} {path} HTTP/1.1\r\n".encode())
                upstream[1].write("\r\n".join(lines).encode("latin-1"))
                upstream[1].write(await reader.readexactly(int(request.headers.get("content-length", "0"))))
        finally:
            if upstream is not None:
                upstream[1].close()  # before anything is waited for, which may be cancelled
            if pumping is not None:
                pumping.cancel()
                await asyncio.gather(pumping, return_exceptions=True)

    def _read(self, head: str) -> Proxied:
        first, *lines = head.split("\r\n")
        method, target, _ = first.split(" ")
        headers = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in lines if line)}
        return Proxied(method, target, headers)

    def _fault(self, request: Proxied) -> int | None:
        if self._password is not None:
            wanted = base64.b64encode(f"name:{self._password}".encode()).decode()
            if request.headers.get("proxy-authorization") != f"Basic {wanted}":
                return 407
        return self._refuses if request.method == "CONNECT" else None


async def _pump(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    with contextlib.suppress(ConnectionError):
        while data := await reader.read(65536):
            writer.write(data)
            await writer.drain()
    writer.close()
