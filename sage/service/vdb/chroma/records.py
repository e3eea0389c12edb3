"""Names, metadata and scores as Chroma has them, and back."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

import numpy as np
import orjson
from numpy.typing import NDArray

from sage.errors import Unsupported
from sage.middleware.retrieval.types.documents import NewDocument, Vector
from sage.middleware.settings.retrieval import Metric

SPACES = {Metric.COSINE: "cosine", Metric.DOT: "ip", Metric.EUCLIDEAN: "l2"}
METRIC, DIMENSION, EMBEDDER = "sage_metric", "sage_dimension", "sage_embedder"
"""Of a collection's own metadata."""
RESERVED = ("$", "#", "chroma:")
"""How names begin that metadata cannot have there."""
_INT64 = 2**63
_ESCAPED = re.compile(r"_([0-9A-F]{2})")


def encoded_name(prefix: str, tenant: str, collection: str) -> str:
    """One name of letters, digits, ``.``, ``_`` for each pair: all else is escaped in its parts, and a ``.`` between
    them. No two pairs meet."""
    return f"{prefix}.{_escaped(tenant)}.{_escaped(collection)}"


def collection_of(name: str, prefix: str, tenant: str) -> str | None:
    """The inverse; ``None``: it is another tenant's, or none of ours."""
    head = f"{prefix}.{_escaped(tenant)}."
    if not name.startswith(head) or "." in (rest := name[len(head) :]):
        return None
    # An escape is one byte: the bytes of a character come back together.
    return _ESCAPED.sub(lambda match: chr(int(match[1], 16)), rest).encode("latin-1").decode(errors="replace")


def _escaped(part: str) -> str:
    return "".join(chr(b) if chr(b).isalnum() and b < 128 else f"_{b:02X}" for b in part.encode())


def encoded_metadata(item: NewDocument, path: str) -> dict[str, Any]:
    """Raises :class:`Unsupported` for what Chroma cannot hold."""
    metadata: dict[str, Any] = orjson.loads(item.metadata)
    for key, value in metadata.items():
        if not key or key.startswith(RESERVED):
            raise Unsupported(f"{path}: Chroma cannot hold metadata under the name '{key}'", param="metadata")
        if not _holdable(value):
            raise Unsupported(
                f"{path}: metadata '{key}': Chroma holds text, numbers, truth values, and lists of one kind of these "
                "(neither empty lists, nor null, objects or whole numbers beyond 64 bits)",
                param="metadata",
            )
    return metadata


def _holdable(value: Any) -> bool:
    if isinstance(value, list):
        kinds = {type(element) for element in value}
        return len(kinds) == 1 and not isinstance(value[0], list) and all(map(_holdable, value))
    return isinstance(value, str | float | bool) or (isinstance(value, int) and -_INT64 <= value < _INT64)


def replacing(metadata: Mapping[str, Any], previous: Mapping[str, Any] | None) -> dict[str, Any] | None:
    """Chroma keeps what an upsert does not name: the fields of the ``previous`` metadata are taken away by name."""
    return {**dict.fromkeys(previous or ()), **metadata} or None


def scores_of(distances: NDArray[np.float64], metric: Metric) -> NDArray[np.float64]:
    """Higher is nearer, as our own engine has them: of Chroma's cosine and inner product 1 minus the distance, of its
    squared Euclidean distance the root made negative."""
    scores = 0.0 - np.sqrt(np.maximum(distances, 0.0)) if metric is Metric.EUCLIDEAN else 1.0 - distances
    return np.where(np.isfinite(scores), scores, 0.0)  # a vector of zeros has no direction


def exact_scores(query: Vector, vectors: NDArray[Any], metric: Metric) -> NDArray[np.float64]:
    """The same, compared one by one. ``vectors``: ``(n, dim)``."""
    wide, wanted = np.asarray(vectors, np.float64), query.astype(np.float64)
    if metric is Metric.EUCLIDEAN:
        return np.asarray(0.0 - np.linalg.norm(wide - wanted, axis=1))
    dots = wide @ wanted
    if metric is Metric.DOT:
        return np.asarray(dots)
    norms = np.linalg.norm(wide, axis=1) * np.linalg.norm(wanted)
    cosines: NDArray[np.float64] = np.divide(dots, norms, out=np.zeros_like(dots), where=norms > 0)
    return cosines
