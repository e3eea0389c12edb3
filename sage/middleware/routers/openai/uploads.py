"""An uploaded file, received piece by piece onto the disk: OpenAI's form of ``POST /v1/files``."""

from __future__ import annotations

import asyncio
import re
import threading
import unicodedata
from functools import partial

from starlette.requests import ClientDisconnect, Request

from sage.errors import InvalidRequest
from sage.middleware.auth.principal import Principal
from sage.middleware.gateway.jobs.files import FileGateway
from sage.middleware.gateway.watch import ClientLeft
from sage.middleware.queue.files import FileStore, FileUpload, NewFile, StoredFile, file_too_large
from sage.middleware.routers.http.asgi import caller
from sage.middleware.routers.http.forms.one_file import FormReader

UPLOAD_PURPOSES = ("batch", "user_data", "assistants", "evals", "fine-tune", "vision", "ingest", "snapshot")
"""What a file may be uploaded for: OpenAI's, and ours."""
MIN_EXPIRY, MAX_EXPIRY = 3600, 2_592_000
"""Seconds after which a file may be made to expire: an hour to 30 days, as at OpenAI."""
_BATCH_EXPIRY = MAX_EXPIRY
_ANCHOR, _SECONDS = "expires_after[anchor]", "expires_after[seconds]"
_FIELDS = frozenset({"purpose", _ANCHOR, _SECONDS})
_MAX_NAME = 255
_NUMBER = re.compile(r"[0-9]{1,10}", re.ASCII)
_PIECE = 2**18  # bytes
_AROUND_FILE = 2**20  # bytes of a form that are not of the file, at most


async def receive_upload(request: Request, files: FileGateway) -> StoredFile:
    """Stores the file of the form. A request that fails or is left leaves nothing behind."""
    who, most = caller(request.scope), files.store.limits.max_file
    rest = most + _AROUND_FILE
    if int(request.headers.get("content-length", 0)) > rest:
        raise file_too_large(most)
    upload = _FormUpload(request.headers.get("content-type", ""), who, files.store)
    unread = bytearray()
    try:
        async for data in request.stream():
            unread += data
            rest -= len(data)
            if rest < 0:
                raise file_too_large(most)
            if len(unread) >= _PIECE:
                piece, unread = bytes(unread), bytearray()
                await files.run(who, partial(upload.feed, piece))
        return await files.run(who, partial(upload.finish, bytes(unread)))
    except ClientDisconnect:
        raise ClientLeft from None
    finally:
        await asyncio.shield(asyncio.to_thread(upload.end))


class _FormUpload:
    """One form that is being received; its methods take turns, since a caller that leaves does not wait for them."""

    def __init__(self, content_type: str, who: Principal, store: FileStore) -> None:
        self._who = who
        self._store = store
        self._file: FileUpload | None = None
        self._form = FormReader(content_type, "file", self._begin)
        self._turn = threading.Lock()
        self._is_over = False

    def _begin(self) -> FileUpload:
        if (purpose := self._form.fields.get("purpose")) is not None:
            check_purpose(purpose)  # before its bytes, where the client says it first
        self._file = self._store.create(self._who.tenant)
        return self._file

    def feed(self, data: bytes) -> None:
        with self._turn:
            if not self._is_over:
                self._form.feed(data)

    def finish(self, data: bytes) -> StoredFile:
        """The rest of the form has come: the file is stored."""
        with self._turn:
            if self._is_over:
                raise ClientLeft
            self._form.feed(data)
            self._form.finish()
            assert self._file is not None
            return self._file.commit(self._describe())

    def _describe(self) -> NewFile:
        fields = self._form.fields
        if unknown := sorted(fields.keys() - _FIELDS):
            raise InvalidRequest(
                f"the form has no field '{unknown[0][:64]}'; it has: file, {', '.join(sorted(_FIELDS))}",
                param=unknown[0][:64],
            )
        if "purpose" not in fields:
            raise InvalidRequest("the form needs the field 'purpose', such as 'batch'", param="purpose")
        check_purpose(fields["purpose"])
        return NewFile(
            tenant=self._who.tenant,
            user=self._who.user,
            filename=shown_name(self._form.filename or ""),
            purpose=fields["purpose"],
            expires_after=_expiry(fields),
        )

    def end(self) -> None:
        """Removes what was received, unless it is stored."""
        with self._turn:
            self._is_over = True
            if self._file is not None:
                self._file.__exit__(None, None, None)


def check_purpose(purpose: str) -> None:
    """Raises :class:`InvalidRequest` for a purpose that no file can be uploaded for."""
    if purpose not in UPLOAD_PURPOSES:
        raise InvalidRequest(
            f"'{purpose[:64]}' is no purpose of an uploaded file; it is one of: {', '.join(UPLOAD_PURPOSES)}",
            param="purpose",
        )


def check_expiry(anchor: object, seconds: object, param: str) -> int:
    """The seconds of an ``expires_after``. Raises :class:`InvalidRequest`."""
    if anchor != "created_at":
        raise InvalidRequest(f"'{param}' needs the anchor 'created_at'", param=param)
    if isinstance(seconds, bool) or not isinstance(seconds, int) or not MIN_EXPIRY <= seconds <= MAX_EXPIRY:
        raise InvalidRequest(f"'{param}' needs seconds from {MIN_EXPIRY} to {MAX_EXPIRY} (30 days)", param=param)
    return seconds


def _expiry(fields: dict[str, str]) -> int | None:
    """Seconds until the file expires; ``None`` means that it stays."""
    if _ANCHOR not in fields and _SECONDS not in fields:
        return _BATCH_EXPIRY if fields["purpose"] == "batch" else None
    text = fields.get(_SECONDS, "")
    seconds = int(text) if _NUMBER.fullmatch(text) else None
    return check_expiry(fields.get(_ANCHOR), seconds, "expires_after")


def shown_name(name: str) -> str:
    """The name of a file as it is shown: without folders, control characters, and what else turns text around."""
    last = re.split(r"[/\\]", name)[-1]
    clean = "".join(char for char in last if unicodedata.category(char) not in ("Cc", "Cf", "Cs", "Zl", "Zp"))
    clean = clean.strip()
    if clean in ("", ".", ".."):
        return "file"
    if len(clean) <= _MAX_NAME:
        return clean
    stem, dot, suffix = clean.rpartition(".")
    if not dot or len(suffix) > 16:
        return clean[:_MAX_NAME]
    return f"{stem[: _MAX_NAME - len(suffix) - 1]}.{suffix}"
