"""A change to one document that keeps the rest of it, safe against other writers in this process and others."""

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
"""One more is needed each time that another write to the same document comes first."""


@dataclass(frozen=True, slots=True)
class Revision:
    """The new values; ``None`` means that a value stays."""

    text: str | None = None
    metadata: bytes | None = None
    vector: Vector | None = None

    def of(self, row: Row, identity: Identity) -> NewDocument:
        """The document in place of ``row``. With a new text it loses a vector that an embedder made of the old one."""
        vector = row.vector if self.text is None or identity.embedder is None else None
        return NewDocument(
            row.id,
            row.text if self.text is None else self.text,
            row.metadata if self.metadata is None else self.metadata,
            vector if self.vector is None else self.vector,
        )


def revise(store: DocumentStore, publish: Publish, id: str, revision: Revision, embed: Embed) -> None:
    """Changes a document; ``embed`` makes the vector that it lacks. Raises :class:`NotFound`, :class:`Unavailable` when
    others change it all the time, and what ``embed`` raises."""
    for _ in range(_ATTEMPTS):
        identity = store.identity
        with store.reading() as reading:
            row = reading.by_id([id], vectors=True).get(id)
        if row is None:
            raise NotFound(f"there is no document '{id}'", param="id", code="document_not_found")
        documents = embed([revision.of(row, identity)], identity)
        try:
            store.write(Change(documents, generation=identity.generation, based_on=(row.number,)), publish)
        except (StaleVectors, Superseded):
            continue
        return
    raise Unavailable(f"document '{id}' is changed by others all the time; try again later")
