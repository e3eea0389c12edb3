"""Which proxy the environment names for an address (``proxy: env``), as curl reads its variables.

``HTTP_PROXY``, ``HTTPS_PROXY``, then ``ALL_PROXY``, not for what ``NO_PROXY`` lists; each may be written small, which
goes first. As in Go, addresses of this machine have no proxy.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Mapping
from urllib.parse import urlsplit

from sage.errors import ConfigError
from sage.middleware.settings.quantities import check_proxy


def environment_proxy(url: str, environ: Mapping[str, str]) -> str | None:
    """The proxy for requests to ``url``; ``None`` means none. Raises :class:`ConfigError` for one we cannot use."""
    parts = urlsplit(url)
    host = parts.hostname or ""
    port = parts.port or {"http": 80, "https": 443}[parts.scheme]
    for name in (f"{parts.scheme}_proxy", "all_proxy"):
        value = environ.get(name) or environ.get(name.upper())
        if value:
            break
    else:
        return None
    if _is_loopback(host) or _is_exempt(host, port, environ.get("no_proxy") or environ.get("NO_PROXY") or ""):
        return None
    proxy = value if "://" in value else f"http://{value}"
    try:
        check_proxy(proxy)
    except ValueError as exc:
        raise ConfigError(f"the environment variable {name.upper()}, which 'proxy: env' reads: {exc}") from None
    return proxy


def _is_loopback(host: str) -> bool:
    address = _address(host)
    return host == "localhost" or (address is not None and address.is_loopback)


def _is_exempt(host: str, port: int, no_proxy: str) -> bool:
    """Whether ``no_proxy`` lists the host: by its name or a domain above it, its address or a network, or ``*``."""
    return any(_matches(host, port, entry.lower()) for entry in re.split(r"[\s,]+", no_proxy) if entry)


def _matches(host: str, port: int, entry: str) -> bool:
    if entry == "*":
        return True
    address = _address(host)
    if address is not None:
        try:
            return address in ipaddress.ip_network(entry.strip("[]"), strict=False)
        except ValueError:
            pass  # a name, or an address with a port
    name, colon, only = entry.rpartition(":")
    if colon and only.isdecimal() and (name.endswith("]") or ":" not in name):
        if int(only) != port:
            return False
        entry = name
    entry = entry.strip("[]").removeprefix("*").strip(".")
    name = host.rstrip(".")
    return name == entry or (address is None and name.endswith(f".{entry}"))


def _address(host: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address | None:
    try:
        return ipaddress.ip_address(host)
    except ValueError:
        return None
