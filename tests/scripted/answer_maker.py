"""Answers of HTTP/1.1 servers from a seed: valid ones with what they say, cuts of their bytes, and spoilt copies.

Source: RFC 9112 (messages), RFC 9110 (fields, status codes, 1xx, encodings).
"""

from __future__ import annotations

import gzip
import zlib
from dataclasses import dataclass
from random import Random

_TOKEN = b"abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789!#$%&'*+-.^_`|~"
# Random bytes of each kind, of which pieces are taken: drawing each byte took most of the time.
_TOKENS = bytes(Random(1).choices(_TOKEN, k=5_000))
_VALUES = bytes(Random(2).choices(bytes(range(0x21, 0x7F)) + b"  \t,;=\"'", k=70_000))
_STATUSES = (200, 200, 200, 200, 201, 202, 204, 206, 302, 304, 400, 401, 404, 413, 429, 500, 503, 529, 599)
_REASONS = (b" OK", b" ", b"", b" Not At All", b" caf\xc3\xa9", b" 200 200", b" a:b")
_BLANK = (b"", b" ", b" ", b" ", b"  ", b"\t", b" \t ")
_INSERTED = (
    b"\r", b"\n", b"\0", b" ", b":", b"\t", b";", b",", b"\x7f", b"\xff", b"\r\n", b"\r\n\r\n", b"0",
    b"f", b"0\r\n\r\n",
    b"\r\nContent-Length: 3", b"\r\nTransfer-Encoding: chunked", b"\r\nTransfer-Encoding: x", b"\r\nConnection: close",
    b"\r\nConnection: keep-alive", b"HTTP/1.1 200 OK\r\nContent-Length: 1\r\n\r\nE", b"HTTP/1.1 100 Continue\r\n\r\n",
    b"\r\nContent-Encoding: gzip", b"\r\nUpgrade: x\r\nConnection: upgrade", b"\r\n ", b"-", b"+", b"0x", b"1e9",
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Message:
    """One whole answer: its bytes, and what a client has to make of them."""

    wire: bytes
    status: int
    headers: tuple[tuple[str, str], ...]
    """The first of each name, in lower case."""
    body: bytes
    """Without its encodings."""
    ends: bool
    """Its end is the end of the connection."""
    kept: bool
    """Whether the connection can take another request."""


def make_message(rng: Random) -> Message:
    status = rng.choice(_STATUSES)
    bodiless = status in (204, 304)
    body = b"" if bodiless else _body(rng)
    framing = "none" if bodiless else rng.choice(("length", "length", "chunked", "chunked", "close"))
    old = framing != "chunked" and rng.random() < 0.15
    fields = _fields(rng)
    sent = body
    if not bodiless and rng.random() < 0.2:
        name, pack = rng.choice((("gzip", gzip.compress), ("deflate", zlib.compress), ("x-gzip", gzip.compress)))
        fields.append((b"Content-Encoding", name.encode()))
        sent = pack(body)
    if framing == "length":
        fields.append((b"Content-Length", b"%d" % len(sent)))
    elif framing == "chunked":
        fields.append((_case(rng, b"Transfer-Encoding"), _case(rng, b"chunked")))
    persists = rng.random() < (0.5 if old else 0.85)
    if persists and old:
        fields.append((b"Connection", _case(rng, b"keep-alive")))
    elif not persists and not old:
        fields.append((_case(rng, b"Connection"), _case(rng, b"close")))
    rng.shuffle(fields)
    wire = b"HTTP/1.%d %d%b\r\n" % (0 if old else 1, status, rng.choice(_REASONS))
    wire += b"".join(b"%b:%b%b%b\r\n" % (name, rng.choice(_BLANK), value, _after(rng, name)) for name, value in fields)
    wire = _interim(rng) + wire + b"\r\n" + (_chunked(rng, sent) if framing == "chunked" else sent)
    first: dict[str, str] = {}
    for name, value in fields:
        first.setdefault(name.decode().lower(), value.decode())
    return Message(wire, status, tuple(first.items()), body, framing == "close", persists and framing != "close")


def _body(rng: Random) -> bytes:
    size = rng.choice((0, 1, 2, rng.randrange(40), rng.randrange(40), rng.randrange(400), rng.randrange(3000)))
    if rng.random() < 0.001:
        size = rng.randrange(300_000)
    if rng.random() < 0.1:
        return (b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nevil0\r\n\r\n" * (size // 40 + 1))[:size]
    return rng.randbytes(size)


def _case(rng: Random, word: bytes) -> bytes:
    return rng.choice((word, word, word.lower(), word.upper(), word.swapcase()))


def _after(rng: Random, name: bytes) -> bytes:
    """What follows a value. llhttp knows no framing with a tab after it: see ``test_llhttp_corners.py``."""
    blank = rng.choice(_BLANK)
    return blank if name.startswith(b"X-") else blank.replace(b"\t", b"")


def _token(rng: Random) -> bytes:
    start = int(rng.random() * 4_900)
    return _TOKENS[start : start + 1 + int(rng.random() * 11)]


def _value(rng: Random) -> bytes:
    if rng.random() < 0.05:
        return "naïve – 值".encode()
    start = int(rng.random() * 9_000)
    size = int(rng.random() * (60 if rng.random() < 0.995 else 60_000))
    return _VALUES[start : start + size].strip(b" \t")


def _fields(rng: Random) -> list[tuple[bytes, bytes]]:
    fields = [(b"X-" + _token(rng), _value(rng)) for _ in range(rng.choice((0, 1, 1, 2, 3, 6)))]
    if fields and rng.random() < 0.1:
        fields.append((fields[0][0], _value(rng)))
    return fields


def _interim(rng: Random) -> bytes:
    if rng.random() < 0.9:
        return b""
    one = rng.choice((b"HTTP/1.1 100 Continue\r\n\r\n", b"HTTP/1.1 103 Hints\r\nLink: </a>\r\nX-No: 1\r\n\r\n"))
    return one * rng.randrange(1, 4)


def _chunked(rng: Random, data: bytes) -> bytes:
    out, at = [], 0
    while at < len(data):
        size = rng.choice(
            (1, 2, rng.randrange(1, 20), rng.randrange(1, 300), rng.randrange(1, 20_000), len(data) // 3 + 1)
        )
        piece = data[at : at + size]
        at += size
        out.append(b"%b%b\r\n%b\r\n" % (_size(rng, len(piece)), _extension(rng), piece))
    out.append(b"%b%b\r\n" % (_size(rng, 0), _extension(rng)))
    if rng.random() < 0.15:
        out.extend(b"X-T-%b: %b\r\n" % (_token(rng), _value(rng)[:50]) for _ in range(rng.randrange(1, 4)))
    out.append(b"\r\n")
    return b"".join(out)


def _size(rng: Random, size: int) -> bytes:
    return (b"%x" if rng.random() < 0.8 else b"%X" if rng.random() < 0.5 else b"%06x") % size


def _extension(rng: Random) -> bytes:
    return b"" if rng.random() < 0.9 else rng.choice((b";a", b";a=b", b";q=1;r=2", b';s="t u;v"', b';w="\\"x"'))


def cut(rng: Random, wire: bytes) -> list[bytes]:
    """``wire`` in the reads of a client: whole, in a few pieces, in many, or byte by byte."""
    manner = rng.random()
    if manner < 0.3 or len(wire) < 2:
        return [wire]
    if manner < 0.34 and len(wire) < 4000:
        return [wire[place : place + 1] for place in range(len(wire))]
    count = rng.randrange(1, 5) if manner < 0.9 else rng.randrange(5, 40)
    near = min(len(wire), 400)  # the head, and what follows it at once
    places = sorted({rng.randrange(1, near if rng.random() < 0.5 else len(wire)) for _ in range(count) if near > 1})
    return [wire[start:end] for start, end in zip([0, *places], [*places, len(wire)], strict=True)]


def spoil(rng: Random, wire: bytes) -> bytes:
    """``wire`` with one to three faults: bytes changed, lost, doubled, put in, or the rest cut off."""
    spoilt = bytearray(wire)
    for _ in range(rng.choice((1, 1, 1, 2, 3))):
        if not spoilt:
            break
        # Most faults are where the framing is: in the head, and at the end.
        near = min(len(spoilt), 300)
        place = rng.choice((rng.randrange(near), rng.randrange(len(spoilt)), len(spoilt) - 1 - rng.randrange(near)))
        _spoil_at(rng, spoilt, place)
    return bytes(spoilt)


def _spoil_at(rng: Random, data: bytearray, place: int) -> None:
    size = rng.choice((1, 1, 1, 2, 5, 20))
    match rng.randrange(6):
        case 0:
            data[place] ^= 1 << rng.randrange(8)
        case 1:
            data[place] = rng.randrange(256)
        case 2:
            del data[place : place + size]
        case 3:
            data[place:place] = data[place : place + size]
        case 4:
            data[place:place] = rng.choice(_INSERTED)
        case _:
            if rng.random() < 0.4:
                del data[place:]
            else:
                data += data[place:]
