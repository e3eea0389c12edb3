"""What goes into a collection and comes out of it. Everything is checked here, before anything is written."""

from __future__ import annotations

import secrets
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import orjson
from numpy.typing import NDArray

from sage.errors import InvalidRequest
from sage.middleware.settings.retrieval import RetrievalLimits

Vector = NDArray[np.float32]
MAX_ID = 512  # bytes


@dataclass(frozen=True, slots=True)
class NewDocument:
    """A checked document on its way in. ``metadata`` is a JSON object as bytes, ``vector`` ``(dim,) float32``."""

    id: str
    text: str
    metadata: bytes = b"{}"
    vector: Vector | None = None


@dataclass(frozen=True, slots=True)
class Row:
    """A document as the collection holds it.

    ``number`` is the sequence number of the operation that added it: never used twice, and growing, so that an updated
    document is a new row. Where a reader did not ask for vectors, ``vector`` is ``None``.
    """

    number: int
    id: str
    text: str
    metadata: bytes
    vector: Vector | None = None

    def stored(self) -> StoredDocument:
        return StoredDocument(self.id, self.text, orjson.loads(self.metadata), self.vector)


@dataclass(frozen=True, slots=True)
class StoredDocument:
    """A document as its owner sees it."""

    id: str
    text: str
    metadata: dict[str, Any]
    vector: Vector | None = None


@dataclass(frozen=True, slots=True)
class Written:
    """What an acknowledged write did: the ids in the order of the request."""

    ids: list[str] = field(default_factory=list)
    inserted: int = 0
    updated: int = 0
    deleted: int = 0


def new_id() -> str:
    """Unique, and in the order of time (its first 12 digits are milliseconds)."""
    return f"{int(time.time() * 1000):012x}{secrets.token_hex(10)}"


def check_documents(given: Sequence[Mapping[str, Any]], limits: RetrievalLimits) -> list[NewDocument]:
    """The documents of one request, all of them good; raises :class:`InvalidRequest` that names the first at fault."""
    if not given:
        raise InvalidRequest('\'documents\' is empty; give at least one, such as {"text": "…"}', param="documents")
    if len(given) > limits.max_documents:
        raise InvalidRequest(
            f"{len(given)} documents are more than the {limits.max_documents} that one request may carry "
            "(retrieval.limits.max_documents); send them in parts",
            param="documents",
        )
    checked = [_check(document, f"documents[{place}]", limits) for place, document in enumerate(given)]
    seen: set[str] = set()
    for place, document in enumerate(checked):
        if document.id in seen:
            raise InvalidRequest(
                f"documents[{place}]: the id '{document.id}' stands twice in this request", param="documents"
            )
        seen.add(document.id)
    return checked


def _check(document: Mapping[str, Any], place: str, limits: RetrievalLimits) -> NewDocument:
    if not isinstance(document, Mapping):
        raise InvalidRequest(f'{place} must be an object such as {{"text": "…"}}', param="documents")
    for key in document:
        if key not in ("id", "text", "metadata", "vector"):
            raise InvalidRequest(
                f"{place}: unknown field '{key}'; a document has id, text, metadata and vector (fields of your own "
                "belong into metadata)",
                param="documents",
            )
    return NewDocument(
        check_id(document.get("id"), place),
        check_text(document.get("text"), place, limits),
        check_metadata(document.get("metadata"), place, limits),
        check_vector(document.get("vector"), place, limits),
    )


def check_id(given: Any, place: str, param: str = "documents") -> str:
    """The id, or a new one for none."""
    if given is None:
        return new_id()
    if not isinstance(given, str) or not given or _bytes_of(given, place, "id", param) > MAX_ID or "\x00" in given:
        raise InvalidRequest(f"{place}: 'id' must be text of 1 to {MAX_ID} bytes", param=param)
    return given


def check_text(given: Any, place: str, limits: RetrievalLimits, param: str = "documents") -> str:
    if not isinstance(given, str):
        raise InvalidRequest(f"{place}: 'text' must be text", param=param)
    if (size := _bytes_of(given, place, "text", param)) > limits.max_text:
        raise InvalidRequest(
            f"{place}: 'text' has {size} bytes, more than {limits.max_text} (retrieval.limits.max_text); split it",
            param=param,
        )
    return given


def _bytes_of(text: str, place: str, field_name: str, param: str) -> int:
    try:
        return len(text.encode())
    except UnicodeEncodeError as exc:
        raise InvalidRequest(f"{place}: '{field_name}' is not valid Unicode: {exc.reason}", param=param) from None


def check_metadata(given: Any, place: str, limits: RetrievalLimits, param: str = "documents") -> bytes:
    """Metadata as canonical JSON bytes."""
    if given is None:
        return b"{}"
    if not isinstance(given, Mapping):
        raise InvalidRequest(f"{place}: 'metadata' must be an object", param=param)
    try:
        encoded = orjson.dumps(dict(given))
    except (TypeError, ValueError) as exc:
        raise InvalidRequest(f"{place}: 'metadata' is not JSON: {exc}", param=param) from None
    if len(encoded) > limits.max_metadata:
        raise InvalidRequest(
            f"{place}: 'metadata' has {len(encoded)} bytes, more than {limits.max_metadata} "
            "(retrieval.limits.max_metadata)",
            param=param,
        )
    return encoded


def check_vector(given: Any, place: str, limits: RetrievalLimits, param: str = "documents") -> Vector | None:
    """``(dim,) float32`` of finite numbers."""
    if given is None:
        return None
    try:
        wide = np.asarray(given)
    except (TypeError, ValueError, OverflowError):
        wide = np.empty(0)
    if wide.ndim != 1 or not wide.size or wide.dtype.kind not in "iuf":  # text such as "1" would be a number, too
        raise InvalidRequest(f"{place}: 'vector' must be a list of numbers", param=param)
    if wide.size > limits.max_dimension:
        raise InvalidRequest(
            f"{place}: 'vector' has {wide.size} dimensions, more than {limits.max_dimension} "
            "(retrieval.limits.max_dimension)",
            param=param,
        )
    with np.errstate(over="ignore"):
        vector = wide.astype(np.float32)
    if not np.isfinite(vector).all():
        raise InvalidRequest(f"{place}: 'vector' holds a number that is not finite as float32", param=param)
    return vector
