"""Pulled models by name; a process has one of each."""

from __future__ import annotations

import functools
import threading
from pathlib import Path

from sage.errors import InvalidRequest
from sage.middleware.hub.snapshots import Snapshot, Snapshots, not_pulled
from sage.middleware.hub.sources import HubSource, parse_source
from sage.middleware.retrieval.embedding.hub.embedder import HubEmbedder
from sage.middleware.retrieval.embedding.hub.recipe import is_reranker
from sage.middleware.retrieval.embedding.hub.reranker import HubReranker


def hub_embedder(directory: Path, name: str, *, fetch: bool = True) -> HubEmbedder:
    """The embedder ``hf:…`` of a directory of models, pulled if it is not there and ``fetch``.

    Raises :class:`NotFound` if it is not there, and what else keeps it from being had or used.
    """
    return _embedder(_snapshot(directory, name, fetch))


def hub_reranker(directory: Path, name: str, *, fetch: bool = True) -> HubReranker:
    """As :func:`hub_embedder`."""
    return _reranker(_snapshot(directory, name, fetch))


def reranks(directory: Path, name: str) -> bool:
    """Whether the model that was pulled as ``name`` reranks. Raises :class:`NotFound` if there is none."""
    return is_reranker(_snapshot(directory, name, fetch=False))


def _snapshot(directory: Path, name: str, fetch: bool) -> Snapshot:
    source = parse_source(name)
    if source.hub != "hf":
        raise InvalidRequest(f"'{name}': only models of Hugging Face (hf:ORG/MODEL) run here by name", param="model")
    if source.digest is not None:
        return _pinned(directory, source, fetch)
    snapshots = Snapshots(directory)
    found = snapshots.obtain(source) if fetch else snapshots.find(source)
    if found is None:
        raise not_pulled(source)
    return found


_MOST = 8
"""Models of each kind that stay in memory; of more, the one that was not used for longest goes."""
_opening = threading.Lock()


def _embedder(snapshot: Snapshot) -> HubEmbedder:
    with _opening:  # else two callers could have two of one
        return _opened_embedder(snapshot)


def _reranker(snapshot: Snapshot) -> HubReranker:
    with _opening:
        return _opened_reranker(snapshot)


_opened_embedder = functools.lru_cache(_MOST)(HubEmbedder)
_opened_reranker = functools.lru_cache(_MOST)(HubReranker)


class _NotHereError(Exception):
    """So that an absence is not kept."""


def _pinned(directory: Path, source: HubSource, fetch: bool) -> Snapshot:
    try:
        return _kept(directory, source, fetch)
    except _NotHereError:
        raise not_pulled(source) from None


@functools.lru_cache(256)
def _kept(directory: Path, source: HubSource, fetch: bool) -> Snapshot:
    snapshots = Snapshots(directory)
    found = snapshots.obtain(source) if fetch else snapshots.find(source)
    if found is None:
        raise _NotHereError
    return found
