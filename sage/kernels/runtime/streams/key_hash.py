"""The number of a key, which decides to which worker or replica its records go."""

from __future__ import annotations

from collections.abc import Hashable

import xxhash

from sage.kernels.runtime.streams.records import UNKEYED


def key_hash(key: Hashable) -> int:
    """The same number for equal keys; of texts, bytes, numbers and tuples of them, the same in every process."""
    if isinstance(key, str):
        return xxhash.xxh3_64_intdigest(key.encode("utf-8", "surrogatepass"))
    if isinstance(key, bytes):
        return xxhash.xxh3_64_intdigest(key)
    if isinstance(key, tuple):
        return xxhash.xxh3_64_intdigest(b"".join((key_hash(part) & (1 << 64) - 1).to_bytes(8, "big") for part in key))
    if key is UNKEYED:
        return 0
    return hash(key)
