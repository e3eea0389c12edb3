"""Answers of any shape, cut anywhere, and spoilt ones: what each client of HTTP makes of them, in memory.

``SAGE_TEST_ANSWERS=1000000`` sets how many our own client gets, half of them spoilt (``make check``: 10,000).
"""

from __future__ import annotations

import contextlib
import os
from dataclasses import dataclass
from random import Random

import pytest
from answer_maker import Message, cut, make_message, spoil
from hypothesis import Phase, given, settings
from hypothesis import strategies as st
from memory_network import PATH, Asked, MemoryLoop, Peer, run_in_memory
from transports import READERS, make_transport, on_each_transport

from sage.errors import DeadlineExceeded, SageError, UpstreamFailed
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
    return max(1, wanted // (OF_ONE if kind == "builtin" else 10 * OF_ONE))


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
                pieces: list[bytes] = []
                await READERS[self.rng.choice([*READERS])](response, pieces)
                content = b"".join(pieces)
            return response.status, response.headers, content
        finally:
            response.close()

    async def check_next(self) -> None:
        """The next request gets its own answer, whatever the one before it got."""
        status, _, content = await self.ask(None)
        assert (status, content) == (200, b"%d" % self._number)

    def forget(self) -> None:
        self.loop.peers = self.loop.open
        self.loop.turns = 0


async def two_answers(exchanges: Exchanges, rng: Random) -> None:
    """A spoilt answer and then a valid one, over the connection of the first if that is kept."""
    wire = spoil(rng, make_message(rng).wire)
    plan = Play(cut(rng, wire), rng.random() < 0.7, rng.choice(("stay", "end", "end", "reset")))
    message = make_message(rng)
    good = Play(cut(rng, message.wire), rng.random() < 0.7, "end" if message.ends else "stay")
    try:
        await check_spoilt(exchanges, plan)
        await check_valid(exchanges, message, good)
    except Exception as exc:
        raise AssertionError(f"{wire!r}, played as {plan}, and then {message}, played as {good}") from exc


async def check_spoilt(exchanges: Exchanges, plan: Play) -> None:
    """An error of ours, or an answer."""
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
    assert len(exchanges.loop.open) <= 1, "a connection that nobody uses stays open"


async def check_valid(exchanges: Exchanges, message: Message, plan: Play) -> None:
    """The message to the byte, and a connection that is kept exactly if it may be."""
    status, headers, content = await exchanges.ask(plan)
    assert status == message.status
    assert content == message.body
    for name, value in message.headers:
        assert headers.get(name) == headers[name.title()] == value
    await exchanges.loop.settle()
    assert len(exchanges.loop.open) == message.kept


def run_many(kind: str, seed: int) -> None:
    """:data:`OF_ONE` answers over one transport."""
    rng = Random(seed)

    async def work(loop: MemoryLoop) -> None:
        exchanges = Exchanges(kind, loop, rng)
        try:
            for _ in range(OF_ONE // 2):
                await two_answers(exchanges, rng)
                assert loop.faults == []
                exchanges.forget()
        finally:
            await exchanges.transport.close()

    run_in_memory(lambda peer: None, work)


@on_each_transport
def test_any_answer(transport_kind: str) -> None:
    """A valid one is what was sent, a spoilt one that or an error; and each request after it gets its own answer."""

    # A smaller seed is no simpler case, so nothing is shrunk; the failure shows the answers and their pieces.
    @settings(max_examples=examples(transport_kind), deadline=None, database=None, phases=[Phase.generate])
    @given(st.integers(0, 2**64 - 1))
    def tried(seed: int) -> None:
        run_many(transport_kind, seed)

    tried()


def outcomes(kind: str, plans: list[Play]) -> list[tuple[tuple[int, bytes] | None, bool]]:
    """What a client makes of each: the answer, or none for an error; and whether the connection stays."""
    found: list[tuple[tuple[int, bytes] | None, bool]] = []

    async def work(loop: MemoryLoop) -> None:
        exchanges = Exchanges(kind, loop, Random(0))
        for plan in plans:
            answer = None
            with contextlib.suppress(SageError):
                status, _, content = await exchanges.ask(plan)
                answer = status, content
            await loop.settle()
            found.append((answer, bool(loop.open)))
            await exchanges.check_next()
            exchanges.forget()
        await exchanges.transport.close()

    run_in_memory(lambda peer: None, work)
    return found


def test_a_spoilt_answer_is_never_another_one_to_us() -> None:
    """What both clients take is the same; and we keep no connection that aiohttp does not."""

    @settings(max_examples=examples("aiohttp"), deadline=None, database=None, phases=[Phase.generate])
    @given(st.integers(0, 2**64 - 1))
    def tried(seed: int) -> None:
        rng = Random(seed)
        plans = []
        for _ in range(OF_ONE):
            wire = spoil(rng, make_message(rng).wire)
            plans.append(Play(cut(rng, wire), rng.random() < 0.7, rng.choice(("stay", "end", "reset"))))
        answered = 0
        for plan, ours, theirs in zip(plans, outcomes("builtin", plans), outcomes("aiohttp", plans), strict=True):
            if ours[0] is not None and theirs[0] is not None:
                answered += 1
                assert ours[0] == theirs[0], plan
                assert not ours[1] or theirs[1], plan
        assert answered >= OF_ONE // 5  # a quarter and more for most seeds

    tried()
