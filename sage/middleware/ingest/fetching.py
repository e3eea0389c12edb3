"""Documents from URLs: one answer from an address that was checked, no redirects, bounds of size and time."""

from __future__ import annotations

import asyncio
import codecs
import re
import socket
import zlib
from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import BinaryIO

import aiohttp
from yarl import URL

from sage.addresses import AddressRefused, AllowedHosts, Destination
from sage.middleware.ingest.document import FileKind, Unreadable
from sage.middleware.ingest.files import kind_of_stdin
from sage.middleware.ingest.formats.html import browsers_name
from sage.pinned_resolver import pinned_session

_KINDS = {
    "text/html": FileKind.HTML,
    "application/xhtml+xml": FileKind.HTML,
    "application/pdf": FileKind.PDF,
    "application/x-pdf": FileKind.PDF,
    "text/markdown": FileKind.MARKDOWN,
    "text/x-markdown": FileKind.MARKDOWN,
    "text/csv": FileKind.CSV,
    "text/tab-separated-values": FileKind.CSV,
    "application/epub+zip": FileKind.EPUB,
    "application/x-ipynb+json": FileKind.NOTEBOOK,
    "application/vnd.openxmlformats-officedocument.wordprocessingml.document": FileKind.DOCX,
    "application/vnd.openxmlformats-officedocument.presentationml.presentation": FileKind.PPTX,
    "application/vnd.openxmlformats-officedocument.spreadsheetml.sheet": FileKind.SHEET,
    "application/vnd.ms-excel": FileKind.SHEET,
    "application/vnd.oasis.opendocument.spreadsheet": FileKind.SHEET,
    "application/x-ndjson": FileKind.JSONL,
    "application/ndjson": FileKind.JSONL,
    "application/jsonl": FileKind.JSONL,
    "application/x-jsonlines": FileKind.JSONL,
}
_WINDOWS = {"gzip": 16 + zlib.MAX_WBITS, "x-gzip": 16 + zlib.MAX_WBITS, "deflate": zlib.MAX_WBITS}
_CHARSET = re.compile(r"(iso-?8859-\d+|windows-\d+|cp\d+|gb\w+|big5\w*|shift_jis|x-sjis|euc-\w+|koi8-\w)", re.I)
_PIECE = 2**16
_HEADERS = {
    "Accept": "text/html, application/xhtml+xml, application/pdf, text/markdown, text/plain, */*;q=0.5",
    "Accept-Encoding": "gzip, identity;q=0.5",
    "User-Agent": "sage-ingest",
}


@dataclass(frozen=True, slots=True)
class FetchLimits:
    """Limits of one document: bytes, as sent and as unpacked, and seconds from the look-up of its host to its end."""

    size: int = 256 * 2**20
    seconds: float = 120.0


@dataclass(frozen=True, slots=True)
class FetchedDocument:
    """What was written to the file. ``kind`` ``None`` means that name and content decide; ``encoding`` is what the
    server says, ``None`` that it says nothing, or what is not so."""

    size: int
    kind: FileKind | None
    encoding: str | None


async def fetch(url: str, allowed: AllowedHosts, file: BinaryIO, limits: FetchLimits) -> FetchedDocument:
    """Writes the document at ``url`` to ``file``.

    Raises :class:`Unreadable` that says why it cannot be had; its message names no address but the caller's URL. Raises
    :class:`OSError` when it cannot be written.
    """
    try:
        async with asyncio.timeout(limits.seconds):
            return await _fetch(await allowed.resolve(url), file, limits)
    except AddressRefused as exc:
        raise Unreadable(f"is not fetched: {exc.message}") from None
    except TimeoutError:
        raise Unreadable(f"was not there after {limits.seconds:g} s") from None
    except aiohttp.ClientSSLError:
        raise Unreadable("cannot be fetched: the certificate of its host is not valid") from None
    except socket.gaierror:
        raise Unreadable("cannot be fetched: its host has no address") from None
    except (aiohttp.ClientConnectorError, ConnectionError):
        raise Unreadable("cannot be fetched: its host cannot be connected to") from None
    except (aiohttp.ClientError, ValueError) as exc:
        raise Unreadable(f"cannot be fetched: its answer broke off or is not HTTP ({type(exc).__name__})") from None


async def _fetch(destination: Destination, file: BinaryIO, limits: FetchLimits) -> FetchedDocument:
    async with (
        pinned_session(destination) as session,
        session.get(URL(destination.url.url), headers=_HEADERS, allow_redirects=False) as answer,
    ):
        if answer.status in range(300, 400):
            raise Unreadable(f"was answered with {answer.status}: redirects are not followed, give the URL it leads to")
        if answer.status != 200:
            raise Unreadable(f"was answered with {answer.status}")
        charset = _Charset(answer.charset)
        size, head = 0, b""
        async for piece in _unpacked(answer, limits.size):
            size += len(piece)
            if size > limits.size:
                raise _too_large(limits.size)
            head = head or piece
            charset.check(piece)
            await asyncio.to_thread(file.write, piece)
        return FetchedDocument(size, _kind(answer, head), charset.name)


def _kind(answer: aiohttp.ClientResponse, head: bytes) -> FileKind | None:
    """What the server says, or, where it says nothing, whether it begins as HTML does."""
    if answer.content_type != "application/octet-stream":  # also what aiohttp says where there is none
        return _KINDS.get(answer.content_type)
    return FileKind.HTML if kind_of_stdin(head) is FileKind.HTML else None


async def _unpacked(answer: aiohttp.ClientResponse, most: int) -> AsyncIterator[bytes]:
    """The body without its content encoding, in small pieces: what unpacks to much is not held in memory."""
    encoding = answer.headers.get("Content-Encoding", "identity").strip().lower()
    if encoding not in ("identity", *_WINDOWS):
        raise Unreadable(f"is packed as '{encoding[:40]}', which was not asked for")
    unpacker = zlib.decompressobj(_WINDOWS[encoding]) if encoding in _WINDOWS else None
    received = 0
    async for piece in answer.content.iter_chunked(_PIECE):
        received += len(piece)
        if received > most:
            raise _too_large(most)
        if unpacker is None:
            yield piece
            continue
        try:
            while piece and not unpacker.eof:
                yield unpacker.decompress(piece, _PIECE)
                piece = unpacker.unconsumed_tail
        except zlib.error:
            raise Unreadable(f"is not what it is said to be packed as ('{encoding}')") from None
    if unpacker is not None and not unpacker.eof:
        raise Unreadable("cannot be fetched: its answer broke off")


class _Charset:
    """The encoding that a server declares, as long as the bytes fit into it. Unicode is found without that."""

    def __init__(self, declared: str | None) -> None:
        name = browsers_name(declared) if declared and _CHARSET.fullmatch(declared) else None
        self.name: str | None = None
        try:
            self._decoder = codecs.getincrementaldecoder(name)() if name else None
        except LookupError:
            self._decoder = None
        if self._decoder is not None:
            self.name = name

    def check(self, piece: bytes) -> None:
        try:
            if self._decoder is not None:
                self._decoder.decode(piece)
        except UnicodeError:
            self.name = self._decoder = None


def _too_large(most: int) -> Unreadable:
    return Unreadable(f"has more than {most} bytes (queue.ingest.max_file)")
