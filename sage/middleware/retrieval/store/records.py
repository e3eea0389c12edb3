"""What goes into a collection's store and comes out of it: changes, commits, lines of the manifest, its identity."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from sage.middleware.retrieval.types.documents import NewDocument, Row
from sage.middleware.settings.retrieval import CollectionOptions


class StaleVectors(Exception):
    """A reembedding ended between embedding and writing (see :attr:`Change.generation`); embed again."""


class Superseded(Exception):
    """A row that a change is based on was deleted or replaced (see :attr:`Change.based_on`); read it again."""


@dataclass(frozen=True, slots=True)
class Change:
    """The write of one request: all of it, or nothing. Documents replace those of the same id."""

    documents: Sequence[NewDocument] = ()
    delete_ids: Sequence[str] = ()
    delete_numbers: Sequence[int] = ()
    """Rows that passed a filter; those that were deleted since are skipped."""
    generation: int | None = None
    """The generation that the embedded vectors belong to. If another one serves by the time of the transaction, the
    change fails with :class:`StaleVectors`. ``None`` means that it has no vectors of an embedder."""
    numbers: Sequence[int] = ()
    """The numbers that the documents get, ascending. If they are taken already, all are raised by as much as is needed.
    Empty means the next free ones."""
    based_on: Sequence[int] = ()
    """Rows that the change is based on. If one of them is no longer live by the time of the transaction, the change
    fails with :class:`Superseded`."""


@dataclass(frozen=True, slots=True)
class Commit:
    """What one commit of this process made durable: the operations after ``before`` up to ``sequence``."""

    before: int
    sequence: int
    rows: list[Row] = field(default_factory=list)
    """Rows that were added and are live at ``sequence``, in the order of their numbers, with their vectors."""
    deleted: list[int] = field(default_factory=list)
    """Numbers of rows that were deleted; some may have been added within this commit."""


@dataclass(frozen=True, slots=True)
class SegmentRecord:
    """A line of the manifest: which files have the rows from ``low`` to ``high`` that were live when it was written."""

    name: str
    low: int
    high: int
    size: int
    file: str
    file_bytes: int
    checksum: str
    """xxh3-128 of the file, in hexadecimal."""
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
    """The exact name of the embedder of its vectors; ``None`` means that vectors come with the documents, if at all."""
    languages: frozenset[str] | None
    dimension: int | None
    """``None`` until the first vector."""
    generation: int
    created_at: float
    automatic: bool = False
    """Whether ``auto`` chose the embedder, so that the first documents may still get another."""


@dataclass(frozen=True, slots=True)
class VectorGeneration:
    """All vectors by one embedder: the generation that serves, or one that a reembedding is filling."""

    number: int
    embedder: str | None
    languages: frozenset[str] | None
    dimension: int | None
    block: int
    """How many vectors one row of the database holds; 0 until the dimension is known."""
    reached: int
    """The highest document number that :meth:`DocumentStore.put_vectors` gave it."""
