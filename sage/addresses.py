"""Addresses that a caller names and this machine connects to: which are allowed, before and while it connects.

A URL of a caller must not reach what only this machine can reach. Its host must be on the administrator's list; the
name is resolved once, each address must be a public one (or be on the list itself), and the connection goes to exactly
these addresses, so that a second answer of the name server cannot lead elsewhere.
"""

from __future__ import annotations

import asyncio
import ipaddress
import re
import socket
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any
from urllib.parse import SplitResult, urlsplit

from sage.errors import InvalidRequest

Address = ipaddress.IPv4Address | ipaddress.IPv6Address
Network = ipaddress.IPv4Network | ipaddress.IPv6Network
_PORTS = {"http": 80, "https": 443}
_LONGEST_URL = 2048
_NUMERIC = re.compile(r"[0-9]+|0x[0-9a-f]*")
_LABEL = re.compile(r"(?!-)[a-z0-9_-]{1,63}(?<!-)")
_DOCUMENTATION = ipaddress.IPv6Network("3fff::/20")
_GLOBAL_UNICAST = ipaddress.IPv6Network("2000::/3")
_NAT64 = ipaddress.IPv6Network("64:ff9b::/96")
_RELAYS = ipaddress.IPv4Network("192.88.99.0/24")
_RESOLVE_SECONDS = 10.0


class AddressRefused(InvalidRequest):
    """A URL that this machine does not connect to (400)."""

    default_code = "address_refused"


@dataclass(frozen=True, slots=True)
class HostUrl:
    """A URL in its parts. ``host`` is lower case ASCII, without a dot at its end; ``address`` is what it is if it is
    an address, ``None`` means that it is a name."""

    url: str
    scheme: str
    host: str
    port: int
    address: Address | None


@dataclass(frozen=True, slots=True)
class _Entry:
    """An entry of a list of hosts: a pattern of names, or a network. ``port`` ``None`` means that of the scheme."""

    pattern: str | None
    network: Network | None
    port: int | None

    def names(self, url: HostUrl) -> bool:
        """Whether the name of the URL's host is allowed by this entry."""
        if self.pattern is None or not self._has_port(url):
            return False
        suffix = self.pattern.removeprefix("*")
        return url.host.endswith(suffix) if suffix != self.pattern else url.host == self.pattern

    def contains(self, url: HostUrl, address: Address) -> bool:
        """Whether the address is allowed by this entry, public or not."""
        return self.network is not None and self._has_port(url) and address in self.network

    def _has_port(self, url: HostUrl) -> bool:
        return url.port == (self.port if self.port is not None else _PORTS[url.scheme])


class AllowedHosts:
    """The hosts that URLs of callers may name: ``docs.example.com``, ``*.example.com``, ``*`` (every public host),
    each also with a port (``docs.example.com:8443``; without one, 80 for http and 443 for https).

    An address or a network (``10.1.2.3:8080``, ``10.1.0.0/16``, ``[fd00::1]:8080``) allows those addresses though they
    are not public: in a URL, and for an allowed name that has such an address.
    """

    def __init__(self, entries: Sequence[str], setting: str) -> None:
        """``setting`` is the list's name in errors. Raises :class:`ValueError` for an entry that is no host."""
        self.setting = setting
        self._entries = [_entry(text) for text in entries]

    def check(self, url: str) -> HostUrl:
        """The URL in its parts, checked as far as it can be without asking a name server.

        Raises :class:`AddressRefused`.
        """
        parts = parse_url(url)
        if parts.address is not None:
            self._check_address(parts, parts.address)
        elif not any(entry.names(parts) for entry in self._entries):
            raise AddressRefused(f"{_named(parts)} is not among the hosts that {self.setting} allows")
        return parts

    async def resolve(self, url: str) -> Destination:
        """Checks the URL, and asks the name server once. All addresses of the name must be allowed.

        Raises :class:`AddressRefused`, and :class:`OSError` for a name without an address.
        """
        parts = self.check(url)
        if parts.address is not None:
            return Destination(parts, (parts.address,))
        loop = asyncio.get_running_loop()
        async with asyncio.timeout(_RESOLVE_SECONDS):
            found = await loop.getaddrinfo(parts.host, parts.port, type=socket.SOCK_STREAM)
        addresses = tuple(dict.fromkeys(_address_of(info[4][0]) for info in found))
        for address in addresses:
            self._check_address(parts, address)
        return Destination(parts, addresses)

    def _check_address(self, url: HostUrl, address: Address) -> None:
        if any(entry.contains(url, address) for entry in self._entries) or (url.address is None and is_public(address)):
            return
        if url.address is None:
            raise AddressRefused(f"{_named(url)} has an address that is not public and not in {self.setting}")
        raise AddressRefused(f"{_named(url)} is an address that {self.setting} does not allow")


@dataclass(frozen=True, slots=True)
class Destination:
    """A URL and the addresses to connect to, all of them allowed."""

    url: HostUrl
    addresses: tuple[Address, ...]


