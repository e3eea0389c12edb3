"""Answers that come compressed though none was asked for: some proxies do it whatever ``Accept-Encoding`` says."""

from __future__ import annotations

import zlib
from collections.abc import Iterator
from typing import Protocol

_PIECE = 2**20
"""Bytes of text in one piece, however much a few compressed bytes hold."""


class Decoder(Protocol):
    """Turns compressed bytes into text; both raise :class:`ValueError` for what is not in its format."""

    def feed(self, data: bytes) -> Iterator[bytes]: ...

    def close(self) -> None:
        """The compressed bytes have ended; raises if the text has not."""
        ...


def decoder(encodings: str) -> Decoder:
    """The decoder for a ``Content-Encoding``. Raises :class:`ValueError` for one that cannot be read here."""
    names = [name for name in encodings.lower().replace(" ", "").split(",") if name not in ("", "identity")]
    if not names:
        return _Plain()
    if len(names) > 1 or names[0] not in ("gzip", "x-gzip", "deflate"):
        raise ValueError(f"its answer is compressed with '{encodings[:50]}', which was not asked for")
    return _Zlib(raw_too=names[0] == "deflate")


class _Plain:
    def feed(self, data: bytes) -> Iterator[bytes]:
        return iter((data,))

    def close(self) -> None:
        return None


class _Zlib:
    def __init__(self, *, raw_too: bool) -> None:
        self._raw_too = raw_too
        self._inflate = zlib.decompressobj(wbits=zlib.MAX_WBITS | 32)  # gzip or zlib, as its head says
        self._begun = False

    def feed(self, data: bytes) -> Iterator[bytes]:
        while data:
            if self._inflate.eof:  # gzip may consist of several members
                self._inflate = zlib.decompressobj(wbits=zlib.MAX_WBITS | 32)
            piece = self._decompress(data)
            data = self._inflate.unconsumed_tail or self._inflate.unused_data
            self._begun = True
            if piece:
                yield piece

    def _decompress(self, data: bytes) -> bytes:
        try:
            return self._inflate.decompress(data, _PIECE)
        except zlib.error as exc:
            if not self._raw_too or self._begun:
                raise ValueError(f"its compressed answer is damaged ({exc})") from exc
        # Some servers send 'deflate' without the head that RFC 9110 asks for.
        self._inflate = zlib.decompressobj(wbits=-zlib.MAX_WBITS)
        try:
            return self._inflate.decompress(data, _PIECE)
        except zlib.error as exc:
            raise ValueError(f"its compressed answer is damaged ({exc})") from exc

    def close(self) -> None:
        if self._begun and not self._inflate.eof:
            raise ValueError("its compressed answer is cut off")
