"""The corner cases that llhttp documents for responses, and their like: what each client takes, and what it refuses.

The cases are those of llhttp's test documents for responses (github.com/nodejs/llhttp, ``test/response``), in messages
and words of our own. Ours is the strict reading. aiohttp sets llhttp's lenient mode, so it takes more; where it does,
the table says so. Whatever an answer is, the request after it gets its own.
"""

from __future__ import annotations

from dataclasses import dataclass

import pytest
from memory_network import Asked, MemoryLoop, Peer, request_of, run_in_memory
from transports import make_transport, on_each_transport

from sage.errors import SageError
from sage.middleware.providers.transport import Transport

Outcome = tuple[int, bytes] | str
OK = (200, b"ok")
NONSENSE, BROKEN, ENCODING, TOO_LARGE = (
    "upstream_nonsense",
    "upstream_broken",
    "upstream_encoding",
    "upstream_head_too_large",
)


@dataclass(frozen=True)
class Corner:
    """What a server sends, each piece in a read of its own; and what comes of it.

    ``kept`` tells whether the connection takes the next request. ``lax`` is what aiohttp makes of it, if not the same.
    """

    wire: bytes | tuple[bytes, ...]
    outcome: Outcome
    kept: bool = False
    end: str = "stay"
    """How the connection goes on after it: ``stay``, ``end`` or ``reset``."""
    lax: tuple[Outcome, bool] | None = None


def head(*lines: bytes, start: bytes = b"HTTP/1.1 200 OK") -> bytes:
    return b"".join(line + b"\r\n" for line in (start, *lines, b""))


def sized(*lines: bytes, start: bytes = b"HTTP/1.1 200 OK", body: bytes = b"ok") -> bytes:
    """An answer of two bytes."""
    return head(*lines, b"Content-Length: 2", start=start) + body


def chunked(body: bytes, *lines: bytes, start: bytes = b"HTTP/1.1 200 OK") -> bytes:
    return head(*lines, b"Transfer-Encoding: chunked", start=start) + body


def coded(coding: bytes) -> bytes:
    return head(b"Transfer-Encoding:" + coding) + CHUNKS


CHUNKS = b"2\r\nok\r\n0\r\n\r\n"
RAW = (200, CHUNKS)
LAX = OK, True
EVIL = b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nevil"
INTERIM = b"HTTP/1.1 100 Continue\r\n\r\n"

