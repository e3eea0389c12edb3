"""Cross-origin requests (CORS): which sites' pages may call the gateway, and what a browser is told of it.

Source: WHATWG, *Fetch*, "HTTP-network-or-cache fetch" and "CORS protocol".
"""

from __future__ import annotations

from collections.abc import Iterable

from sage.errors import PermissionDenied
from sage.middleware.routers.http.asgi import Headers

_METHODS = b"GET, HEAD, POST, PUT, PATCH, DELETE"
_MAX_AGE = b"600"
"""Seconds for which a browser may remember the answer to a preflight."""
# Headers that a page may read without being told so, and those that are for the browser alone.
_NOT_EXPOSED = frozenset(
    {b"cache-control", b"content-language", b"content-length", b"content-type", b"expires", b"last-modified"}
    | {b"pragma", b"set-cookie", b"vary", b"connection", b"x-content-type-options", b"x-frame-options"}
    | {b"referrer-policy", b"content-security-policy"}
)


class AllowedOrigins:
    """The origins of ``api.allowed_origins``.

    The pages of one that is listed may send credentials. ``*`` stands for every other one, without credentials.
    """

    def __init__(self, origins: Iterable[str]) -> None:
        self._listed = frozenset(origin.encode() for origin in origins if origin != "*")
        self._any = "*" in origins

    def allows(self, origin: bytes) -> bool:
        """Whether the pages of ``origin`` may call the gateway."""
        return origin in self._listed or (self._any and bool(origin))

    def headers(self, origin: bytes, answer: Headers) -> Headers:
        """What an answer needs beside its headers ``answer``; for an origin that is not allowed, only ``Vary``."""
        vary = [(b"vary", b"origin")] if self._listed else []
        if not self.allows(origin):
            return vary
        exposed = b", ".join(name for name, _ in answer if name not in _NOT_EXPOSED and name[:15] != b"access-control-")
        return [*vary, *self._allowed(origin), (b"access-control-expose-headers", exposed)]

    def preflight(self, origin: bytes, wanted: bytes) -> Headers:
        """What a preflight is answered with; ``wanted`` are the headers that it asks for.

        Raises :class:`PermissionDenied` for an origin that is not allowed.
        """
        if not self.allows(origin):
            raise PermissionDenied(
                f"pages of the origin '{origin[:200].decode('latin-1')}' may not call this gateway; an administrator "
                "can allow it (api.allowed_origins)",
                code="origin_not_allowed",
            )
        allowed = [(b"access-control-allow-methods", _METHODS), (b"access-control-max-age", _MAX_AGE)]
        if wanted:
            allowed.append((b"access-control-allow-headers", wanted))
        return [(b"vary", b"access-control-request-headers"), *allowed]

    def _allowed(self, origin: bytes) -> Headers:
        if origin in self._listed:
            return [(b"access-control-allow-origin", origin), (b"access-control-allow-credentials", b"true")]
        return [(b"access-control-allow-origin", b"*")]


def read_origin(headers: Headers) -> bytes:
    """The origin that a request comes from; empty if it names none, or several."""
    origins = [value for name, value in headers if name == b"origin"]
    return origins[0] if len(origins) == 1 else b""
