"""The body of a request that goes out as it comes in, as aiohttp takes it."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping

from aiohttp.hdrs import CONTENT_LENGTH
from multidict import CIMultiDict

from sage.middleware.providers.base import Upload


class SentUpload:
    """An upload that aiohttp sends."""

    def __init__(self, upload: Upload) -> None:
        self._upload = upload
        self.failure: Exception | None = None
        """What reading the body has raised; aiohttp only says that it could not go on."""

    def headers(self, headers: Mapping[str, str]) -> Mapping[str, str]:
        """``headers`` with the length, where it is known; without one aiohttp sends chunks."""
        if self._upload.length is None:
            return headers
        return CIMultiDict([*headers.items(), (CONTENT_LENGTH, str(self._upload.length))])

    async def pieces(self) -> AsyncIterator[bytes]:
        """The body."""
        try:
            while piece := await self._upload.read():
                yield piece
        except Exception as exc:
            self.failure = exc
            raise
