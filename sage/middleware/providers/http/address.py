"""Where requests go: requests to one address share its connections."""

from __future__ import annotations

import ipaddress
from typing import NamedTuple
from urllib.parse import urlsplit


class Address(NamedTuple):
    """``host`` is a name in ASCII, as name servers know it, or an IP address without brackets."""

    host: str
    port: int
    is_tls: bool
    socket: str | None
    """The path of a Unix socket to connect to, in place of the host."""
    is_literal: bool
    """Whether ``host`` is an IP address, not a name."""

    def __str__(self) -> str:
        return "its socket" if self.socket is not None else f"{self.host}:{self.port}"

    @property
    def authority(self) -> str:
        """For the header ``Host``."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return host if self.port == (443 if self.is_tls else 80) else f"{host}:{self.port}"


def address_of(url: str, socket: str | None) -> Address:
    """Where requests for ``url`` go. Raises :class:`UnicodeError` for a name that cannot be one."""
    parts = urlsplit(url)
    host, is_tls = parts.hostname or "", parts.scheme == "https"
    if not host.isascii():
        host = host.encode("idna").decode("ascii")
    return Address(host, parts.port or (443 if is_tls else 80), is_tls, socket, _is_literal(host))


def _is_literal(host: str) -> bool:
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return False
    return True
