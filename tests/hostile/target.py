"""What an attack sees of the gateway: where it listens, the attacker's key, and how much it may do."""

from __future__ import annotations

import asyncio
import http.client
import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit


@dataclass(frozen=True)
class Answer:
    """A status, and a body that was JSON; ``None`` means that it was not."""

    status: int
    body: Any

    @property
    def code(self) -> str | None:
        """The ``code`` of an error."""
        error = self.body.get("error") if isinstance(self.body, dict) else None
        return error.get("code") if isinstance(error, dict) else None


@dataclass(frozen=True)
class Target:
    """The gateway, as the attacker knows it."""

    url: str
    key: str
    """Of the user ``mallory`` in the tenant ``mallory``, who is no admin."""
    full: bool
    """Whether this is `make hostile`; false means the small counts of `make check`."""

    def count(self, full: int, small: int) -> int:
        """How many times to do a thing."""
        return full if self.full else small

    @property
    def address(self) -> tuple[str, int]:
        """Host and port, for attacks that write bytes."""
        parts = urlsplit(self.url)
        assert parts.hostname is not None
        assert parts.port is not None
        return parts.hostname, parts.port

    def headers(self) -> dict[str, str]:
        return {"Authorization": f"Bearer {self.key}", "Content-Type": "application/json"}

    def send(
        self, method: str, path: str, body: Any = None, *, headers: Mapping[str, str] | None = None, within: float = 30
    ) -> Answer:
        """One request on a connection of its own. ``body``: bytes, or what is sent as JSON. Blocks."""
        data = body if isinstance(body, bytes) or body is None else json.dumps(body).encode()
        connection = http.client.HTTPConnection(*self.address, timeout=within)
        try:
            connection.request(method, path, data, {**self.headers(), **(headers or {})})
            response = connection.getresponse()
            return Answer(response.status, _parsed(response.read()))
        finally:
            connection.close()

    def post(self, path: str, body: Any, **options: Any) -> Answer:
        return self.send("POST", path, body, **options)

    async def posts(self, path: str, bodies: list[Any], **options: Any) -> list[Answer | BaseException]:
        """All of them at once, each on a connection of its own; some dozens, as there are threads."""
        sends = (asyncio.to_thread(self.post, path, body, **options) for body in bodies)
        return await asyncio.gather(*sends, return_exceptions=True)

    async def open(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        """A connection to write bytes to."""
        return await asyncio.open_connection(*self.address)

    def request_head(self, method: str, path: str, **fields: str) -> bytes:
        """The head of a request with the attacker's key, ready to be written; ``_`` in names is ``-``."""
        lines = [f"{method} {path} HTTP/1.1", f"Host: {self.address[0]}:{self.address[1]}"]
        lines += [f"{name}: {value}" for name, value in self.headers().items()]
        lines += [f"{name.replace('_', '-')}: {value}" for name, value in fields.items()]
        return "\r\n".join([*lines, "", ""]).encode()


def _parsed(data: bytes) -> Any:
    try:
        return json.loads(data)
    except ValueError:
        return None
