"""What the head of a request may be: how large, and never such that it is open where the body ends."""

from __future__ import annotations

import re

from sage.errors import InvalidRequest

MAX_HEAD = 64 * 1024
"""Bytes of a request line and its headers."""
FRAMING = frozenset({b"expect", b"transfer-encoding", b"upgrade"})
"""The headers that :func:`check_framing` looks at."""

Headers = list[tuple[bytes, bytes]]


class HeadTooLarge(InvalidRequest):
    """A request line and headers of more than :data:`MAX_HEAD` bytes (431)."""

    status = 431
    default_code = "head_too_large"


def head_too_large() -> HeadTooLarge:
    return HeadTooLarge(f"the request's head is larger than {MAX_HEAD} bytes")


def size_of(url: bytes, headers: Headers) -> int:
    """Bytes of the head that are kept so far."""
    return len(url) + sum(len(name) + len(value) + 4 for name, value in headers)


def check_framing(name: bytes, value: bytes, version: str) -> None:
    """Raises :class:`InvalidRequest` for a header that would leave it open where the body ends. ``value`` is in lower
    case."""
    if name == b"upgrade" and b"websocket" in value:
        raise InvalidRequest(
            "WebSocket is not spoken here; streams are server-sent events ('stream': true)", code="upgrade_refused"
        )
    if name == b"transfer-encoding" and (value != b"chunked" or version != "1.1"):
        raise InvalidRequest(
            f"the transfer encoding '{value[:100].decode('latin-1')}' is not known; a body has a Content-Length, "
            "or comes with 'Transfer-Encoding: chunked' in HTTP/1.1",
            code="transfer_encoding",
        )


def check_no_body(headers: Headers) -> None:
    """The parser takes no body after a head that asks for another protocol."""
    if any(name == b"transfer-encoding" or (name == b"content-length" and value != b"0") for name, value in headers):
        raise InvalidRequest(
            "a request with a body cannot ask for another protocol ('Upgrade'); send it as HTTP/1.1 (in Java: "
            "HttpClient.newBuilder().version(HttpClient.Version.HTTP_1_1))",
            code="upgrade_refused",
        )


def check_target(url: bytes, headers: Headers) -> None:
    """RFC 9112, 3.2.2: a target that names a host is as good as the header. Two hosts would leave it open which of them
    was checked."""
    authority = url.partition(b"://")[2]
    host = re.split(rb"[/?#]", authority, maxsplit=1)[0].lower()
    if host and any(name == b"host" and value.strip().lower() != host for name, value in headers):
        raise InvalidRequest("the request names two hosts", code="host_not_allowed")
