"""What a front tells last, such as the usage of its last calls, is heard before the gateway closes."""

from __future__ import annotations

import asyncio
import contextlib
import signal
import socket
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

import pytest
import uvloop

from sage.middleware.app.gateway_server import bind
from sage.middleware.app.main import create_app
from sage.middleware.app.server import MainServer, make_server
from sage.middleware.app.workers.forwarded_requests import ForwardedConnection
from sage.middleware.app.workers.frames import frame
from sage.middleware.app.workers.front_link import FrontLink
from sage.middleware.app.workers.front_process import FrontProcess
from sage.middleware.app.workers.front_usage import FrontRecords
from sage.middleware.app.workers.fronts import Fronts
from sage.middleware.app.workers.live_use import FrontUse
from sage.middleware.app.workers.messages import Begin, SettledCalls, encode
from sage.middleware.app.workers.owner_link import OwnerLink
from sage.middleware.auth.principal import LOCAL
from sage.middleware.gateway.metrics import Metrics
from sage.middleware.registry.registry import Registry
from sage.middleware.settings.settings import Settings
from sage.middleware.usage.settled_calls import SettledCall


def settled_call(number: int) -> SettledCall:
    now = time.perf_counter()
    request = f"call-{number}".encode()
    return now, now - 0.1, None, LOCAL, request, "m", "chat", False, None, 1, 200, None, (3, 4), None, None, None


def settled(count: int) -> SettledCalls:
    records = FrontRecords()
    for number in range(count):
        records.add(settled_call(number))
    calls = records.take()
    assert calls is not None
    return calls


class Owner:
    """The owner of a front, which keeps what it was told."""

    def __init__(self) -> None:
        self.told: list[str] = []
        self.counts: Any = None
        self.ended = asyncio.Event()

    def link(self, ready: Callable[[], None] = lambda: None) -> FrontLink:
        use = FrontUse(cast(Registry, None))
        return FrontLink(None, use, ready, lambda _: None, self._settled)

    def _settled(self, calls: SettledCalls) -> None:
        self.told += [record.request_id for record in calls.records]

    def begin(self, index: int) -> Begin:
        return Begin(Settings(), index, None, b"", ())

    def forwarded(self, index: int) -> ForwardedConnection:
        raise NotImplementedError

    def takes_connections(self) -> asyncio.Protocol:
        return asyncio.Protocol()

    def front_began(self, link: FrontLink) -> None: ...

    def front_ended(self, link: FrontLink) -> None:
        self.ended.set()


def test_a_front_ends_only_once_its_owner_has_all_that_it_told() -> None:
    async def work() -> None:
        loop = asyncio.get_running_loop()
        ours, theirs = socket.socketpair()
        ours.setblocking(False)
        theirs.setblocking(False)
        link, owner = OwnerLink(), Owner()
        link.metrics, link.records = Metrics(), FrontRecords()
        await loop.create_unix_connection(lambda: link, sock=ours)
        for number in range(5000):  # more than fits into the socket
            link.records.add(settled_call(number))
        ending = asyncio.create_task(link.end())
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        was_early = ending.done()
        heard = owner.link()
        await loop.create_unix_connection(lambda: heard, sock=theirs)
        async with asyncio.timeout(10):
            await ending
            await heard.closed()
        assert owner.told == [f"call-{number}" for number in range(5000)]
        assert not was_early

    uvloop.run(work())


_LATE_FRONT = """
import os, sys, time
os.read(int(sys.argv[3]), 1 << 20)  # what its owner tells it first
if os.fork():
    os._exit(0)  # its owner learns of this before the rest
with open(sys.argv[1], "rb") as file:
    last_words = file.read()
time.sleep(0.3)
os.write(int(sys.argv[3]), last_words)
"""


@pytest.mark.slow
def test_what_a_front_told_last_is_read_after_it_has_ended(tmp_path: Path) -> None:
    async def work() -> None:
        program, last_words = tmp_path / "late_front.py", tmp_path / "last_words"
        program.write_text(_LATE_FRONT)
        last_words.write_bytes(frame(0, encode(settled(3))))
        owner = Owner()
        front = FrontProcess(1, bind("127.0.0.1", 0), owner, (str(program), str(last_words)))
        front.start()
        async with asyncio.timeout(20):
            await owner.ended.wait()
            front.signal(signal.SIGTERM)
            await front.close()
        assert owner.told == ["call-0", "call-1", "call-2"]

    uvloop.run(work())


class LateFronts:
    """Fronts whose last calls are told at their very end."""

    are_running = False

    def __init__(self, app: Any) -> None:
        self._app = app

    async def start(self, server: MainServer) -> None: ...

    def in_flight(self) -> int:
        return 0

    def end(self) -> None: ...

    async def close(self, at_once: Callable[[], bool]) -> None:
        assert not at_once()
        fronts = Fronts(Settings(), self._app.state.gateway, None, None, self._app, ())
        owner = fronts.link(lambda: None)
        owner.frame_received(0, encode(settled(3)))


def test_the_ledger_ends_after_the_fronts(tmp_path: Path) -> None:
    async def work() -> None:
        settings = Settings(data_dir=tmp_path, auth={"enabled": False}, usage={"published_prices": False})
        edge = create_app(settings)
        sock = bind("127.0.0.1", 0)
        ledger = edge.app.state.gateway.ledger
        server = make_server(edge, settings, lambda: None)
        server.fronts = cast(Fronts, LateFronts(edge.app))
        server.on_ready = lambda: setattr(server, "should_exit", True)
        with contextlib.closing(sock):
            async with asyncio.timeout(20):
                await server.serve(sockets=[sock])
        assert (ledger.written, ledger.waiting) == (3, 0)

    uvloop.run(work())
