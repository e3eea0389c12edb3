"""An answer that is read as a whole, however it comes."""

from __future__ import annotations

from sage.middleware.providers.base import UpstreamRequest, UpstreamResponse
from sage.middleware.providers.http.errors import too_large

_MAX_ANSWER = 256 * 2**20


async def read_whole(response: UpstreamResponse, request: UpstreamRequest, first: bytes = b"") -> bytes:
    """``first``, which was read already, and all chunks that follow.

    Raises what reading a chunk raises, and :class:`sage.errors.UpstreamFailed` for more than 256 MiB.
    """
    parts, size = [first], len(first)
    while data := await response.chunk():
        parts.append(data)
        size += len(data)
        if size > _MAX_ANSWER:
            raise too_large(request, _MAX_ANSWER)
    return b"".join(parts)
