"""Documents with the vectors that an embedder makes of their texts."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from sage.middleware.retrieval.embedding.protocols import Embedder
from sage.middleware.retrieval.types.documents import NewDocument


def embedded(documents: Sequence[NewDocument], embedder: Embedder | None) -> list[NewDocument]:
    """The same documents; those with text and without a vector have one of ``embedder``, if there is one."""
    complete = list(documents)
    missing = [index for index, d in enumerate(complete) if d.vector is None and d.text and not d.text.isspace()]
    if embedder is None or not missing:
        return complete
    vectors = embedder.embed([complete[index].text for index in missing])
    for index, vector in zip(missing, vectors, strict=True):
        complete[index] = replace(complete[index], vector=np.asarray(vector, np.float32))
    return complete
