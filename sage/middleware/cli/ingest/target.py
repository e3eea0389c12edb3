"""The collection that files go into, over HTTP: what it holds of them already, and writes that are tried again."""

from __future__ import annotations

import hashlib
import re
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar
from urllib.parse import quote

import orjson

from sage.middleware.cli.client import CallFailed, Client

_PAGE = 200
_FILTER_BYTES = 6000  # of the sources in one question: it stands in a URL
_PASSING = (429, 502, 503, 504)
_GONE_FOR = 60.0  # seconds without an answer after which it is told
_BUSY_FOR = 900.0  # seconds of refusals after which it is told
_AT_FAULT = re.compile(r"documents\[(\d+)\]:? ?")
T = TypeVar("T")


class Refused(Exception):
    """The gateway refuses one document of a batch. ``place`` is its place in it."""

    def __init__(self, place: int, message: str) -> None:
        super().__init__(message)
        self.place = place


@dataclass(frozen=True, slots=True)
class Mark:
    """What the first chunk of a source says: how it was made, and how many chunks there are."""

    digest: str
    chunks: int


class IngestTarget:
    """One collection. Each call is tried again while the gateway is away or too busy."""

    def __init__(self, client: Client, collection: str, sleep: Callable[[float], None] = time.sleep) -> None:
        self._client = client
        self._path = f"/collections/{collection}"
        self._sleep = sleep
        self.name = collection
        self.description: dict[str, Any] = {}

    @property
    def embeds(self) -> bool:
        """Whether the gateway makes vectors of what comes without one, which takes time."""
        return self.description.get("embedder") not in (None, "none")

    @property
    def identity(self) -> str:
        """Tells it from an earlier collection of its name, and from others elsewhere."""
        return f"{self._client.url} {self.name} {self.description.get('created_at')}"

    def open(self) -> bool:
        """Sees to it that the collection is there; whether it had to be made. Refused connections are not waited
        for here: a wrong address should be told at once."""
        try:
            self.description = self._client.get(self._path)
            return False
        except CallFailed as exc:
            if exc.answered != 404:
                raise
        self.description = self._client.post("/collections", {"name": self.name})
        return True

    def marks(self, sources: Sequence[str]) -> dict[str, Mark]:
        """Of those sources that the collection holds something of."""
        found: dict[str, Mark] = {}
        for some in _in_urls(sources):
            for document in self._documents({"chunk": 0, "source": {"$in": some}}):
                metadata = document["metadata"]
                found[metadata["source"]] = Mark(str(metadata.get("digest", "")), int(metadata.get("chunks", 0)))
        return found

    def chunks_of(self, source: str) -> dict[str, bytes]:
        """Ids of the source's chunks, each with :func:`fingerprint`."""
        found = self._documents({"source": source, "chunk": {"$gte": 0}})
        return {document["id"]: fingerprint(document) for document in found}

    def sources(self) -> list[str]:
        """Every source that came by ``sage ingest``."""
        found = self._documents({"chunk": 0, "digest": {"$exists": True}})
        return [document["metadata"]["source"] for document in found if "source" in document["metadata"]]

    def put(self, documents: Sequence[dict[str, Any]]) -> None:
        """Writes them, whole or in halves where they are too many at once; durable when this returns.

        Raises :class:`Refused` for the first that the gateway will not have; then nothing of its part was written.
        """
        body = orjson.dumps({"documents": documents}, option=orjson.OPT_NON_STR_KEYS)
        try:
            self._tried(lambda: self._client.post(f"{self._path}/documents", body))
        except CallFailed as exc:
            if exc.answered not in (400, 413):
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
                raise Refused(middle + refused.place, str(refused)) from None

    def remove(self, ids: Sequence[str]) -> int:
        """How many there were of them."""
        removed = 0
        for begin in range(0, len(ids), 1000):
            some = list(ids[begin : begin + 1000])
            answer = self._tried(lambda some=some: self._client.post(f"{self._path}/documents/delete", {"ids": some}))  # type: ignore[misc]
            removed += int(answer.get("deleted", len(some)))
        return removed

    def remove_source(self, source: str) -> int:
        """Every chunk of it, at once."""
        condition = {"filter": {"source": source, "chunk": {"$gte": 0}}}
        answer = self._tried(lambda: self._client.post(f"{self._path}/documents/delete", condition))
        return int(answer.get("deleted", 0))

    def _documents(self, condition: dict[str, Any]) -> Iterator[dict[str, Any]]:
        query: dict[str, str | int] = {"limit": _PAGE, "filter": orjson.dumps(condition).decode()}
        while True:
            page = self._tried(lambda: self._client.get(f"{self._path}/documents", **query))
            yield from page["documents"]
            cursor = page.get("cursor")
            if not cursor:
                return
            query["cursor"] = cursor

    def _tried(self, call: Callable[[], T]) -> T:
        """The call, repeated while there is reason to hope: every write here may be repeated, ids are ours."""
        begun = time.monotonic()
        pause = 0.5
        while True:
            try:
                return call()
            except CallFailed as exc:
                patience = _GONE_FOR if exc.answered is None else _BUSY_FOR
                if exc.answered not in (None, *_PASSING) or time.monotonic() - begun > patience:
                    raise
                self._sleep(min(exc.retry_after or pause, 60.0))
                pause = min(pause * 2, 15.0)


def fingerprint(document: dict[str, Any]) -> bytes:
    """Equal for equal text and metadata."""
    content = orjson.dumps([document["text"], document.get("metadata") or {}], option=orjson.OPT_SORT_KEYS)
    return hashlib.blake2b(content, digest_size=16).digest()


def _in_urls(sources: Sequence[str]) -> Iterator[list[str]]:
    some: list[str] = []
    length = 0
    for source in sources:
        size = len(quote(source)) + 10
        if some and length + size > _FILTER_BYTES:
            yield some
            some, length = [], 0
        some.append(source)
        length += size
    if some:
        yield some
