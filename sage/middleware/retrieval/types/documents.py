"""Documents on their way into a collection and out of it. All are checked here, before anything is written."""

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

    @property
    def needs_vector(self) -> bool:
        """Whether an embedder, where there is one, makes its vector."""
        return self.vector is None and bool(self.text) and not self.text.isspace()


@dataclass(frozen=True, slots=True)
class Row:
    """A document as the collection stores it.

    ``number`` is the sequence number of the operation that added it. Numbers grow and are never used twice, so an
    updated document is a new row. ``vector`` is ``None`` when vectors were not requested.
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
    """A document as users see it."""

    id: str
    text: str
    metadata: dict[str, Any]
    vector: Vector | None = None


@dataclass(frozen=True, slots=True)
class Written:
    """The result of a write. ``ids`` are in the order of the request."""

    ids: list[str] = field(default_factory=list)
    inserted: int = 0
    updated: int = 0
    deleted: int = 0
    warnings: list[str] = field(default_factory=list)
    """What its caller should know, such as an embedder that does not know the documents' language."""


def new_id() -> str:
    """A unique id; ids sort by time, as the first 12 digits are milliseconds."""
    return f"{int(time.time() * 1000):012x}{secrets.token_hex(10)}"


def check_documents(documents: Sequence[Mapping[str, Any]], limits: RetrievalLimits) -> list[NewDocument]:
    """The documents of one request, all valid. Raises :class:`InvalidRequest` that names the first invalid one."""
    if not documents:
        raise InvalidRequest('\'documents\' is empty; give at least one, such as {"text": "…"}', param="documents")
    if len(documents) > limits.max_documents:
        raise InvalidRequest(
            f"{len(documents)} documents are more than the {limits.max_documents} that one request may carry "
            "(retrieval.limits.max_documents); send them in parts",
            param="documents",
        )
    checked = [_check(document, f"documents[{index}]", limits) for index, document in enumerate(documents)]
    ids: set[str] = set()
    for index, document in enumerate(checked):
        if document.id in ids:
            raise InvalidRequest(
                f"documents[{index}]: the id '{document.id}' stands twice in this request", param="documents"
            )
        ids.add(document.id)
    return checked


def _check(document: Mapping[str, Any], where: str, limits: RetrievalLimits) -> NewDocument:
    if not isinstance(document, Mapping):
        raise InvalidRequest(f'{where} must be an object such as {{"text": "…"}}', param="documents")
    for key in document:
        if key not in ("id", "text", "metadata", "vector"):
            raise InvalidRequest(
                f"{where}: unknown field '{key}'; a document has id, text, metadata and vector (fields of your own "
                "belong into metadata)",
                param="documents",
            )
    return NewDocument(
        check_id(document.get("id"), where),
        check_text(document.get("text"), where, limits),
        check_metadata(document.get("metadata"), where, limits),
        check_vector(document.get("vector"), where, limits),
    )


def check_id(value: Any, where: str, param: str = "documents") -> str:
    """The id, or a new one for ``None``."""
    if value is None:
        return new_id()
    if not isinstance(value, str) or not value or _bytes_of(value, where, "id", param) > MAX_ID or "\x00" in value:
        raise InvalidRequest(f"{where}: 'id' must be text of 1 to {MAX_ID} bytes", param=param)
    return value


def check_text(value: Any, where: str, limits: RetrievalLimits, param: str = "documents") -> str:
    if not isinstance(value, str):
        raise InvalidRequest(f"{where}: 'text' must be text", param=param)
    if (size := _bytes_of(value, where, "text", param)) > limits.max_text:
        raise InvalidRequest(
            f"{where}: 'text' has {size} bytes, more than {limits.max_text} (retrieval.limits.max_text); split it",
            param=param,
        )
    return value


def _bytes_of(text: str, where: str, field_name: str, param: str) -> int:
    try:
        return len(text.encode())
    except UnicodeEncodeError as exc:
        raise InvalidRequest(f"{where}: '{field_name}' is not valid Unicode: {exc.reason}", param=param) from None


def check_metadata(value: Any, where: str, limits: RetrievalLimits, param: str = "documents") -> bytes:
    """Metadata as canonical JSON bytes."""
    if value is None:
        return b"{}"
    if not isinstance(value, Mapping):
        raise InvalidRequest(f"{where}: 'metadata' must be an object", param=param)
    try:
        encoded = orjson.dumps(dict(value))
    except (TypeError, ValueError) as exc:
        raise InvalidRequest(f"{where}: 'metadata' is not JSON: {exc}", param=param) from None
    if len(encoded) > limits.max_metadata:
        raise InvalidRequest(
            f"{where}: 'metadata' has {len(encoded)} bytes, more than {limits.max_metadata} "
            "(retrieval.limits.max_metadata)",
            param=param,
        )
    return encoded


def check_vector(value: Any, where: str, limits: RetrievalLimits, param: str = "documents") -> Vector | None:
    """``(dim,) float32`` of finite numbers."""
    if value is None:
        return None
    try:
        array = np.asarray(value)
    except (TypeError, ValueError, OverflowError):
        array = np.empty(0)
    if array.ndim != 1 or not array.size or array.dtype.kind not in "iuf":  # else text such as "1" would be a number
        raise InvalidRequest(f"{where}: 'vector' must be a list of numbers", param=param)
    if array.size > limits.max_dimension:
        raise InvalidRequest(
            f"{where}: 'vector' has {array.size} dimensions, more than {limits.max_dimension} "
            "(retrieval.limits.max_dimension)",
            param=param,
        )
    with np.errstate(over="ignore"):
        vector = array.astype(np.float32)
    if not np.isfinite(vector).all():
        raise InvalidRequest(f"{where}: 'vector' holds a number that is not finite as float32", param=param)
    return vector
