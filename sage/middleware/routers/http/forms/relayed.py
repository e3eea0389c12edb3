"""A form that goes on to an upstream while it comes in.

What decides (``model``) may stand behind a file: the form's beginning is read until it has come. Up to 1 MiB of that is
kept in memory, and more in a file. Once it has come, all goes on as it comes, in chunks, at the upstream's pace. While
that is no more than 1 MiB it is kept, so that another deployment can have it. A form that is known to be smaller is
read first, and sent with its length.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Collection, Mapping
from typing import Any

from sage.errors import InvalidRequest, PayloadTooLarge
from sage.middleware.gateway.watch import ClientLeft
from sage.middleware.routers.http.asgi import Receive
from sage.middleware.routers.http.forms.spool import IN_MEMORY, FormSpool
from sage.middleware.routers.http.forms.transcoder import Check, FormTranscoder


class RelayedForm:
    """The :class:`~sage.middleware.providers.base.Form` of a request. To be closed."""

    def __init__(
        self, receive: Receive, content_type: str, size: int | None, limit: int, setting: str, check: Check
    ) -> None:
        """``limit`` is how many bytes it has at most, which ``setting`` says; ``check`` is given the fields that come
        after its beginning was sent."""
        self._receive = receive
        self._transcoder = FormTranscoder(content_type)
        self.content_type = self._transcoder.content_type
        self.size = size
        self._limit = limit
        self._setting = setting
        self._check = check
        self._spool = FormSpool()
        """All that was written so far, unless :attr:`_is_gone`."""
        self._is_gone = False
        self._read = 0
        self._more = True
        """Whether the request's body has not come to its end."""
        self._current: FormUpload | None = None
        self.ended = asyncio.Event()
        """Set once all of the body was read."""

    async def read_beginning(self, required: Collection[str]) -> dict[str, Any]:
        """The fields of the form, as far as they had come when a file began and all ``required`` ones were there, or
        the form was whole. A form that fits into memory is read to its end."""
        form, is_small = self._transcoder, self.size is not None and self.size <= IN_MEMORY
        while not form.is_complete and (is_small or not (form.files and all(map(form.has, required)))):
            await self._spool.append(await self._next())
        form.freeze()
        return form.body()

    @property
    def has_files(self) -> bool:
        """Whether a file has begun."""
        return bool(self._transcoder.files)

    @property
    def can_repeat(self) -> bool:
        return not self._is_gone

    def open(self, model: str, check: Callable[[Mapping[str, Any]], None]) -> FormUpload:
        def check_late(fields: Mapping[str, Any]) -> None:
            self._check(fields)
            check(fields)

        head, form = self._transcoder.head(model), self._transcoder
        form.check = check_late
        length = len(head) + self._spool.size if form.is_complete and not self._is_gone else None
        self._current = FormUpload(self, head, length)
        return self._current

    async def read_for(self, upload: FormUpload, position: int) -> bytes:
        """What ``upload``, which has had ``position`` bytes of it, is to have next; empty at the end."""
        if upload is not self._current:
            raise asyncio.CancelledError  # another attempt has taken its place
        if not self._is_gone and position < self._spool.size:
            return await self._spool.read(position)
        if self._transcoder.is_complete:
            await self._read_rest()
            return b""
        data = b""
        while not data and not self._transcoder.is_complete:
            data = await self._next()
        if self._is_gone:
            return data
        if self._spool.is_on_disk or self._spool.size + len(data) <= IN_MEMORY:
            await self._spool.append(data)
        else:
            self._is_gone = True
            self._spool.clear()
        return data

    async def _next(self) -> bytes:
        """What the next bytes of the body become; may be empty."""
        form = self._transcoder
        form.feed(await self._receive_piece())
        if not self._more and not form.is_complete:
            raise InvalidRequest("the form ends before its last boundary", code="invalid_form")
        data = bytes(form.written)
        form.written.clear()
        return data

    async def _read_rest(self) -> None:
        """Reads what stands behind the last boundary, so that the connection can serve again."""
        while self._more:
            await self._receive_piece()

    async def _receive_piece(self) -> bytes:
        message = await self._receive()
        if message["type"] == "http.disconnect":
            raise ClientLeft
        data: bytes = message.get("body", b"")
        self._read += len(data)
        if self._read > self._limit:
            raise form_too_large(self._limit, self._setting)
        self._more = message.get("more_body", False)
        if not self._more:
            self.ended.set()
        return data

    def close(self) -> None:
        """Lets go of what was kept."""
        self._current = None
        self._spool.clear()


class FormUpload:
    """The :class:`~sage.middleware.providers.base.Upload` of one attempt."""

    def __init__(self, form: RelayedForm, head: bytes, length: int | None) -> None:
        self.length = length
        self._form = form
        self._head = head
        self._position = 0

    async def read(self) -> bytes:
        if self._head:
            head, self._head = self._head, b""
            return head
        data = await self._form.read_for(self, self._position)
        self._position += len(data)
        return data


def form_too_large(limit: int, setting: str) -> PayloadTooLarge:
    """The error for a form of more than ``limit`` bytes."""
    return PayloadTooLarge(f"the form is larger than {limit} bytes ({setting})")
