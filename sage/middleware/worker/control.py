"""The worker's own calls to the gateway: one kept connection, blocking, as lean as they can be.

Claiming and finishing are all that a short job costs beyond Celery, so this is no full HTTP client. It reads what HTTP
servers and proxies answer to small requests: a length or chunks, and a connection that may close in between.
"""

from __future__ import annotations

import contextlib
import socket
import ssl
import time
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

import orjson

from sage.errors import ConfigError

_SECONDS = 10.0
_MOST_HEAD = 65536
_MOST_BODY = 64 * 2**20


@dataclass(slots=True)
class ControlAnswer:
    """A status and a body."""

    status: int
    body: bytes

    def json(self) -> dict[str, Any]:
        """The body's object; empty if it is none."""
        try:
            value = orjson.loads(self.body)
        except ValueError:
            return {}
        return value if isinstance(value, dict) else {}

    @property
    def code(self) -> str:
        """The code of an error; empty if there is none."""
        error = self.json().get("error")
        return str(error.get("code") or "") if isinstance(error, dict) else ""


class ControlConnection:
    """A connection to the gateway with the worker's credential. Belongs to one thread of one process."""

    def __init__(self, url: str, credential: str) -> None:
        """Raises :class:`ConfigError`."""
        try:
            parts = urlsplit(url)
            self._host, self._port = parts.hostname or "", parts.port or (443 if parts.scheme == "https" else 80)
            good = parts.scheme in ("http", "https") and self._host and not parts.query and parts.username is None
        except ValueError:
            good = False
        if not good:
            raise ConfigError(f"SAGE_URL '{url[:200]}' is not an address such as http://127.0.0.1:8000")
        if not (credential.isascii() and credential.isprintable()):
            raise ConfigError("SAGE_API_KEY holds a line end or a character that no key has; copy it again")
        self._tls = ssl.create_default_context() if parts.scheme == "https" else None
        self._path = parts.path.rstrip("/")
        self._head = (
            f"Host: {parts.netloc}\r\nAuthorization: Bearer {credential}\r\nContent-Type: application/json\r\n"
            "Content-Length: "
        ).encode()
        self._socket: socket.socket | None = None
        self._rest = b""

    def post(self, path: str, body: dict[str, Any]) -> ControlAnswer:
        """Raises :class:`OSError` when the gateway does not answer. What it asks for may have been done then."""
        content = orjson.dumps(body)
        request = b"POST %s HTTP/1.1\r\n%s%d\r\n\r\n%s" % (
            (self._path + path).encode(),
            self._head,
            len(content),
            content,
        )
        kept = self._socket is not None
        try:
            return self._exchange(request)
        except OSError:
            self.close()
            if not kept:
                raise
        # A kept connection may have been closed since: what is asked here may be asked twice.
        try:
            return self._exchange(request)
        except OSError:
            self.close()
            raise

    def post_patiently(self, path: str, body: dict[str, Any], seconds: float) -> ControlAnswer | None:
        """As :meth:`post`, and tried again while the gateway does not answer or cannot now (5xx), for that long."""
        end, pause = time.monotonic() + seconds, 0.1
        while True:
            answer = None
            with contextlib.suppress(OSError):
                answer = self.post(path, body)
            if answer is not None and answer.status < 500:
                return answer
            if time.monotonic() + pause > end:
                return answer
            time.sleep(pause)
            pause = min(2 * pause, 2.0)

    def close(self) -> None:
        """Ends the connection; the next call makes a new one."""
        if self._socket is not None:
            with contextlib.suppress(OSError):
                self._socket.close()
        self._socket, self._rest = None, b""

    def _exchange(self, request: bytes) -> ControlAnswer:
        if self._socket is None:
            self._socket = self._connect()
        self._socket.sendall(request)
        head = self._until(b"\r\n\r\n", _MOST_HEAD)
        status_line, *lines = head.decode("latin-1").split("\r\n")
        words = status_line.split(" ", 2)
        if len(words) < 2 or not words[0].startswith("HTTP/1.") or not words[1].isdecimal():
            raise ConnectionError("no answer in HTTP")
        fields = {name.strip().lower(): value.strip() for name, _, value in (line.partition(":") for line in lines)}
        body = self._body(int(words[1]), fields)
        if fields.get("connection", "").lower() == "close" or words[0] == "HTTP/1.0":
            self.close()
        return ControlAnswer(int(words[1]), body)

    def _connect(self) -> socket.socket:
        plain = socket.create_connection((self._host, self._port), _SECONDS)
        plain.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        return plain if self._tls is None else self._tls.wrap_socket(plain, server_hostname=self._host)

    def _body(self, status: int, fields: dict[str, str]) -> bytes:
        if status in (204, 304):
            return b""
        if fields.get("transfer-encoding", "").lower() == "chunked":
            return self._chunks()
        length = fields.get("content-length", "")
        if not length.isdecimal() or int(length) > _MOST_BODY:
            raise ConnectionError("an answer without a length")
        return self._exactly(int(length))

    def _chunks(self) -> bytes:
        parts: list[bytes] = []
        while True:
            line = self._until(b"\r\n", _MOST_HEAD).partition(b";")[0].strip()
            try:
                size = int(line, 16)
            except ValueError:
                raise ConnectionError("no chunk") from None
            if not 0 <= size <= _MOST_BODY:
                raise ConnectionError("a chunk that is too large")
            if size == 0:
                while self._until(b"\r\n", _MOST_HEAD):
                    pass
                return b"".join(parts)
            parts.append(self._exactly(size))
            self._exactly(2)

    def _until(self, mark: bytes, most: int) -> bytes:
        while (index := self._rest.find(mark)) < 0:
            if len(self._rest) > most:
                raise ConnectionError("a head without an end")
            self._receive()
        found, self._rest = self._rest[:index], self._rest[index + len(mark) :]
        return found

    def _exactly(self, count: int) -> bytes:
        while len(self._rest) < count:
            self._receive()
        found, self._rest = self._rest[:count], self._rest[count:]
        return found

    def _receive(self) -> None:
        assert self._socket is not None
        data = self._socket.recv(262144)
        if not data:
            raise ConnectionResetError("the gateway closed the connection")
        self._rest += data
