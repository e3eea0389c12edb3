"""Answers to what never becomes a request: bytes that are no HTTP, and connections for which there is no place."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from http import HTTPStatus
from typing import Any

import orjson

from sage.errors import SageError
from sage.middleware.app.access_log import AccessLog
from sage.middleware.routers.anthropic.errors import error_answer as anthropic_error
from sage.middleware.routers.anthropic.errors import is_messages_path
from sage.middleware.routers.http.asgi import error_headers

_MAX_SHOWN = 1000  # characters of a path


class Refusals:
    """Whole answers as bytes, with our envelope, a request id and a line in the access log like any other's.

    ``new_id`` makes the id of a request; ``log=None`` means that there is none.
    """

    def __init__(
        self, new_id: Callable[[], bytes], headers: Sequence[tuple[bytes, bytes]], log: AccessLog | None
    ) -> None:
        self._new_id = new_id
        self._headers = headers
        self._log = log

    def answer(self, error: SageError, facts: dict[str, Any], target: bytes) -> bytes:
        """The answer to a request for ``target`` that runs; ``facts`` go into its own line in the log."""
        request_id = self._new_id()
        facts.update(status=error.status, error=error.code, request_id=request_id.decode())
        return self._bytes(error, request_id, target)

    def refuse(self, error: SageError, method: str, target: bytes) -> bytes:
        """The answer to what never became a request. ``method`` and ``target`` are empty when they did not come."""
        request_id = self._new_id()
        if self._log is not None:
            path = target.partition(b"?")[0][:_MAX_SHOWN].decode("latin-1")
            self._log.write(
                {
                    "time": time.time(),
                    "request_id": request_id.decode(),
                    "method": method,
                    "path": path,
                    "status": error.status,
                    "ms": 0.0,
                    "error": error.code,
                }
            )
        return self._bytes(error, request_id, target)

    def _bytes(self, error: SageError, request_id: bytes, target: bytes) -> bytes:
        if is_messages_path(target.partition(b"?")[0].decode("latin-1")):
            body, headers = anthropic_error(error, request_id.decode())
        else:
            body = orjson.dumps(error.envelope())
            headers = error_headers(error, len(body))
        fields = [*headers, (b"x-request-id", request_id), *self._headers]
        if (b"connection", b"close") not in fields:
            fields.append((b"connection", b"close"))
        head = b"".join(b"%s: %s\r\n" % field for field in fields)
        return b"HTTP/1.1 %d %s\r\n%s\r\n%s" % (error.status, HTTPStatus(error.status).phrase.encode(), head, body)
