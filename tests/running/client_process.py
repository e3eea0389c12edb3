"""A process that sends requests with one of the clients towards upstreams, in the loop that the gateway runs in.

``ask_in_process(kind, [Ask(url)…], SSL_CERT_FILE=…)``: what comes of each, one after another, over one transport.
"""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import uvloop

from sage.errors import SageError
from sage.middleware.providers.base import UpstreamRequest
from sage.middleware.providers.clients import make_transport
from sage.middleware.providers.transport import Transport
from sage.middleware.settings.providers import Timeouts

ROOT = Path(__file__).resolve().parents[2]


@dataclass(frozen=True)
class Ask:
    """A POST of ``size`` bytes."""

    url: str
    size: int = 2


@dataclass(frozen=True)
class Got:
    """``code`` and ``message`` are those of an error."""

    status: int = 0
    size: int = 0
    digest: str = ""
    """SHA-256 of the body."""
    code: str = ""
    message: str = ""


def body_of(size: int) -> bytes:
    return (b"0123456789abcdef" * (size // 16 + 1))[:size]


def ask_in_process(kind: str, asks: list[Ask], **variables: str) -> list[Got]:
    """What comes of ``asks`` in a process with these environment variables."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith("SSL_CERT")}
    environment |= {"PYTHONPATH": str(ROOT), **variables}
    command = [sys.executable, __file__, kind, json.dumps([asdict(ask) for ask in asks])]
    ended = subprocess.run(command, env=environment, capture_output=True, timeout=60, check=False, text=True)
    assert (ended.returncode, ended.stderr) == (0, ""), ended.stderr
    return [Got(**found) for found in json.loads(ended.stdout)]


async def _ask(transport: Transport, ask: Ask) -> Got:
    body, limits = body_of(ask.size), Timeouts(connect=5, first_byte=10, between_chunks=10, total=30)
    try:
        response = await transport.send(UpstreamRequest("far", "POST", ask.url, {}, body, limits))
        try:
            content = await response.read()
        finally:
            response.close()
    except SageError as exc:
        return Got(code=str(exc.code), message=exc.message)
    return Got(response.status, len(content), hashlib.sha256(content).hexdigest())


async def _ask_all(kind: Any, asks: list[Ask]) -> list[Got]:
    transport = make_transport(kind)
    try:
        return [await _ask(transport, ask) for ask in asks]
    finally:
        await transport.close()


if __name__ == "__main__":
    asked = [Ask(**fields) for fields in json.loads(sys.argv[2])]
    print(json.dumps([asdict(found) for found in uvloop.run(_ask_all(sys.argv[1], asked))]))
