"""IPv4 and IPv6: names with addresses of both, of which one is dead, and addresses as they stand in URLs."""

from __future__ import annotations

import asyncio
import socket
import time
from collections.abc import Iterator, Sequence
from contextlib import AsyncExitStack, ExitStack, contextmanager
from typing import Any

import pytest
import uvloop
from raw_server import Connections
from transports import make_transport, on_each_transport

from sage.errors import SageError
from sage.middleware.providers.base import UpstreamRequest
from sage.middleware.settings.providers import Timeouts

FOUR, SIX = "127.0.0.1", "::1"
CONNECT = 1.5
"""Seconds; well above the quarter of one after which another address is tried."""


def has_ipv6() -> bool:
    """Whether this machine has IPv6 at all; some containers do not."""
    try:
        with socket.socket(socket.AF_INET6) as found:
            found.bind((SIX, 0))
    except OSError:
        return False
    return True


pytestmark = pytest.mark.skipif(not has_ipv6(), reason="this machine has no IPv6")


class NamesLoop(uvloop.Loop):
    """The gateway's loop, in which the name ``both.example`` has the addresses of a test, in its order."""

    def __init__(self) -> None:
        super().__init__()
        self.addresses: Sequence[str] = ()
        self.looked_up = 0

    async def getaddrinfo(self, host: Any, port: Any, **kwargs: Any) -> list[Any]:
        if host in (FOUR, SIX):  # also uvloop itself asks, before it connects a socket
            return await super().getaddrinfo(host, port, **kwargs)
        assert host == "both.example"
        self.looked_up += 1
        if not self.addresses:
            raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")
        found = []
        for address in self.addresses:
            family = socket.AF_INET6 if ":" in address else socket.AF_INET
            where = (address, port, 0, 0) if ":" in address else (address, port)
            found.append((family, socket.SOCK_STREAM, socket.IPPROTO_TCP, "", where))
        return found


@contextmanager
def black_hole(address: str, port: int) -> Iterator[None]:
    """Takes no connection at ``address`` and refuses none: its queue is full, so nothing answers a client."""
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    with ExitStack() as stack:
        listener = stack.enter_context(socket.socket(family))
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind((address, port))
        listener.listen(0)
        for _ in range(3):
            waiting = stack.enter_context(socket.socket(family))
            waiting.setblocking(False)
            waiting.connect_ex((address, port))
        probe = stack.enter_context(socket.socket(family))
        probe.settimeout(0.05)
        with pytest.raises(TimeoutError):
            probe.connect((address, port))
        yield


async def echo(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    while True:
        head = await reader.readuntil(b"\r\n\r\n")
        host = head.lower().partition(b"host: ")[2].split(b"\r\n")[0]
        await reader.readexactly(2)
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%b" % (len(host), host))


def ask(
    kind: str,
    addresses: Sequence[str],
    alive: str | None,
    dead: Sequence[str] = (),
    host: str = "both.example",
    times: int = 1,
) -> tuple[list[str], float, int]:
    """The answers or codes of ``times`` requests to a server at ``alive``, the seconds they took, and the look-ups.

    The addresses in ``dead`` are black holes; at all others, connections are refused.
    """

    async def run() -> tuple[list[str], float, int]:
        loop = asyncio.get_running_loop()
        assert isinstance(loop, NamesLoop)
        loop.addresses = addresses
        connections, transport = Connections(echo), make_transport(kind)
        server = await asyncio.start_server(connections.accept, alive or FOUR, 0)
        port = server.sockets[0].getsockname()[1]
        outcomes = []
        async with AsyncExitStack() as stack:
            # A loop of uvloop's does not close while a server is open, whatever went wrong before.
            stack.push_async_callback(connections.end)
            stack.callback(server.close)
            stack.push_async_callback(transport.close)
            if alive is None:
                server.close()
                await server.wait_closed()
            for address in dead:
                stack.enter_context(black_hole(address, port))
            started = time.monotonic()
            for _ in range(times):
                limits = Timeouts(connect=CONNECT, first_byte=20, total=30)
                request = UpstreamRequest("far", "POST", f"http://{host}:{port}/x", {}, b"{}", limits)
                try:
                    response = await transport.send(request)
                    outcomes.append((await response.read()).decode().replace(str(port), "PORT"))
                    response.close()
                except SageError as exc:
                    outcomes.append(f"{exc.code} {exc.message}")
            took = time.monotonic() - started
        return outcomes, took, loop.looked_up

    with asyncio.Runner(loop_factory=NamesLoop) as runner:
        return runner.run(run())


@on_each_transport
@pytest.mark.parametrize("host", [FOUR, f"[{SIX}]"])
def test_an_address_in_a_url_is_looked_up_nowhere(transport_kind: str, host: str) -> None:
    outcomes, _, looked_up = ask(transport_kind, [], host.strip("[]"), host=host)
    assert (outcomes, looked_up) == ([f"{host}:PORT"], 0)


@on_each_transport
@pytest.mark.parametrize("order", [(FOUR, SIX), (SIX, FOUR)])
@pytest.mark.parametrize("alive", [FOUR, SIX])
def test_a_name_whose_other_family_refuses_is_reached(transport_kind: str, order: Sequence[str], alive: str) -> None:
    outcomes, took, looked_up = ask(transport_kind, order, alive, times=3)
    assert outcomes == ["both.example:PORT"] * 3
    assert looked_up == 1, "it is remembered"
    assert took < CONNECT


@pytest.mark.slow
@on_each_transport
@pytest.mark.parametrize("order", [(FOUR, SIX), (SIX, FOUR)])
@pytest.mark.parametrize("alive", [FOUR, SIX])
def test_a_name_whose_other_family_is_dead_is_reached(transport_kind: str, order: Sequence[str], alive: str) -> None:
    """Another address is tried soon, not when the connect limit is over (RFC 8305)."""
    dead = SIX if alive == FOUR else FOUR
    outcomes, took, _ = ask(transport_kind, order, alive, [dead])
    assert outcomes == ["both.example:PORT"]
    assert took < CONNECT


@pytest.mark.slow
@on_each_transport
def test_a_name_that_is_dead_has_the_connect_limit(transport_kind: str) -> None:
    outcomes, took, _ = ask(transport_kind, (SIX, FOUR), None, [SIX, FOUR])
    assert outcomes[0].startswith("connect_timeout ")
    assert CONNECT - 0.01 <= took < CONNECT + 1


@on_each_transport
def test_a_name_that_refuses_everywhere_is_told(transport_kind: str) -> None:
    outcomes, _, _ = ask(transport_kind, (SIX, FOUR), None)
    assert outcomes[0].startswith("connect_failed the provider 'far' cannot be reached at both.example:")
    assert outcomes[0].endswith("Connection refused")


@on_each_transport
def test_a_name_without_addresses_is_told_and_looked_up_again(transport_kind: str) -> None:
    outcomes, _, looked_up = ask(transport_kind, (), FOUR, times=2)
    assert all(outcome.endswith("there is no such host") for outcome in outcomes), outcomes
    assert looked_up == 2
