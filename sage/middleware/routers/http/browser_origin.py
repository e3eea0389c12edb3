"""Where a browser's request comes from, as its headers say."""

from __future__ import annotations

from urllib.parse import urlsplit

from sage.middleware.routers.http.asgi import Scope
from sage.middleware.settings.settings import LOOPBACK


def header(scope: Scope, name: bytes) -> str:
    """The value of a header; empty when there is none, or more than one."""
    values = [value for key, value in scope["headers"] if key == name]
    return values[0].decode("latin-1") if len(values) == 1 else ""


def is_same_origin(scope: Scope) -> bool | None:
    """Whether a page of ours made the request, as the browser says; ``None`` means that it says nothing.

    Older browsers, and those without TLS, send no ``Sec-Fetch-Site`` but always an ``Origin`` with what may change
    something. The scheme of it is not compared, since TLS may end before the gateway.
    """
    site = header(scope, b"sec-fetch-site")
    if site:
        return site == "same-origin"
    if not any(name == b"origin" for name, _ in scope["headers"]):
        return None
    origin, host = header(scope, b"origin").lower(), header(scope, b"host").lower()
    scheme, _, netloc = origin.partition("://")
    return scheme in ("http", "https") and bool(host) and netloc == host


def is_loopback(scope: Scope) -> bool:
    """Whether the browser knows the gateway by a name of this machine, where a cookie needs no TLS."""
    try:
        return urlsplit(f"//{header(scope, b'host')}").hostname in LOOPBACK
    except ValueError:
        return False
