"""What counts as one address."""

from __future__ import annotations

import ipaddress
from functools import lru_cache


@lru_cache(1000)
def network_of(host: str) -> str:
    """The network of whoever is at ``host``: an IPv6 host has a whole /64 of addresses, an IPv4 host one."""
    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        return host
    if isinstance(address, ipaddress.IPv6Address):
        if address.ipv4_mapped is not None:
            return str(address.ipv4_mapped)
        return str(ipaddress.IPv6Network((int(address) >> 64 << 64, 64)))
    return host
