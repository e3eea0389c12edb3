"""A change of parts of one document, which no other writer can come between, in this process or another."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from sage.errors import NotFound, Unavailable
from sage.middleware.retrieval.store.group_commit import Publish
from sage.middleware.retrieval.store.records import Superseded
from sage.middleware.retrieval.store.store import Change, DocumentStore, Identity, StaleVectors
from sage.middleware.retrieval.types.documents import NewDocument, Row, Vector

Embed = Callable[[Sequence[NewDocument], Identity], list[NewDocument]]
_ATTEMPTS = 100
"""Each further one follows another's write to the same document that came first."""


@dataclass(frozen=True, slots=True)
class Revision:
    """What is to change; ``None``: stays."""

    text: str | None = None
    metadata: bytes | None = None
    vector: Vector | None = None

    def of(self, row: Row, identity: Identity) -> NewDocument:
        """A vector that an embedder made of the text goes with that text."""
        kept = row.vector if self.text is None or identity.embedder is None else None
        return NewDocument(
            row.id,
            row.text if self.text is None else self.text,
            row.metadata if self.metadata is None else self.metadata,
            kept if self.vector is None else self.vector,
        )


def revise(store: DocumentStore, publish: Publish, id: str, revision: Revision, embed: Embed) -> None:
    """Raises :class:`NotFound`, and what ``embed`` does."""
    for _ in range(_ATTEMPTS):
        identity = store.identity
        with store.reading() as reading:
            row = reading.by_id([id], vectors=True).get(id)
        if row is None:
            raise NotFound(f"there is no document '{id}'", param="id", code="document_not_found")
        documents = embed([revision.of(row, identity)], identity)
        try:
            store.write(Change(documents, generation=identity.generation, of=(row.number,)), publish)
        except (StaleVectors, Superseded):
            continue
        return
    raise Unavailable(f"document '{id}' is being changed by others again and again; try again later")
