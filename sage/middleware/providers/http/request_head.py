"""The head of a request, as the bytes that go out, but for the length of its body."""

from __future__ import annotations

import re
from collections.abc import Mapping
from urllib.parse import quote, urlsplit

from sage.middleware.providers.base import UpstreamRequest
from sage.middleware.providers.http.address import Address

# Characters that a URL may hold as they are (RFC 3986), and the sign of those that are quoted already.
_PATH = "/%:@!$&'()*+,;=~"
_QUERY = _PATH + "?"
_ESCAPE = re.compile(r"%(?:[0-9A-Fa-f]{2})?")
_NAME = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")
_CONTROL = re.compile(r"[\x00-\x08\x0a-\x1f\x7f]")
_WITHOUT_BODY = frozenset({"GET", "HEAD", "OPTIONS", "TRACE"})
# The length of the body is written with each request; only uploads are sent in chunks.
_FRAMING = frozenset({"content-length", "transfer-encoding"})


class RequestHead:
    """The head of the requests that have one method, URL and headers; only the length of their bodies differs."""

    __slots__ = ("_has_length", "_lines", "headers", "is_bodyless")

    def __init__(self, request: UpstreamRequest, address: Address) -> None:
        """Raises :class:`ValueError` for a name or value that no header can have, without showing the value."""
        self._lines = _lines(request.method, request.url, request.headers, address)
        self._has_length = _is_length_told(request.method)
        self.headers: Mapping[str, str] = request.headers
        """The object that it was made from, so that its identity does not become another's."""
        self.is_bodyless = request.method == "HEAD"
        """The answers have no body."""

    def to_send(self, body: bytes) -> bytes:
        """The whole head of a request with ``body``."""
        if body or self._has_length:
            return b"%bContent-Length: %d\r\n\r\n" % (self._lines, len(body))
        return self._lines + b"\r\n"

    def to_send_upload(self, length: int | None) -> bytes:
        """The whole head of a request with a body of ``length`` bytes; ``None`` means that it is sent in chunks."""
        framing = b"Transfer-Encoding: chunked" if length is None else b"Content-Length: %d" % length
        return self._lines + framing + b"\r\n\r\n"


def _lines(method: str, url: str, headers: Mapping[str, str], address: Address) -> bytes:
    """All lines but that of the length. Adds what every request has, where ``headers`` do not say it."""
    parts = urlsplit(url)
    target = _quoted(parts.path or "/", _PATH) + (f"?{_quoted(parts.query, _QUERY)}" if parts.query else "")
    lines = [f"{method} {target} HTTP/1.1"]
    names = {name.lower() for name in headers}
    if "host" not in names:
        lines.append(f"Host: {address.authority}")
    lines += [f"{name}: {value}" for name, value in _defaults(method).items() if name.lower() not in names]
    lines += [_line(name, value) for name, value in headers.items() if name.lower() not in _FRAMING]
    return "".join(f"{line}\r\n" for line in lines).encode()


def _quoted(text: str, safe: str) -> str:
    """``text`` with what is quoted already as it is, in capitals, and all quoted that has to be; a lone ``%`` too."""
    return _ESCAPE.sub(lambda match: match[0].upper() if len(match[0]) == 3 else "%25", quote(text, safe=safe))


def _is_length_told(method: str) -> bool:
    """Whether a request without a body says so."""
    return method not in _WITHOUT_BODY


def _defaults(method: str) -> dict[str, str]:
    defaults = {"Accept": "*/*", "Accept-Encoding": "gzip, deflate", "User-Agent": "sage-middleware"}
    return defaults | ({"Content-Type": "application/json"} if _is_length_told(method) else {})


def _line(name: str, value: str) -> str:
    if not _NAME.fullmatch(name):
        raise ValueError(f"a header cannot have the name {name!r}")
    if _CONTROL.search(value):
        raise ValueError(f"the header '{name}' holds a control character")
    return f"{name}: {value}"
