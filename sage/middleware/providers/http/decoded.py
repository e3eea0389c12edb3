"""An answer that came compressed, read as if it had not."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from sage.middleware.providers.base import UpstreamRequest, UpstreamResponse
from sage.middleware.providers.http.errors import too_large, unreadable_encoding
from sage.middleware.providers.wire.compression import Decoder, decoder

MAX_ANSWER = 256 * 2**20
"""Bytes of an answer that is read as a whole."""


class DecodedResponse:
    """``response``, whose body is in ``encoding`` (``Content-Encoding``)."""

    def __init__(self, response: UpstreamResponse, request: UpstreamRequest, encoding: str) -> None:
        self.status = response.status
        self._response = response
        self._request = request
        self._encoding = encoding
        self._decoder: Decoder | None = None
        self._pieces: Iterator[bytes] = iter(())

    @property
    def headers(self) -> Mapping[str, str]:
        return self._response.headers

    async def read(self) -> bytes:
        parts: list[bytes] = []
        size = 0
        while data := await self.chunk():
            parts.append(data)
            size += len(data)
            if size > MAX_ANSWER:
                raise too_large(self._request, MAX_ANSWER)
        return b"".join(parts)

    async def chunk(self) -> bytes:
        try:
            if self._decoder is None:
                self._decoder = decoder(self._encoding)
            while not (piece := next(self._pieces, b"")):
                data = await self._response.chunk()
                if not data:
                    self._decoder.close()
                    return b""
                self._pieces = self._decoder.feed(data)
        except ValueError as exc:
            raise unreadable_encoding(self._request, exc) from exc
        return piece

    def close(self) -> None:
        self._response.close()
