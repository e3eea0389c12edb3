"""The answers of framework routes that are under way, so that they end when their caller loses the right to them."""

from __future__ import annotations

import asyncio
import contextlib
import math
from collections.abc import Callable

import orjson
from starlette.responses import FileResponse, Response, StreamingResponse

from sage.errors import SageError
from sage.middleware.auth.principal import Principal
from sage.middleware.auth.principal import Scope as Permission
from sage.middleware.gateway.watch import ClientLeft
from sage.middleware.routers.http.asgi import Message, Receive, Scope, Send, error_facts, note

STILL_ALLOWED = "still_allowed"
"""In the state of a request: what its caller needs beside the route's scope, ``Callable[[Principal], object]``, which
raises :class:`SageError`."""
REVOKED = "revoked"
"""In the state of a request, once its caller has lost the right to the answer: the error."""
ERROR_PIECE = "error_piece"
"""In the state of a request whose answer ends with errors of its own shape: ``Callable[[SageError], bytes]``."""
_LAST_PIECE = 1.0
"""Seconds that the error at the end of an answer may take to be sent."""


class OpenAnswers:
    """Those of one application; belongs to one event loop."""

    def __init__(self) -> None:
        self._open: set[OpenAnswer] = set()

    def add(self, answer: OpenAnswer) -> None:
        self._open.add(answer)

    def discard(self, answer: OpenAnswer) -> None:
        """It is over."""
        self._open.discard(answer)

    def list(self) -> list[OpenAnswer]:
        """Those that are under way now."""
        return list(self._open)


class LongAnswer(Response):
    """An answer that is made while it is sent, however long that takes."""


class OpenAnswer(Response):
    """One answer, from the moment at which its caller is known.

    While an endpoint still works on it nothing is torn: the work ends, and then its caller gets the error instead of
    what was made. An answer that is sent piece by piece ends at once, with the error as the last event or line where
    it has such, else by a broken connection.
    """

    def __init__(self, scope: Scope, required: Permission, answers: OpenAnswers) -> None:
        self.scope: Scope | None = scope
        self.required = required
        self.trusted_at = -1
        self.until = math.inf
        self._answers = answers
        self._response: Response | None = None
        self._task: asyncio.Task[None] | None = None
        self._is_started = self._is_complete = False
        self._media_type = ""
        answers.add(self)

    def made(self, response: Response) -> Response:
        """``response`` is what the endpoint has made; returns what is to be sent."""
        is_long = isinstance(response, StreamingResponse | FileResponse | LongAnswer)
        if not is_long:
            self.end()
        if self.revoked is not None:
            raise self.revoked
        if not is_long:
            return response
        self._response = response
        self.status_code = response.status_code
        self.background = None
        self.raw_headers = response.raw_headers
        return self

    def end(self) -> None:
        """It is over, or there will be none."""
        self._answers.discard(self)

    @property
    def revoked(self) -> SageError | None:
        error: SageError | None = self.scope["state"].get(REVOKED) if self.scope is not None else None
        return error

    def require_right(self, rights: Principal) -> None:
        """Raises :class:`SageError` where a new request like it would be refused to who has these ``rights``."""
        assert self.scope is not None
        rights.require(self.required)
        still_allowed: Callable[[Principal], object] | None = self.scope["state"].get(STILL_ALLOWED)
        if still_allowed is not None:
            still_allowed(rights)

    def revoke(self, error: SageError) -> None:
        """Its caller has lost the right to it."""
        if self.scope is None or self.revoked is not None:
            return
        self.scope["state"][REVOKED] = error
        if self._task is not None:
            self._task.cancel()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async def noted(message: Message) -> None:
            if message["type"] == "http.response.start":
                self._is_started = True
                headers = dict(message.get("headers", ()))
                self._media_type = headers.get(b"content-type", b"").decode("latin-1").partition(";")[0]
            if message["type"] == "http.response.body" and not message.get("more_body", False):
                self._is_complete = True
            await send(message)

        assert self._response is not None
        self._task = task = asyncio.current_task()
        assert task is not None
        try:
            if self.revoked is None:
                await self._response(scope, receive, noted)
        except asyncio.CancelledError:
            if self.revoked is None:
                raise
            task.uncancel()
        finally:
            self.end()
            self._task = None
        if self.revoked is not None and not self._is_complete:
            await self._break(self.revoked, scope, noted)

    async def _break(self, error: SageError, scope: Scope, send: Send) -> None:
        if not self._is_started:
            raise error
        note(scope, **error_facts(error))
        error_piece: Callable[[SageError], bytes] | None = scope["state"].get(ERROR_PIECE)
        if error_piece is not None:
            last = error_piece(error)
        elif self._media_type == "text/event-stream":
            last = b"event: error\ndata: %s\n\n" % orjson.dumps(error.envelope())
        elif self._media_type == "application/x-ndjson":
            last = orjson.dumps(error.envelope()) + b"\n"
        else:
            raise ClientLeft  # a file that is cut off must not look whole
        with contextlib.suppress(TimeoutError):  # a client that does not read is cut off
            async with asyncio.timeout(_LAST_PIECE):
                await send({"type": "http.response.body", "body": last, "more_body": True})
                await send({"type": "http.response.body", "body": b"", "more_body": False})
