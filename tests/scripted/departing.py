"""A client that can leave at a moment of the test's choosing, not after some time."""

from __future__ import annotations

import json
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from running_gateway import Running


@contextmanager
def asking(running: Running, path: str = "/v1/chat/completions", **body: Any) -> Iterator[socket.socket]:
    """Sends a request for the model ``bench``, a chat unless ``body`` says else; the client leaves with the block."""
    payload = {"model": "bench", **(body or {"messages": [{"role": "user", "content": "hello"}]})}
    data = json.dumps(payload).encode()
    host, port = running.url.removeprefix("http://").split(":")
    head = f"POST {path} HTTP/1.1\r\nhost: {host}:{port}\r\nauthorization: Bearer {running.key}\r\n"
    with socket.create_connection((host, int(port)), timeout=30) as sock:
        sock.sendall(f"{head}content-length: {len(data)}\r\n\r\n".encode() + data)
        yield sock
