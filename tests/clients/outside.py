"""What leaves loopback: in a network namespace whose every address is this machine, all packets can be looked at."""

from __future__ import annotations

import ipaddress
import os
import socket
import struct
import threading
import time
from pathlib import Path
from types import TracebackType
from typing import Self

VARIABLE = "SAGE_ONLY_LOOPBACK"
"""Set by ``make test-clients`` where the tests run in a namespace of their own (``only_loopback.sh``)."""

_ALL_PROTOCOLS = 0x0003  # ETH_P_ALL
_IPV4, _IPV6 = 0x0800, 0x86DD
_TCP, _UDP = 6, 17
_SYN, _ACK = 0x02, 0x10


def can_be_watched() -> bool:
    """Whether these tests run in such a namespace."""
    return os.environ.get(VARIABLE) == "1" and Path("/proc/net/route").exists()


class Outside:
    """The addresses beyond loopback that any program asked for while the block ran, in their order."""

    def __init__(self) -> None:
        self.addresses: list[str] = []
        self._socket = socket.socket(socket.AF_PACKET, socket.SOCK_DGRAM, socket.htons(_ALL_PROTOCOLS))
        self._socket.bind(("lo", 0))
        self._socket.settimeout(0.1)
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._read, name="outside")

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, exc: BaseException | None, trace: TracebackType | None
    ) -> None:
        time.sleep(0.2)  # the last packets
        self._ended.set()
        self._thread.join()
        self._socket.close()

    def _read(self) -> None:
        while not self._ended.is_set():
            try:
                packet, (_, protocol, *_) = self._socket.recvfrom(65535)
            except TimeoutError:
                continue
            target = _target(protocol, packet)
            if target is not None and target not in self.addresses:
                self.addresses.append(target)


def _target(protocol: int, packet: bytes) -> str | None:
    """``address:port`` that a packet of TCP or UDP is for, with the name that it asks for if it is a question to DNS;
    ``None`` for a packet within loopback, and for an answer."""
    if protocol == _IPV4 and len(packet) >= 20:
        transport, payload = packet[9], packet[(packet[0] & 15) * 4 :]
        target = ipaddress.ip_address(packet[16:20])
    elif protocol == _IPV6 and len(packet) >= 40:
        transport, payload = packet[6], packet[40:]
        target = ipaddress.ip_address(packet[24:40])
    else:
        return None
    if target.is_loopback or target.is_multicast or transport not in (_TCP, _UDP) or len(payload) < 14:
        return None
    (port,) = struct.unpack("!H", payload[2:4])
    if transport == _TCP and payload[13] & (_SYN | _ACK) != _SYN:
        return None
    return f"{target}:{port}{_question(payload[8:]) if transport == _UDP and port == 53 else ''}"


def _question(message: bytes) -> str:
    """`` (name)`` of a DNS message (RFC 1035, 4.1)."""
    labels, at = [], 12
    while at < len(message) and (length := message[at]):
        labels.append(message[at + 1 : at + 1 + length].decode("ascii", "replace"))
        at += 1 + length
    return f" ({'.'.join(labels)})"
