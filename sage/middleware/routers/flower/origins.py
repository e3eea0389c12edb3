"""Which requests under ``/flower`` a page of another site may have made, and where a login may lead."""

from __future__ import annotations

import re
from urllib.parse import unquote, urlsplit

from sage.middleware.routers.http.asgi import Scope
from sage.middleware.settings.settings import LOOPBACK

HOME = "/flower/"
_MAX_TARGET = 2000
_TARGET = re.compile(r"/flower(?:[/?][!-;=?-\[\]-~]*)?")
"""Printable ASCII without ``<``, ``>``, ``\\`` and spaces."""


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


def safe_target(text: str) -> str:
    """``text`` when it is a path of Flower's pages, else their first one: a login leads nowhere else."""
    path = unquote(text.partition("?")[0])
    if len(text) > _MAX_TARGET or _TARGET.fullmatch(text) is None or "\\" in path or "//" in path:
        return HOME
    segments = path.split("/")
    if any(segment in (".", "..") for segment in segments) or segments[2:3] in (["login"], ["logout"]):
        return HOME
    return text
