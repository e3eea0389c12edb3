"""From a request for a job to the job: its body is checked whole, then its items are stored, then it is queued."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import io
import tempfile
from collections.abc import AsyncIterable, AsyncIterator, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, cast

from sage.errors import InvalidRequest, NotFound
from sage.middleware.auth.principal import Principal
from sage.middleware.gateway.gateway import Gateway
from sage.middleware.gateway.jobs.collection_jobs import check_collection_job
from sage.middleware.gateway.jobs.files import FileGateway
from sage.middleware.gateway.jobs.lines import LineLimits
from sage.middleware.gateway.jobs.opening import Queue
from sage.middleware.gateway.jobs.options import input_file
from sage.middleware.gateway.jobs.requests import LINES, CheckedJob, check_job
from sage.middleware.gateway.jobs.webhooks.webhooks import check_webhook
from sage.middleware.queue.records import NewJob, StoredJob
from sage.middleware.queue.states import NORMAL, PRIORITIES

_PIECE = 2**18  # bytes
_LONGEST_KEY = 255


@dataclass(frozen=True, slots=True)
class JobRequest:
    """A request for a job of ``kind``: the ``fields`` of its body, or of the query string when the body is lines, whose
    bytes are ``pieces``. ``idempotency_key``: a second request with it is the first one's job."""

    kind: str
    fields: dict[str, Any]
    pieces: AsyncIterable[bytes] | None = None
    idempotency_key: str | None = None


class Submission:
    """Makes jobs of requests."""

    def __init__(self, gateway: Gateway, queue: Queue) -> None:
        self._gateway = gateway
        self._queue = queue

    async def submit(self, principal: Principal, request: JobRequest) -> tuple[StoredJob, bool]:
        """The job, and whether it is new. Raises what :meth:`Jobs.submit` and the checks of its kind raise; nothing is
        left behind then."""
        queue = await self._queue.open()
        queue.jobs.may_submit(principal, request.kind)
        _check_key(request.idempotency_key)
        digest = hashlib.sha256(repr((request.kind, sorted(request.fields.items()))).encode())
        with self._sink(request) as sink:
            pieces = None if request.pieces is None else _hashed(request.pieces, digest)
            checked = await self._check(principal, request, pieces, sink, queue.files)
            new = self._new_job(checked, request, _input_of(sink), digest.digest())
            return await queue.jobs.submit(principal, new)

    async def _check(
        self,
        principal: Principal,
        request: JobRequest,
        pieces: AsyncIterable[bytes] | None,
        sink: BinaryIO,
        files: FileGateway,
    ) -> CheckedJob:
        fields, settings = dict(request.fields), self._queue.settings
        if request.kind not in LINES:
            if pieces is not None:
                raise InvalidRequest(f"a job '{request.kind}' takes a JSON object", code="invalid_json")
            return await check_collection_job(
                self._gateway, principal, request.kind, fields, sink, settings.ingest, files.store
            )
        if (file_id := input_file(fields)) is not None:
            if pieces is not None:
                raise InvalidRequest("give either lines as the body or 'input_file_id'", param="input_file_id")
            pieces = _pieces_of(files, principal, file_id)
        limits = LineLimits.of(settings.limits)
        return await check_job(self._gateway, principal, request.kind, fields, pieces, sink, limits)

    def _new_job(self, checked: CheckedJob, request: JobRequest, lines: bytes | Path | None, digest: bytes) -> NewJob:
        options = checked.options
        url = None if options.webhook is None else options.webhook.url
        if url is not None:
            check_webhook(url, self._queue.settings.webhooks)
        has_items = checked.total is not None and lines is not None
        return NewJob(
            kind=checked.kind,
            tenant="",  # who asks is set by Jobs.submit
            user="",
            params=checked.params,
            input=lines if has_items else None,
            total=checked.total if has_items else None,
            input_file_id=request.fields.get("input_file_id"),
            priority=NORMAL if options.priority is None else PRIORITIES[options.priority],
            idempotency_key=request.idempotency_key,
            request_hash=digest,
            time_limit=options.time_limit or self._queue.settings.time_limit,
            result_ttl=options.expires_after,
            webhook_url=url,
            metadata=options.metadata or {},
        )

    @contextlib.contextmanager
    def _sink(self, request: JobRequest) -> Iterator[BinaryIO]:
        """Where the items go: into memory those of a JSON body, which is there already; else into a file."""
        if request.pieces is None and "input_file_id" not in request.fields:
            yield io.BytesIO()
            return
        with tempfile.NamedTemporaryFile(dir=self._queue.directory, prefix="input-") as file:
            yield cast(BinaryIO, file)


def _input_of(sink: BinaryIO) -> bytes | Path | None:
    if isinstance(sink, io.BytesIO):
        return sink.getvalue() or None
    sink.flush()
    return Path(sink.name)


def _check_key(key: str | None) -> None:
    if key is not None and not (1 <= len(key) <= _LONGEST_KEY and key.isascii() and key.isprintable()):
        raise InvalidRequest(
            f"'Idempotency-Key' has 1 to {_LONGEST_KEY} printable ASCII characters", param="Idempotency-Key"
        )


async def _hashed(pieces: AsyncIterable[bytes], digest: Any) -> AsyncIterator[bytes]:
    async for piece in pieces:
        digest.update(piece)
        yield piece


async def _pieces_of(files: FileGateway, principal: Principal, file_id: str) -> AsyncIterator[bytes]:
    try:
        _, file = await files.open(principal, file_id)
    except NotFound as exc:
        raise NotFound(exc.message, param="input_file_id", code=exc.code) from None
    with file:
        while piece := await asyncio.to_thread(file.read, _PIECE):
            yield piece
