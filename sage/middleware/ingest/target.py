"""The collection that files are written to, over HTTP: what it already has of them, and writes with retries."""

from __future__ import annotations

import hashlib
import re
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, TypeVar
from urllib.parse import quote

import orjson

from sage.errors import CallFailed
from sage.middleware.ingest.records import batches

_PAGE = 200
_FILTER_BYTES = 6000  # of the sources in one filter, which is part of a URL
_TEMPORARY = (429, 502, 503, 504)
_MAX_UNREACHABLE = 60.0  # seconds without an answer before giving up
_MAX_BUSY = 900.0  # seconds of temporary refusals before giving up
_AT_FAULT = re.compile(r"documents\[(\d+)\]:? ?")
T = TypeVar("T")


class GatewayClient(Protocol):
    """What is needed of a client of the gateway. Both calls raise :class:`sage.errors.CallFailed`."""

    @property
    def url(self) -> str: ...

    def get(self, path: str, **query: str | int) -> dict[str, Any]: ...

    def post(self, path: str, body: Mapping[str, Any] | bytes | None = None, **query: str) -> dict[str, Any]:
        """``body`` may be JSON already, as bytes."""


class Refused(Exception):
    """The gateway refused the document at ``position`` of a batch."""

    def __init__(self, position: int, message: str) -> None:
        super().__init__(message)
        self.position = position


@dataclass(frozen=True, slots=True)
class SourceMark:
    """What the first chunk of a source records: the digest of its bytes and options, and the number of chunks."""

    digest: str
    chunks: int


class IngestTarget:
    """One collection. Every call is repeated while the gateway is unreachable or too busy."""

    def __init__(
        self,
        client: GatewayClient,
        collection: str,
        sleep: Callable[[float], None] = time.sleep,
        *,
        may_create: bool = True,
    ) -> None:
        """Without ``may_create`` a collection that is not there, or is deleted meanwhile, is not made."""
        self._client = client
        self._path = f"/collections/{collection}"
        self._sleep = sleep
        self._may_create = may_create
        self.name = collection
        self.description: dict[str, Any] = {}
        self.is_new = False
        """Whether there is no such collection yet: the first documents make it, so that a run that stores nothing
        leaves nothing."""
        self.warnings: list[str] = []
        """Those of the answers to writes, each once."""

    @property
    def embeds(self) -> bool:
        """Whether the gateway embeds documents that come without a vector, which takes time. Of a collection that is
        not there yet this is not known, and it may."""
        return self.is_new or self.description.get("embedder") not in (None, "none")

    @property
    def identity(self) -> str:
        """Differs from the identity of an earlier collection of the same name, and of every other collection."""
        return f"{self._client.url} {self.name} {self.description.get('created_at')}"

    def open(self) -> None:
        """Reads the description of the collection, if it exists.

        Not repeated when the connection is refused: a wrong address should be reported at once.
        """
        try:
            self.description = self._client.get(self._path)
        except CallFailed as exc:
            if exc.code != "collection_not_found" or not self._may_create:
                raise
            self.is_new = True

    def marks(self, sources: Sequence[str]) -> dict[str, SourceMark]:
        """The marks of those sources that the collection has chunks of."""
        marks: dict[str, SourceMark] = {}
        for part in batches(sources, lambda source: len(quote(source)) + 10, _FILTER_BYTES):
            for document in self._documents({"chunk": 0, "source": {"$in": part}}):
                metadata = document["metadata"]
                marks[metadata["source"]] = SourceMark(str(metadata.get("digest", "")), int(metadata.get("chunks", 0)))
        return marks

    def chunks_of(self, source: str) -> dict[str, bytes]:
        """The ids of the source's chunks, each with its :func:`fingerprint`."""
        documents = self._documents({"source": source, "chunk": {"$gte": 0}})
        return {document["id"]: fingerprint(document) for document in documents}

    def sources(self) -> list[str]:
        """Every source that came by ``sage ingest``."""
        documents = self._documents({"chunk": 0, "digest": {"$exists": True}})
        return [document["metadata"]["source"] for document in documents if "source" in document["metadata"]]

    def put(self, documents: Sequence[dict[str, Any]]) -> None:
        """Writes the documents, in halves where they are too many at once; they are durable when this returns.

        Raises :class:`Refused` for the first document that the gateway refuses; then nothing of its half was written.
        """
        body = orjson.dumps({"documents": documents}, option=orjson.OPT_NON_STR_KEYS)
        try:
            query = {} if self._may_create else {"create": "false"}
            answer = self._with_retries(lambda: self._client.post(f"{self._path}/documents", body, **query))
            if self.is_new:
                self.description = self._with_retries(lambda: self._client.get(self._path))
                self.is_new = False
        except CallFailed as exc:
            if exc.answer_status not in (400, 413):
                raise
            at_fault = _AT_FAULT.search(exc.message)
            if at_fault and int(at_fault[1]) < len(documents):
                raise Refused(int(at_fault[1]), _AT_FAULT.sub("", exc.message, count=1)) from None
            if len(documents) == 1:
                raise Refused(0, exc.message) from None
            middle = len(documents) // 2
            self.put(documents[:middle])
            try:
                self.put(documents[middle:])
            except Refused as refused:
                raise Refused(middle + refused.position, str(refused)) from None
        else:
            self.warnings += [text for text in answer.get("warnings") or () if text not in self.warnings]

    def remove(self, ids: Sequence[str]) -> int:
        """Deletes documents; returns how many existed."""
        return sum(self._delete({"ids": part}) for part in batches(ids, lambda _: 1, 1000))

    def remove_source(self, source: str) -> int:
        """Deletes all chunks of a source; returns how many existed."""
        return self._delete({"filter": {"source": source, "chunk": {"$gte": 0}}})

    def _delete(self, body: dict[str, Any]) -> int:
        return int(self._with_retries(lambda: self._client.post(f"{self._path}/documents/delete", body))["deleted"])

    def _documents(self, condition: dict[str, Any]) -> Iterator[dict[str, Any]]:
        if self.is_new:
            return
        query: dict[str, str | int] = {"limit": _PAGE, "filter": orjson.dumps(condition).decode()}
        while True:
            page = self._with_retries(lambda: self._client.get(f"{self._path}/documents", **query))
            yield from page["documents"]
            cursor = page.get("cursor")
            if not cursor:
                return
            query["cursor"] = cursor

    def _with_retries(self, call: Callable[[], T]) -> T:
        """The result of the call, repeated on temporary errors: every write may be repeated, since the ids are ours."""
        start = time.monotonic()
        pause = 0.5
        while True:
            try:
                return call()
            except CallFailed as exc:
                patience = _MAX_UNREACHABLE if exc.answer_status is None else _MAX_BUSY
                if exc.answer_status not in (None, *_TEMPORARY) or time.monotonic() - start > patience:
                    raise
                self._sleep(min(exc.retry_after or pause, 60.0))
                pause = min(pause * 2, 15.0)


def fingerprint(document: dict[str, Any]) -> bytes:
    """A digest of text and metadata."""
    content = orjson.dumps([document["text"], document.get("metadata") or {}], option=orjson.OPT_SORT_KEYS)
    return hashlib.blake2b(content, digest_size=16).digest()
