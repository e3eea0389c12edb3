"""Answers of any shape, cut anywhere, and spoilt ones: what each client of HTTP makes of them, in memory.

``SAGE_TEST_ANSWERS=1000000`` sets how many our own client gets, half of them spoilt (``make check``: 10,000).
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from random import Random

import pytest
from answer_maker import Message, cut, make_message, spoil
from hypothesis import Phase, given, settings
from hypothesis import strategies as st
from memory_network import PATH, Asked, MemoryLoop, Peer, run_in_memory
from transports import make_transport, on_each_transport

from sage.errors import DeadlineExceeded, UpstreamFailed
from sage.middleware.providers.base import UpstreamRequest
from sage.middleware.providers.transport import Transport
from sage.middleware.settings.providers import Timeouts

pytestmark = pytest.mark.slow  # thousands of answers

FULL = bool(os.environ.get("SAGE_TEST_FULL"))
OF_ONE = 250
"""Answers that one example of hypothesis has, over one transport."""
LIMITS = Timeouts()


def examples(kind: str) -> int:
    """How many examples of each property there are: aiohttp's client is only here to say that the properties hold."""
    wanted = int(os.environ.get("SAGE_TEST_ANSWERS", 100_000 if FULL else 10_000))
    return max(1, wanted // (2 * OF_ONE if kind == "builtin" else 20 * OF_ONE))


@dataclass
class Play:
    """What a server does for one request."""

    pieces: list[bytes]
    in_one_turn: bool
    end: str
    """``stay``, ``end`` or ``reset``."""

    def __call__(self, peer: Peer) -> None:
        if self.in_one_turn:
            peer.send_at_once(self.pieces)
        else:
            peer.send(*self.pieces)
        if self.end == "end":
            peer.end()
        elif self.end == "reset":
            peer.reset()


class Exchanges:
    """One client and its servers: the request number N gets what is planned for N, or else its number."""

    def __init__(self, kind: str, loop: MemoryLoop, rng: Random) -> None:
        self.plans: dict[int, Play] = {}
        self.transport: Transport = make_transport(kind)
        self.loop = loop
        self.rng = rng
        self._number = 0
        loop.serve = self._serve

    def _serve(self, peer: Peer) -> None:
        def answer(asked: Asked) -> None:
            plan = self.plans.get(int(asked.body))
            if plan is not None:
                plan(peer)
            else:
                peer.send(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%b" % (len(asked.body), asked.body))

        peer.answer = answer

    async def ask(self, plan: Play | None) -> tuple[int, dict[str, str], bytes]:
        """The answer to the next request."""
        self._number += 1
        body = b"%d" % self._number
        if plan is not None:
            self.plans = {self._number: plan}
        headers = {"host": "memory", "content-type": "text/plain", "content-length": str(len(body))}
        whole = self.rng.random() < 0.5
        request = UpstreamRequest("up", "POST", "http://memory/x", headers, body, LIMITS, socket=PATH, whole=whole)
        response = await self.transport.send(request)
        try:
            if self.rng.random() < 0.5:
                content = await response.read()
            else:
                content = b""
                while piece := await response.chunk():
                    content += piece
            return response.status, response.headers, content
        finally:
            response.close()

    async def check_next(self) -> None:
        """The next request gets its own answer, whatever the one before it got."""
        status, _, content = await self.ask(None)
        assert (status, content) == (200, b"%d" % self._number)
        assert len(self.loop.open) <= 1, "a connection that nobody uses stays open"

    def forget(self) -> None:
        self.loop.peers = self.loop.open
        self.loop.turns = 0


async def valid_answer(exchanges: Exchanges, rng: Random) -> None:
    message = make_message(rng)
    plan = Play(cut(rng, message.wire), rng.random() < 0.7, "end" if message.ends else "stay")
    try:
        await check_valid(exchanges, message, plan)
    except Exception as exc:
        raise AssertionError(f"{message}, played as {plan}") from exc


async def check_valid(exchanges: Exchanges, message: Message, plan: Play) -> None:
    status, headers, content = await exchanges.ask(plan)
    assert status == message.status
    assert content == message.body
    for name, value in message.headers:
        assert headers.get(name) == headers[name.title()] == value
    await exchanges.loop.settle()
    connections = len(exchanges.loop.open)
    assert connections == (1 if message.kept else 0), "kept" if connections else "not kept"
    before = len(exchanges.loop.peers)
    await exchanges.check_next()
    assert len(exchanges.loop.peers) == before + (0 if message.kept else 1)


async def spoilt_answer(exchanges: Exchanges, rng: Random) -> None:
    wire = spoil(rng, make_message(rng).wire)
    plan = Play(cut(rng, wire), rng.random() < 0.7, rng.choice(("stay", "end", "end", "reset")))
    try:
        await check_spoilt(exchanges, plan)
    except Exception as exc:
        raise AssertionError(f"{wire!r}, played as {plan}") from exc


async def check_spoilt(exchanges: Exchanges, plan: Play) -> None:
    try:
        status, _, content = await exchanges.ask(plan)
    except UpstreamFailed:
        pass
    except DeadlineExceeded:
        if plan.end != "stay":
            raise  # it waited for a connection that had ended
    else:
        assert 100 <= status <= 999
        assert isinstance(content, bytes)
    await exchanges.loop.settle()
    await exchanges.check_next()


def run_many(kind: str, seed: int, count: int, check) -> None:
    rng = Random(seed)

    async def work(loop: MemoryLoop) -> None:
        exchanges = Exchanges(kind, loop, rng)
        try:
            for _ in range(count):
                await check(exchanges, rng)
                assert loop.faults == []
                exchanges.forget()
        finally:
            await exchanges.transport.close()

    run_in_memory(lambda peer: None, work)


@on_each_transport
@pytest.mark.parametrize("check", [valid_answer, spoilt_answer])
def test_any_answer(transport_kind: str, check) -> None:
    """A valid one is what was sent, a spoilt one that or an error; and each request after it gets its own answer."""

    # A smaller seed is no simpler case, so nothing is shrunk; the failure shows the answer and its pieces.
    @settings(max_examples=examples(transport_kind), deadline=None, database=None, phases=[Phase.generate])
    @given(st.integers(0, 2**64 - 1))
    def tried(seed: int) -> None:
        run_many(transport_kind, seed, OF_ONE, check)

    tried()