def parse_url(url: Any) -> HostUrl:
    """The parts of an absolute http or https URL without a user name. Raises :class:`AddressRefused`.

    Spellings that programs read in different ways (``http://2130706433``, ``http://0x7f.1``, backslashes) are refused.
    """
    if not isinstance(url, str) or len(url) > _LONGEST_URL:
        raise AddressRefused(f"a URL must be text of at most {_LONGEST_URL} characters")
    if any(char <= " " or char in '\\\x7f"<>^`{|}' for char in url):
        raise AddressRefused("a URL has no spaces, control characters, backslashes or quotes; write %20 and so on")
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError:
        raise AddressRefused("this is not a URL such as https://docs.example.com/page") from None
    if parts.scheme not in _PORTS or not parts.hostname:
        raise AddressRefused("a URL begins with http:// or https:// and a host")
    if "@" in parts.netloc:
        raise AddressRefused("a URL with a user name or password is refused")
    if port == 0 or parts.netloc.endswith(":"):
        raise AddressRefused("a URL has a port from 1 to 65535, or none")
    host, address = _host(parts)
    shown = f"[{host}]" if address is not None and address.version == 6 else host
    netloc = shown if port in (None, _PORTS[parts.scheme]) else f"{shown}:{port}"
    clean = parts._replace(netloc=netloc, fragment="", path=parts.path or "/").geturl()
    return HostUrl(clean, parts.scheme, host, port or _PORTS[parts.scheme], address)


def is_public(address: Address) -> bool:
    """Whether an address belongs to the internet at large: not private, loopback, link-local, shared (CGNAT),
    multicast, reserved or for documentation, and not a form of version 6 that leads to such one of version 4."""
    if isinstance(address, ipaddress.IPv4Address):
        return address.is_global and not address.is_multicast and not address.is_reserved and address not in _RELAYS
    if address.scope_id is not None:
        return False
    if address in _NAT64:
        return is_public(ipaddress.IPv4Address(int(address) & 0xFFFFFFFF))
    if address.sixtofour is not None:
        return is_public(address.sixtofour)
    if address.teredo is not None or address in _DOCUMENTATION:
        return False
    return address in _GLOBAL_UNICAST and address.is_global


def _host(parts: SplitResult) -> tuple[str, Address | None]:
    """The host in its one spelling, and the address that it is, if it is one."""
    host = parts.hostname or ""
    if "[" in parts.netloc:
        try:
            address = ipaddress.IPv6Address(host)
        except ValueError:
            raise AddressRefused(f"'{host}' is not an address of version 6") from None
        if address.scope_id is not None:
            raise AddressRefused(f"'{host}' names an interface of a machine; give the address alone")
        return str(address), address
    name = _ascii(host)
    try:
        plain = ipaddress.IPv4Address(name)
    except ValueError:
        plain = None
    if plain is not None:
        return name, plain
    labels = name.split(".")
    if _NUMERIC.fullmatch(labels[-1]):
        raise AddressRefused(f"'{host}' is an address in a spelling that is refused; write it as 192.0.2.1")
    if len(name) > 253 or not all(_LABEL.fullmatch(label) for label in labels):
        raise AddressRefused(f"'{host}' is not the name of a host")
    return name, None


def _ascii(host: str) -> str:
    """The name in lower case ASCII without a dot at its end; names in other scripts as name servers know them."""
    if host.isascii():
        return host.lower().removesuffix(".")
    try:
        return host.encode("idna").decode().lower().removesuffix(".")
    except UnicodeError:
        raise AddressRefused(f"'{host}' is not the name of a host") from None


def _entry(text: str) -> _Entry:
    """An entry of the list. Raises :class:`ValueError`."""
    host, port = text.strip().lower(), None
    bracketed = re.fullmatch(r"\[([^\]]+)\](?::(\d+))?", host)
    if bracketed:
        host, digits = bracketed[1], bracketed[2]
    else:
        head, colon, digits = host.rpartition(":")
        host, digits = (head, digits) if colon and ":" not in head else (host, None)
    if digits is not None:
        if not digits.isdecimal() or not 0 < int(digits) < 65536:
            raise ValueError(f"'{text}' has no port from 1 to 65535 after its colon")
        port = int(digits)
    try:
        return _Entry(None, ipaddress.ip_network(host), port)
    except ValueError:
        pass
    try:
        name = _ascii(host)
    except AddressRefused:
        name = ""
    labels = name.removeprefix("*.").split(".") if name != "*" else ["any"]
    if not all(_LABEL.fullmatch(label) for label in labels) or _NUMERIC.fullmatch(labels[-1]):
        raise ValueError(
            f"'{text}' is not a host such as docs.example.com, *.example.com, docs.example.com:8443 or 10.1.0.0/16"
        )
    return _Entry(name, None, port)


def _address_of(text: Any) -> Address:
    return ipaddress.ip_address(str(text))


def _named(url: HostUrl) -> str:
    return f"'{url.host}'" if url.port == _PORTS[url.scheme] else f"'{url.host}:{url.port}'"
