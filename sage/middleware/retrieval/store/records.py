"""What goes into the store of a collection and comes out of it: changes, commits, the manifest, its identity."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from sage.middleware.retrieval.types.documents import NewDocument, Row
from sage.middleware.settings.retrieval import CollectionOptions


class StaleVectors(Exception):
    """A reembedding ended between embedding and writing (see :attr:`Change.generation`); embed again."""


class Superseded(Exception):
    """A row that a change was made from lives no more (see :attr:`Change.of`); read again."""


@dataclass(frozen=True, slots=True)
class Change:
    """One request's write: all of it, or nothing. Documents replace those of the same id."""

    documents: Sequence[NewDocument] = ()
    delete_ids: Sequence[str] = ()
    delete_numbers: Sequence[int] = ()
    """Rows found by a filter: those that are gone by now are passed over."""
    generation: int | None = None
    """The generation that the embedded vectors belong to: when another has taken over by the time of the transaction,
    the change fails with :class:`StaleVectors` and nothing of it is written. ``None``: no vectors of an embedder."""
    numbers: Sequence[int] = ()
    """What the documents' numbers are to be, ascending; where the collection is further already, as much higher as it
    takes. Empty: the next ones."""
    of: Sequence[int] = ()
    """Rows that it was made from: when one of them lives no more by the time of the transaction, the change fails with
    :class:`Superseded` and nothing of it is written."""


@dataclass(frozen=True, slots=True)
class Commit:
    """What one commit of this process made durable: the sequence numbers after ``before`` up to ``sequence``."""

    before: int
    sequence: int
    rows: list[Row] = field(default_factory=list)
    """Added, still live at ``sequence``, in the order of their numbers, with their vectors."""
    deleted: list[int] = field(default_factory=list)
    """Numbers of rows that died; may name rows that were added and died within this commit."""


@dataclass(frozen=True, slots=True)
class SegmentRecord:
    """A line of the manifest: the rows with numbers in ``low…high`` that lived when it was made, in which files."""

    name: str
    low: int
    high: int
    size: int
    file: str
    file_bytes: int
    checksum: str
    """xxh3-128 of the whole file, in hexadecimal."""
    vector_file: str | None = None
    vector_bytes: int = 0
    vector_checksum: str = ""
    vector_kind: str = "none"
    generation: int = 0


@dataclass(frozen=True, slots=True)
class Identity:
    """What a collection is, as its database says."""

    uuid: str
    name: str
    options: CollectionOptions
    embedder: str | None
    """The exact name of what made its vectors; ``None``: they come with the documents, or there are none."""
    languages: frozenset[str] | None
    dimension: int | None
    """``None`` until the first vector."""
    generation: int
    created_at: float


@dataclass(frozen=True, slots=True)
class VectorGeneration:
    """One making of all vectors: the one that serves, or one that a reembedding is filling."""

    number: int
    embedder: str | None
    languages: frozenset[str] | None
    dimension: int | None
    block: int
    """How many vectors one row of the database holds; 0 until the dimension is known."""
    reached: int
    """The highest document number that :meth:`DocumentStore.put_vectors` gave it."""
