"""How our client finds a host: names, both families, and what it says if there is none."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import struct
import time
from collections.abc import Callable
from typing import Any

import pytest
import uvloop
from raw_server import Connections, RawServer

from sage.errors import UpstreamFailed
from sage.middleware.providers.base import UpstreamRequest
from sage.middleware.providers.http.transport import HttpTransport
from sage.middleware.providers.transport import sending
from sage.middleware.settings.providers import Timeouts


def can_bind(host: str) -> bool:
    with socket.socket(socket.AF_INET6) as sock, contextlib.suppress(OSError):
        sock.bind((host, 0))
        return True
    return False


ADDRESSES = ["127.0.0.1", *(["::1"] if can_bind("::1") else [])]


async def serve_once(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    await reader.readuntil(b"\r\n\r\n")
    writer.write(b"HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 2\r\n\r\nok")
    await writer.drain()


async def ask(transport: HttpTransport, url: str) -> bytes:
    async with sending(transport, UpstreamRequest("up", "GET", url, {}, b"", Timeouts(connect=5.0))) as response:
        return await response.read()


def run(host: str, work: Callable[[HttpTransport, int], Any], names: dict[str, list[str]] | None = None) -> list[str]:
    """Runs ``work`` beside a server at ``host``; ``names`` are all that there are. Returns the names looked up."""
    looked_up: list[str] = []

    async def getaddrinfo(name: str, port: int, **_: Any) -> list:
        looked_up.append(name)
        await asyncio.sleep(0.01)
        if name not in (names or {}):
            raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")
        families = [(socket.AF_INET6 if ":" in address else socket.AF_INET, address) for address in names[name]]
        return [(family, socket.SOCK_STREAM, socket.IPPROTO_TCP, "", (address, port)) for family, address in families]

    async def main() -> None:
        asyncio.get_running_loop().getaddrinfo = getaddrinfo
        connections, transport = Connections(serve_once), HttpTransport()
        sock = socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET)
        sock.bind((host, 0))
        server = await asyncio.start_server(connections.accept, sock=sock)
        try:
            await work(transport, sock.getsockname()[1])
        finally:
            await transport.close()
            server.close()
            await connections.end()

    asyncio.run(main())
    return looked_up


@pytest.mark.parametrize("host", ADDRESSES)
def test_an_address_is_asked_without_looking_it_up(host: str) -> None:
    async def work(transport: HttpTransport, port: int) -> None:
        assert await ask(transport, f"http://[{host}]:{port}/" if ":" in host else f"http://{host}:{port}/") == b"ok"

    assert run(host, work) == []


@pytest.mark.parametrize("host", ADDRESSES)
def test_of_a_hosts_addresses_the_one_that_listens_answers(host: str) -> None:
    async def work(transport: HttpTransport, port: int) -> None:
        for _ in range(4):  # each time another is the first
            assert await ask(transport, f"http://both.example:{port}/") == b"ok"

    assert run(host, work, {"both.example": ["::1", "127.0.0.1"]}) == ["both.example"]


def test_one_lookup_serves_all_that_wait_for_it_even_if_the_first_leaves() -> None:
    async def work(transport: HttpTransport, port: int) -> None:
        url = f"http://one.example:{port}/"
        first = asyncio.ensure_future(ask(transport, url))
        others = [asyncio.ensure_future(ask(transport, url)) for _ in range(5)]
        await asyncio.sleep(0)
        first.cancel()
        assert await asyncio.gather(*others) == [b"ok"] * 5

    assert run("127.0.0.1", work, {"one.example": ["127.0.0.1"]}) == ["one.example"]


@pytest.mark.parametrize("host", ["none.example", "x" * 64 + "ü.example"])
def test_a_name_that_is_not_known_is_told_and_looked_up_again(host: str) -> None:
    async def work(transport: HttpTransport, port: int) -> None:
        for _ in range(2):
            with pytest.raises(UpstreamFailed, match="there is no such host") as caught:
                await ask(transport, f"http://{host}:{port}/")
            assert caught.value.code == "connect_failed"

    assert run("127.0.0.1", work) in (["none.example"] * 2, [])


def test_a_name_beyond_ascii_is_looked_up_as_name_servers_know_it() -> None:
    async def work(transport: HttpTransport, port: int) -> None:
        assert await ask(transport, f"http://bücher.example:{port}/") == b"ok"

    assert run("127.0.0.1", work, {"xn--bcher-kva.example": ["127.0.0.1"]}) == ["xn--bcher-kva.example"]


@pytest.mark.parametrize("loop_factory", [asyncio.new_event_loop, uvloop.new_event_loop])
def test_a_server_that_hangs_up_at_once_has_not_answered(loop_factory: Callable) -> None:
    """Perhaps before the task that asked for the connection goes on."""

    async def hang_up(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        linger = struct.pack("ii", 1, 0)
        writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
        writer.transport.abort()

    async def main() -> set[str]:
        connections, transport = Connections(hang_up), HttpTransport()
        server = await asyncio.start_server(connections.accept, "127.0.0.1", 0)
        url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/"
        try:
            asked = await asyncio.gather(*(ask(transport, url) for _ in range(100)), return_exceptions=True)
        finally:
            await transport.close()
            server.close()
            await connections.end()
        return {str(error) for error in asked}

    with asyncio.Runner(loop_factory=loop_factory) as runner:
        assert runner.run(main()) == {"the provider 'up' did not answer"}


@pytest.mark.slow
@pytest.mark.parametrize("loop_factory", [asyncio.new_event_loop, uvloop.new_event_loop])
def test_an_upstream_is_not_blamed_for_a_busy_event_loop(loop_factory: Callable) -> None:
    """Loops look at their timers before their sockets: the limits are over, but so is what they are for."""

    class Prompt(RawServer):
        async def connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            await reader.readuntil(b"\r\n\r\n")
            writer.write(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n0\r\n\r\n")
            await writer.drain()
            await reader.read()

    async def main(port: int) -> bytes:
        transport = HttpTransport()
        limits = Timeouts(connect=0.2, first_byte=0.2, between_chunks=0.2)
        asking = asyncio.ensure_future(
            transport.send(UpstreamRequest("up", "GET", f"http://127.0.0.1:{port}/", {}, b"", limits))
        )
        while not asking.done():
            await asyncio.sleep(0)
            time.sleep(0.35)
        body = await (await asking).read()
        await transport.close()
        return body

    with Prompt() as server, asyncio.Runner(loop_factory=loop_factory) as runner:
        assert runner.run(main(server.port)) == b"ok"


def test_why_none_of_several_addresses_answers_is_told() -> None:
    async def work(transport: HttpTransport, port: int) -> None:
        with pytest.raises(UpstreamFailed) as caught:
            await ask(transport, f"http://both.example:{port}/")
        assert caught.value.message == f"the provider 'up' cannot be reached at both.example:{port}: Connection refused"

    run("127.0.0.1", work, {"both.example": ["127.0.0.2", "::1"]})