STATUS_LINES = {
    "no headers, no body": Corner(head(), (200, b""), end="end"),
    "no headers, a body to the end": Corner(head() + b"body", (200, b"body"), end="end"),
    "no reason": Corner(sized(start=b"HTTP/1.1 200"), OK, True),
    "an empty reason": Corner(sized(start=b"HTTP/1.1 200 "), OK, True),
    "a reason in Latin-1": Corner(sized(start=b"HTTP/1.1 200 caf\xe9"), OK, True),
    "a tab after the status": Corner(sized(start=b"HTTP/1.1 200\tOK"), NONSENSE),
    "two spaces before the status": Corner(sized(start=b"HTTP/1.1  200 OK"), NONSENSE),
    "two digits": Corner(sized(start=b"HTTP/1.1 20 OK"), NONSENSE),
    "four digits": Corner(sized(start=b"HTTP/1.1 2000 OK"), NONSENSE),
    "a letter in the status": Corner(sized(start=b"HTTP/1.1 2x0 OK"), NONSENSE),
    "a sign before the status": Corner(sized(start=b"HTTP/1.1 -20 OK"), NONSENSE),
    "status 000": Corner(sized(start=b"HTTP/1.1 000 OK"), NONSENSE, lax=((0, b"ok"), True)),
    "status 099": Corner(sized(start=b"HTTP/1.1 099 OK"), NONSENSE, lax=((99, b"ok"), True)),
    "status 999": Corner(sized(start=b"HTTP/1.1 999 OK"), (999, b"ok"), True),
    "HTTP/9.9": Corner(sized(start=b"HTTP/9.9 200 OK"), NONSENSE),
    "HTTP/2.0": Corner(sized(start=b"HTTP/2.0 200 OK"), NONSENSE, lax=(OK, False)),
    "HTTP/0.9": Corner(sized(start=b"HTTP/0.9 200 OK"), NONSENSE, lax=(OK, False)),
    "HTTP/1.2": Corner(sized(start=b"HTTP/1.2 200 OK"), NONSENSE),
    "HTTP/1.10": Corner(sized(start=b"HTTP/1.10 200 OK"), NONSENSE),
    "http/1.1": Corner(sized(start=b"http/1.1 200 OK"), NONSENSE),
    "RTSP": Corner(sized(start=b"RTSP/1.1 200 OK"), NONSENSE, lax=LAX),
    "ICE": Corner(sized(start=b"ICE/1.0 200 OK"), NONSENSE, lax=(OK, False)),
    "ICY": Corner(sized(start=b"ICY 200 OK"), NONSENSE),
    "a page without a head": Corner(b"<html>hello</html>", NONSENSE, end="end"),
    "nothing": Corner(b"", BROKEN, end="end"),
    "half a status line": Corner(b"HTTP/1.1 2", BROKEN, end="end"),
    "a status line only": Corner(b"HTTP/1.1 200 OK\r\n", BROKEN, end="end"),
    "empty lines before it": Corner(b"\r\n\r\n" + sized(), OK, True),
    "a space before it": Corner(b" " + sized(), NONSENSE),
}
LINES = {
    "LF for CRLF": Corner(b"HTTP/1.1 200 OK\nContent-Length: 2\n\nok", NONSENSE, lax=LAX),
    "LF after one header": Corner(b"HTTP/1.1 200 OK\r\nContent-Length: 2\n\r\nok", NONSENSE, lax=LAX),
    "LF at the end of the head": Corner(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\nok", NONSENSE, lax=LAX),
    "CR for CRLF": Corner(b"HTTP/1.1 200 OK\rContent-Length: 2\r\rok", NONSENSE),
    "a folded line": Corner(sized(b"X-Y: a\r\n b"), NONSENSE, lax=LAX),
    "a folded length": Corner(head(b"Content-Length:\r\n 2") + b"ok", NONSENSE, lax=LAX),
    "a folded line at first": Corner(sized(b" X-Y: a"), NONSENSE, lax=LAX),
    "a space before the colon": Corner(head(b"Content-Length : 2") + b"ok", NONSENSE, lax=LAX),
    "a tab before the colon": Corner(head(b"Content-Length\t: 2") + b"ok", NONSENSE),
    "a name with brackets": Corner(sized(b"X(y): 1"), NONSENSE),
    "no name": Corner(sized(b": 1"), NONSENSE),
    "a name beyond ASCII": Corner(sized(b"X\xe9: 1"), NONSENSE),
    "no colon": Corner(sized(b"nonsense"), NONSENSE),
    "NUL in a value": Corner(sized(b"X: a\0b"), NONSENSE),
    "CR in a value": Corner(sized(b"X: a\rb"), NONSENSE),
    "a control character in a value": Corner(sized(b"X: a\x01b"), NONSENSE, lax=LAX),
    "DEL in a value": Corner(sized(b"X: a\x7fb"), NONSENSE, lax=LAX),
    "values beyond ASCII": Corner(sized(b"X: caf\xe9", b"Y: caf\xc3\xa9"), OK, True),
    "empty values": Corner(sized(b"X:", b"Y: \t "), OK, True),
}
LENGTHS = {
    "blanks around the length": Corner(head(b"Content-Length: \t 2 \t") + b"ok", OK, True),
    "zeros before the length": Corner(head(b"Content-Length: 002") + b"ok", OK, True),
    "one length twice": Corner(sized(b"Content-Length: 2"), NONSENSE),
    "two lengths": Corner(sized(b"Content-Length: 3"), NONSENSE),
    "a list of lengths": Corner(head(b"Content-Length: 2, 2") + b"ok", NONSENSE),
    "a negative length": Corner(head(b"Content-Length: -2") + b"ok", NONSENSE),
    "a signed length": Corner(head(b"Content-Length: +2") + b"ok", NONSENSE),
    "a length in hex": Corner(head(b"Content-Length: 0x2") + b"ok", NONSENSE),
    "an empty length": Corner(head(b"Content-Length:") + b"ok", NONSENSE, end="end"),
    "a length of two words": Corner(head(b"Content-Length: 4 2") + b"ok", NONSENSE),
    "CR after the length": Corner(head(b"Content-Length: 2\r") + b"ok", NONSENSE),
    "a length that overflows": Corner(head(b"Content-Length: 99999999999999999999") + b"ok", NONSENSE),
    "a length with an underscore": Corner(head(b"Content_Length: 2") + b"ok!", (200, b"ok!"), end="end"),
    "length, then chunks": Corner(chunked(CHUNKS, b"Content-Length: 3"), NONSENSE),
    "chunks, then length": Corner(head(b"Transfer-Encoding: chunked", b"Content-Length: 3") + CHUNKS, NONSENSE),
    "both of an old server": Corner(
        chunked(CHUNKS, b"Connection: keep-alive", b"Content-Length: 2", start=b"HTTP/1.0 200 OK"), NONSENSE
    ),
    "less than the length": Corner(head(b"Content-Length: 5") + b"ok", BROKEN, end="end"),
    "less than the length, reset": Corner(head(b"Content-Length: 5") + b"ok", BROKEN, end="reset"),
    "to the end, reset": Corner(head() + b"ok", BROKEN, end="reset"),
}
CODINGS = {
    "chunked in any case": Corner(head(b"tRANSFER-eNCODING: ChUnKeD") + CHUNKS, OK, True),
    "chunked of an old server": Corner(chunked(CHUNKS, start=b"HTTP/1.0 200 OK"), OK, end="end"),
    # llhttp does not know it: aiohttp's body is the raw one. Ours is refused, though RFC 9110 allows the tab.
    "a tab after chunked": Corner(coded(b" chunked\t"), BROKEN, end="end", lax=(RAW, False)),
    "a vertical tab before chunked": Corner(coded(b" \x0bchunked"), NONSENSE, end="end", lax=(RAW, False)),
    "identity": Corner(coded(b" identity"), ENCODING, end="end", lax=(RAW, False)),
    "gzip, chunked": Corner(coded(b" gzip, chunked"), ENCODING, lax=LAX),  # aiohttp's body is still packed
    "chunked, gzip": Corner(coded(b" chunked, gzip"), ENCODING, end="end", lax=(RAW, False)),
    "chunked, identity": Corner(coded(b" chunked, identity"), ENCODING, end="end", lax=(RAW, False)),
    "chunked and a comma": Corner(coded(b" chunked,"), ENCODING, end="end", lax=(RAW, False)),
    "chunked twice": Corner(chunked(CHUNKS, b"Transfer-Encoding: chunked"), ENCODING, lax=LAX),
    "xchunked": Corner(coded(b" xchunked"), ENCODING, end="end", lax=(RAW, False)),
    "chunked in quotes": Corner(coded(b' "chunked"'), ENCODING, end="end", lax=(RAW, False)),
    "no coding beside a length": Corner(sized(b"Transfer-Encoding:"), NONSENSE, lax=LAX),
}
CHUNKINGS = {
    "extensions": Corner(chunked(b'2;a=b;c="d;\\"e";f\r\nok\r\n0;z\r\n\r\n'), OK, True),
    "a space before an extension": Corner(chunked(b"2 ;a=b\r\nok\r\n0\r\n\r\n"), BROKEN, lax=LAX),
    "LF after an extension": Corner(chunked(b"2;a\nok\r\n0\r\n\r\n"), BROKEN, lax=LAX),
    "a space after a size": Corner(chunked(b"2 \r\nok\r\n0\r\n\r\n"), BROKEN, lax=LAX),
    "a space before a size": Corner(chunked(b" 2\r\nok\r\n0\r\n\r\n"), BROKEN),
    "LF in chunks": Corner(chunked(b"2\nok\n0\n\n"), BROKEN),
    "a size that overflows": Corner(chunked(b"fffffffffffffffff\r\nok\r\n0\r\n\r\n"), BROKEN),
    "the largest size": Corner(chunked(b"ffffffffffffffff\r\nok\r\n0\r\n\r\n"), BROKEN, end="end"),
    "zeros before a size": Corner(chunked(b"00000000000000000002\r\nok\r\n000\r\n\r\n"), OK, True),
    "a negative size": Corner(chunked(b"-2\r\nok\r\n0\r\n\r\n"), BROKEN),
    "0x before a size": Corner(chunked(b"0x2\r\nok\r\n0\r\n\r\n"), BROKEN),
    "no size": Corner(chunked(b"\r\nok\r\n0\r\n\r\n"), BROKEN),
    "no CRLF after a chunk": Corner(chunked(b"2\r\nok0\r\n\r\n"), BROKEN),
    "more than the size": Corner(chunked(b"2\r\nokay\r\n0\r\n\r\n"), BROKEN),
    "no last chunk": Corner(chunked(b"2\r\nok\r\n"), BROKEN, end="end"),
    "no end of the last chunk": Corner(chunked(b"2\r\nok\r\n0\r\n"), BROKEN, end="end"),
    "trailers": Corner(chunked(b"2\r\nok\r\n0\r\nX-T: v\r\nX-U:\r\n\r\n"), OK, True),
    "a length among trailers": Corner(chunked(b"2\r\nok\r\n0\r\nContent-Length: 9\r\n\r\n"), BROKEN),
    "a trailer that is none": Corner(chunked(b"2\r\nok\r\n0\r\nX T v\r\n\r\n"), BROKEN),
    "half of the trailers": Corner(chunked(b"2\r\nok\r\n0\r\nX: y\r\n"), BROKEN, end="end"),
}
BODILESS = {
    "204": Corner(head(start=b"HTTP/1.1 204 No Content"), (204, b""), True),
    # aiohttp sees the body of what can have none and calls the whole answer nonsense.
    "204 with a body": Corner(sized(start=b"HTTP/1.1 204 No"), (204, b""), lax=(NONSENSE, False)),
    "204 in chunks": Corner(chunked(b"0\r\n\r\n", start=b"HTTP/1.1 204 No"), (204, b""), lax=(NONSENSE, False)),
    "304 with the length of another": Corner(sized(start=b"HTTP/1.1 304 Same", body=b""), (304, b""), True),
    "304 with a body": Corner(sized(start=b"HTTP/1.1 304 Same"), (304, b""), lax=(NONSENSE, False)),
    "304 with a coding": Corner(chunked(b"", start=b"HTTP/1.1 304 Same"), (304, b""), True),
    "205": Corner(head(start=b"HTTP/1.1 205 Reset"), (205, b""), end="end"),
    "100 before it": Corner(INTERIM + sized(), OK, True),
    "103 before it": Corner(head(b"Link: </x>", start=b"HTTP/1.1 103 Early") + sized(), OK, True),
    "1xx in pieces": Corner(
        (INTERIM[:10], INTERIM[10:-2], INTERIM[-2:] + INTERIM + sized()[:30], sized()[30:]), OK, True
    ),
    "100 with a length": Corner(head(b"Content-Length: 5", start=b"HTTP/1.1 100 Go") + sized(), OK, True),
    "102 with a coding": Corner(chunked(b"", start=b"HTTP/1.1 102 Go") + sized(), OK, True),
    "100 and the end": Corner(INTERIM, BROKEN, end="end"),
    "101": Corner(
        head(b"Upgrade: websocket", b"Connection: upgrade", start=b"HTTP/1.1 101 Switch") + b"raw",
        NONSENSE,
        lax=((101, b""), False),
    ),
    "101 without a word": Corner(head(start=b"HTTP/1.1 101 Switch"), NONSENSE, lax=((101, b""), True)),
    "an offer to upgrade": Corner(sized(b"Upgrade: h2c", b"Connection: upgrade"), OK, True),
}
ENDS = {
    "an old server": Corner(sized(start=b"HTTP/1.0 200 OK"), OK),
    "an old server that keeps": Corner(sized(b"Connection: keep-alive", start=b"HTTP/1.0 200 OK"), OK, True),
    "keep among others": Corner(sized(b"Connection: foo, Keep-Alive", start=b"HTTP/1.0 200 OK"), OK, True),
    "keep, and no length": Corner(head(b"Connection: keep-alive", start=b"HTTP/1.0 200 OK") + b"ok", OK, end="end"),
    "close": Corner(sized(b"Connection: close"), OK),
    "close among others": Corner(sized(b"Connection: x, CLOSE"), OK),
    "close and keep": Corner(sized(b"Connection: close", b"Connection: keep-alive"), OK),
    "keep and close": Corner(sized(b"Connection: keep-alive, close"), OK),
    "close and a tab": Corner(sized(b"Connection: close\t"), OK),
    "an empty line after it": Corner(sized() + b"\r\n", OK, True),
    "an answer after it": Corner(sized() + EVIL, OK),
    "an answer after it, later": Corner((sized(), EVIL), OK),
    "an answer in two after it": Corner((sized() + EVIL[:5], EVIL[5:]), OK),
    "an answer after chunks": Corner(chunked(CHUNKS) + EVIL, OK),
    "an answer after chunks, later": Corner((chunked(CHUNKS), EVIL), OK),
    "an answer after 204": Corner(head(start=b"HTTP/1.1 204 No") + EVIL, (204, b"")),
    "bytes after it and close": Corner(sized(b"Connection: close") + b"more", OK, lax=(NONSENSE, False)),
}
MANY = tuple(b"X-%d: 1" % number for number in range(512))
BOUNDS = {
    "a line of nearly 64 KiB": Corner(sized(b"X: " + b"a" * 65_530), OK, True),
    "a line of 64 KiB and more": Corner(sized(b"X: " + b"a" * 65_536), TOO_LARGE),
    "a header of 100 KB": Corner(sized(b"X: " + b"a" * 100_000), TOO_LARGE),
    "a header of 100 KB in pieces": Corner(
        (b"HTTP/1.1 200 OK\r\nX: ", *[b"a" * 1000] * 100, b"\r\nContent-Length: 2\r\n\r\nok"), TOO_LARGE
    ),
    "a name of 100 KB": Corner(sized(b"a" * 100_000 + b": 1"), TOO_LARGE),
    "a reason of 100 KB": Corner(sized(start=b"HTTP/1.1 200 " + b"a" * 100_000), TOO_LARGE),
    "512 headers": Corner(sized(*MANY[:511]), OK, True),
    "513 headers": Corner(sized(*MANY), TOO_LARGE),
    # aiohttp bounds each line and their number, so a head may have 32 MiB.
    "a head of 6 MB": Corner((b"HTTP/1.1 200 OK\r\n", *[b"X: " + b"a" * 60_000 + b"\r\n"] * 100, b"\r\n"), TOO_LARGE,
                             end="end", lax=((200, b""), False)),
    "an extension of 100 KB": Corner(chunked(b"2;" + b"a" * 100_000 + b"\r\nok\r\n0\r\n\r\n"), BROKEN, lax=LAX),
    "trailers without end": Corner(
        (chunked(b"2\r\nok\r\n0\r\n"), *[b"X: " + b"a" * 1000 + b"\r\n"] * 600, b"\r\n"), BROKEN
    ),
    "extensions without end": Corner(
        (chunked(b"2;"), *[b"a" * 60_000] * 10, b"\r\nok\r\n0\r\n\r\n"), BROKEN, lax=(OK, True)
    ),
    "ten interim answers": Corner(INTERIM * 10 + sized(), OK, True),
    "interim answers without end": Corner((INTERIM * 1000,) * 20 + (sized(),), TOO_LARGE, lax=LAX),
}  # fmt: skip
CORNERS = STATUS_LINES | LINES | LENGTHS | CODINGS | CHUNKINGS | BODILESS | ENDS | BOUNDS


async def ask(transport: Transport, body: bytes) -> Outcome:
    try:
        response = await transport.send(request_of(body))
        try:
            return response.status, await response.read()
        finally:
            response.close()
    except SageError as exc:
        return str(exc.code)


def played(kind: str, corner: Corner) -> tuple[Outcome, bool]:
    """What comes of the corner's answer, and whether its connection took the next request."""
    pieces = (corner.wire,) if isinstance(corner.wire, bytes) else corner.wire

    def serve(peer: Peer) -> None:
        def answer(asked: Asked) -> None:
            if asked.body == b"next":
                peer.send(sized(body=b"<>"))
                return
            peer.send(*pieces)
            if corner.end != "stay":
                getattr(peer, corner.end)()

        peer.answer = answer

    async def work(loop: MemoryLoop) -> tuple[Outcome, bool]:
        transport = make_transport(kind)
        try:
            outcome = await ask(transport, b"corner")
            await loop.settle()
            assert await ask(transport, b"next") == (200, b"<>")
            return outcome, len(loop.peers) == 1
        finally:
            await transport.close()

    return run_in_memory(serve, work)


@on_each_transport
@pytest.mark.parametrize("name", CORNERS)
def test_a_corner_of_http(transport_kind: str, name: str) -> None:
    corner = CORNERS[name]
    expected = corner.outcome, corner.kept
    if transport_kind == "aiohttp":
        expected = corner.lax or expected
        if name in CHUNKINGS and corner.lax is None and corner.outcome == BROKEN and corner.end == "stay":
            expected = NONSENSE, False  # its word for it where head and fault come in one read
    assert played(transport_kind, corner) == expected


@on_each_transport
def test_the_headers_of_an_answer(transport_kind: str) -> None:
    """By any case of their names, the first of each, blanks off, in UTF-8 as far as they are."""
    wire = sized(b"X-Two: first", b"x-two: second", b"X-Blank: \t a  b\t ", b"X-None:", b"X-Text: caf\xc3\xa9 \xff")

    async def work(loop: MemoryLoop) -> list[str | None]:
        transport = make_transport(transport_kind)
        response = await transport.send(request_of())
        names = ("x-two", "X-TWO", "x-blank", "X-None", "x-text", "x-other", "content-length")
        found = [response.headers.get(name) for name in names]
        response.close()
        await transport.close()
        return found

    def serve(peer: Peer) -> None:
        peer.answer = lambda asked: peer.send(wire)

    assert run_in_memory(serve, work) == ["first", "first", "a  b", "", "café \udcff", None, "2"]
