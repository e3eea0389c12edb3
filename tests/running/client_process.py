"""A process that sends requests with one of the clients towards upstreams, in the loop that the gateway runs in.

with ClientProcess("builtin", SSL_CERT_FILE=…) as client:
    (got,) = client.ask(Ask("https://…"))
"""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Self

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


class ClientProcess:
    """A process with these environment variables, which ends with its block."""

    def __init__(self, kind: str, **variables: str) -> None:
        environment = {name: value for name, value in os.environ.items() if not name.startswith("SSL_CERT")}
        environment |= {"PYTHONPATH": str(ROOT), **variables}
        command = [sys.executable, __file__, kind]
        self._process = subprocess.Popen(
            command, env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        _, complaints = self._process.communicate(timeout=30)
        assert (self._process.returncode, complaints) == (0, "")

    def ask(self, *asks: Ask) -> list[Got]:
        """What comes of ``asks``, one after another, over one transport."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(json.dumps([asdict(ask) for ask in asks]) + "\n")
        self._process.stdin.flush()
        line = self._process.stdout.readline()
        assert line, "it has ended"
        return [Got(**found) for found in json.loads(line)]


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
    for line in sys.stdin:
        asked = [Ask(**fields) for fields in json.loads(line)]
        print(json.dumps([asdict(found) for found in uvloop.run(_ask_all(sys.argv[1], asked))]), flush=True)
