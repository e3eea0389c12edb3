"""Ports of this machine, for tests that start servers."""

from __future__ import annotations

import socket
import time


def free_port() -> int:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        return int(taken.getsockname()[1])


def wait_for_port(port: int, seconds: float = 15.0) -> None:
    """Returns once a server accepts connections at ``port``."""
    until = time.monotonic() + seconds
    while True:
        try:
            socket.create_connection(("127.0.0.1", port), 1).close()
            return
        except OSError:
            assert time.monotonic() < until, f"no server accepts connections at port {port}"
            time.sleep(0.02)
