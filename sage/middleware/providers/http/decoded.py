"""An answer that came compressed, read as if it had not."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from sage.middleware.providers.base import ReadInChunks, UpstreamRequest, UpstreamResponse
from sage.middleware.providers.http.errors import unreadable_encoding
from sage.middleware.providers.http.whole_answer import read_whole
from sage.middleware.providers.wire.compression import Decoder, decoder


class DecodedResponse(ReadInChunks):
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
        return await read_whole(self, self._request)

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
