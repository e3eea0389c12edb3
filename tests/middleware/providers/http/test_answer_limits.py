"""Limits in seconds, to the second: a client waits as long as it is told, whatever a server does meanwhile."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import pytest
from memory_network import MemoryLoop, Peer, request_of, run_in_memory
from transports import make_transport, on_each_transport

from sage.errors import SageError
from sage.middleware.providers.base import UpstreamRequest
from sage.middleware.settings.providers import Timeouts

HEAD = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"
LIMITS = Timeouts(connect=5, first_byte=120, between_chunks=60, total=600)
LATE = 0.2
"""Seconds by which a limit may be missed, since not every byte sets a timer."""

Script = Callable[[Peer], None]


def outcome(kind: str, script: Script, request: UpstreamRequest, connect_delay: float = 0.0) -> tuple[str, float]:
    """The code of the error, or else the answer's body as text; and the seconds until then. ``script`` serves."""

    def serve(peer: Peer) -> None:
        peer.answer = lambda asked: script(peer)

    async def work(loop: MemoryLoop) -> tuple[str, float]:
        loop.connect_delay = connect_delay
        transport, started = make_transport(kind), loop.time()
        try:
            response = await transport.send(request)
            try:
                return (await response.read()).decode(), round(loop.time() - started, 3)
            finally:
                response.close()
        except SageError as exc:
            return str(exc.code), round(loop.time() - started, 3)
        finally:
            await transport.close()

    return run_in_memory(serve, work)


def silent(peer: Peer) -> None:
    """Says nothing."""


def speaking(*script: tuple[float, bytes]) -> Script:
    """Sends each of the bytes some seconds after those before it."""

    def play(peer: Peer) -> None:
        at = peer.loop.time()
        for seconds, data in script:
            at += seconds
            peer.loop.call_at(at, peer.send, data)

    return play


ONE = b"1\r\na\r\n"
HINT = b"HTTP/1.1 103 Early Hints\r\n\r\n"


@on_each_transport
@pytest.mark.parametrize(
    ("script", "fields", "code", "seconds"),
    [
        (silent, {}, "read_timeout", 120),
        (silent, {"total": 30.0}, "total_timeout", 30),
        (silent, {"whole": True}, "total_timeout", 600),
        (silent, {"whole": True, "total": 200.0}, "total_timeout", 200),
        (speaking((110, HEAD + ONE)), {}, "read_timeout", 170),
        (speaking((110, HEAD + ONE)), {"whole": True}, "total_timeout", 600),
        (speaking((110, HEAD)), {}, "read_timeout", 230),  # the first byte of the body has the first limit, too
        (speaking((1, HEAD), *((59, ONE) for _ in range(20))), {}, "total_timeout", 600),
        (speaking((1, HEAD), *((59, ONE) for _ in range(20))), {"total": 100.0}, "total_timeout", 100),
        (speaking((1, HEAD), (59, ONE), (61, ONE)), {}, "read_timeout", 120),
        (speaking((100, HINT)), {}, "read_timeout", 220),  # something has come
        (speaking((100, HINT + b"HTTP")), {}, "read_timeout", 220),
    ],
)
def test_silence_is_borne_as_long_as_it_may_last(
    transport_kind: str, script: Script, fields: dict, code: str, seconds: float
) -> None:
    found, after = outcome(transport_kind, script, request_of(timeouts=LIMITS, **fields))
    assert found == code
    assert seconds <= after <= seconds + LATE


@on_each_transport
@pytest.mark.parametrize(("first", "then"), [(HINT, HINT), (b"HTTP/1.1 200 OK\r\n", b"X-Slow: yes\r\n")])
@pytest.mark.parametrize("whole", [True, False])
def test_a_head_that_comes_drop_by_drop_has_its_time(
    transport_kind: str, first: bytes, then: bytes, whole: bool
) -> None:
    script = speaking((100, first), *((100, then) for _ in range(20)))
    found, after = outcome(transport_kind, script, request_of(timeouts=LIMITS, whole=whole))
    if transport_kind == "aiohttp":
        # Each byte of a head starts its clock anew: it knows silence only.
        assert (found, after) == (("total_timeout", 2700) if whole else ("read_timeout", 2220))
    else:
        assert found == "total_timeout"
        assert 600 <= after <= 600 + LATE


@on_each_transport
@pytest.mark.parametrize("whole", [True, False])
def test_silence_within_the_limits_is_no_fault(transport_kind: str, whole: bool) -> None:
    script = speaking((119, HEAD), (119, ONE), (59, ONE), (59, ONE), (59, b"0\r\n\r\n"))
    body, after = outcome(transport_kind, script, request_of(timeouts=LIMITS, whole=whole))
    assert (body, after) == ("aaa", 119 + 119 + 3 * 59)


@on_each_transport
@pytest.mark.parametrize(
    ("fields", "code", "seconds"),
    [({}, "connect_timeout", 5), ({"total": 3.0}, "total_timeout", 3), ({"whole": True}, "connect_timeout", 5)],
)
def test_a_connection_has_its_time(transport_kind: str, fields: dict, code: str, seconds: float) -> None:
    request = request_of(timeouts=LIMITS, **fields)
    found, after = outcome(transport_kind, silent, request, connect_delay=99)
    assert found == code
    assert seconds <= after <= seconds + LATE
    ok = speaking((0, b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"))
    assert outcome(transport_kind, ok, request_of(timeouts=LIMITS), connect_delay=4.9) == ("ok", 4.9)


@on_each_transport
def test_what_a_reader_takes_its_time_for_is_no_silence(transport_kind: str) -> None:
    """The caller of a stream may be slow, and the gateway reads no faster; the upstream has long sent all."""

    def serve(peer: Peer) -> None:
        peer.answer = lambda asked: peer.send(HEAD + b"1\r\na\r\n", b"1\r\nb\r\n", b"1\r\nc\r\n", b"0\r\n\r\n")

    async def work(loop: MemoryLoop) -> list[bytes]:
        transport = make_transport(transport_kind)
        response = await transport.send(request_of(timeouts=LIMITS.model_copy(update={"total": 1e6})))
        seen = []
        while data := await response.chunk():
            seen.append(data)
            await asyncio.sleep(1000)
        response.close()
        await transport.close()
        return seen

    assert b"".join(run_in_memory(serve, work)) == b"abc"


@on_each_transport
def test_chunks_that_are_none_are_told_at_once(transport_kind: str) -> None:
    for damage in (b"Z\r\n", b"\r\n", b"1\r\nab\r\n", b"-1\r\n"):
        script = speaking((0, HEAD), (1, ONE), (1, damage))
        found, after = outcome(transport_kind, script, request_of(timeouts=LIMITS))
        assert (found, after) in (("upstream_broken", 2), ("upstream_nonsense", 2))
        ended = speaking((0, HEAD), (1, ONE + b"2\r\nbb"), (1, b"\r\n" + damage))
        assert outcome(transport_kind, ended, request_of(timeouts=LIMITS))[1] == 2


@on_each_transport
def test_a_reset_is_never_the_end_of_an_answer(transport_kind: str) -> None:
    """Not even of one that ends with its connection."""

    def script(peer: Peer) -> None:
        peer.send(b"HTTP/1.1 200 OK\r\n\r\nhalf")
        peer.reset()

    assert outcome(transport_kind, script, request_of())[0] == "upstream_broken"

    def ends(peer: Peer) -> None:
        peer.send(b"HTTP/1.1 200 OK\r\n\r\nwhole")
        peer.end()

    assert outcome(transport_kind, ends, request_of())[0] == "whole"
