"""One run of an ingest: changed files are parsed, made into documents and written; unchanged files are skipped.

The collection itself holds the state, so there is no second record that could be lost or wrong. The first chunk of a
file carries a digest of the file's bytes. It is written last, after all other chunks are durable and old chunks are
deleted: a digest in the collection means that the file is completely stored. After an interruption the digest is
missing, and the next run sends what is not stored yet. (For JSON lines see :mod:`.lines` and :mod:`.journal`.)
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import chain
from typing import Any

from sage.middleware.ingest.document import FileKind, Unreadable
from sage.middleware.ingest.files import FileEntry, WalkedDirectory, digest_of
from sage.middleware.ingest.lines import JsonLinesIngest
from sage.middleware.ingest.parsing import Parser
from sage.middleware.ingest.records import Recipe, Spool, batches, chunk_id, document_of, marked, request_bytes
from sage.middleware.ingest.summary import Display, Summary
from sage.middleware.ingest.target import IngestTarget, Refused, SourceMark, fingerprint

BATCH_EMBEDDED = 64
"""Documents in a request that the gateway embeds: seconds of work, so that progress shows and no call times out."""
BATCH = 500
BATCH_BYTES = 4 * 2**20
_GROUP = 64  # files whose state is read with one request


@dataclass
class _PendingFile:
    """A small file whose documents wait until their batch is full. ``stale`` are ids to delete before it is sent."""

    entry: FileEntry
    documents: list[dict[str, Any]]
    stale: list[str]
    existed: bool
    chunks: int = 0


@dataclass
class Ingestion:
    """Writes files into ``target``; ``reingest``: unchanged ones too. ``batch`` limits the documents of a request.

    ``has_journal`` says whether this user's journal tells how far files of JSON lines are stored. It is right as long
    as nobody else writes them, so those who share a collection with other writers do without.
    """

    target: IngestTarget
    parser: Parser
    recipe: Recipe
    summary: Summary
    display: Display
    reingest: bool = False
    batch: int | None = None
    has_journal: bool = True
    _pending: list[_PendingFile] = field(default_factory=list)
    _pending_documents: int = 0
    _pending_bytes: int = 0

    @property
    def max_documents(self) -> int:
        return self.batch or (BATCH_EMBEDDED if self.target.embeds else BATCH)

    def run(self, files: Sequence[FileEntry]) -> None:
        """Raises :class:`sage.errors.SageError` when the gateway refuses everything or stays unreachable."""
        for begin in range(0, len(files), _GROUP):
            group = files[begin : begin + _GROUP]
            marks = self.target.marks([entry.source for entry in group if entry.kind is not FileKind.JSONL])
            for entry in group:
                try:
                    self._file(entry, marks.get(entry.source))
                except Unreadable as exc:
                    self.summary.fail(entry.label, str(exc))
                    self.display.advance(entry.size)
                except OSError as exc:
                    reason = f"cannot be read: {exc.strerror or exc}"
                    self.summary.fail(entry.label, reason)
                    self.display.advance(entry.size)
        self._flush()

    def prune(self, roots: Mapping[str, WalkedDirectory]) -> None:
        """Deletes the documents of files that ``roots`` have lost; those of a root that is gone itself are kept."""
        for source in self.target.sources():
            root = next((prefix for prefix in roots if source.startswith(prefix)), None)
            if root is not None and roots[root].has_lost(source.removeprefix(root)):
                self.summary.deleted += self.target.remove_source(source)
                self.summary.pruned += 1

    def _file(self, entry: FileEntry, mark: SourceMark | None) -> None:
        entry.check()
        if entry.kind is FileKind.JSONL:
            self._flush()
            lines = JsonLinesIngest(
                self.target,
                self.parser,
                self.recipe,
                self.summary,
                self.display,
                self.max_documents,
                self.has_journal,
            )
            lines.ingest(entry, self.reingest)
            return
        digest = digest_of(entry.path, self.recipe.text(entry.kind))
        if mark is not None and mark.digest == digest and not self.reingest:
            self.summary.unchanged += 1
            self.display.advance(entry.size)
            return
        with Spool() as spool:
            fill(spool, self.parser, self.recipe, entry)
            stored = self.target.chunks_of(entry.source) if mark is not None else {}
            if spool.count <= self.max_documents and spool.bytes <= BATCH_BYTES:
                self._small(entry, digest, spool, stored, mark is not None)
            else:
                self._flush()
                self._large(entry, digest, spool, stored, mark is not None)

    def _small(self, entry: FileEntry, digest: str, spool: Spool, stored: dict[str, bytes], existed: bool) -> None:
        """All its documents go into one request, which is all or nothing; small files share a request."""
        documents = list(spool)
        if documents:
            documents[0] = marked(documents[0], digest, spool.count)
        stale = sorted(stored.keys() - {document["id"] for document in documents})
        if not self.reingest:
            documents = [document for document in documents if stored.get(document["id"]) != fingerprint(document)]
        count, size = self._pending_documents + len(documents), self._pending_bytes + spool.bytes
        if count > self.max_documents or size > BATCH_BYTES:
            self._flush()
        self._pending.append(_PendingFile(entry, documents, stale, existed, spool.count))
        self._pending_documents += len(documents)
        self._pending_bytes += spool.bytes

    def _flush(self) -> None:
        """Sends the pending files. A file of which the gateway refuses a chunk fails; the others go without it."""
        pending, self._pending = self._pending, []
        self._pending_documents = self._pending_bytes = 0
        while pending:
            for file in pending:
                self.summary.deleted += self._delete(file.stale)
                file.stale = []
            documents = [document for file in pending for document in file.documents]
            try:
                if documents:
                    self.target.put(documents)
                break
            except Refused as exc:
                refused = _file_at(pending, exc.position)
                self.summary.fail(refused.entry.label, str(exc))
                self.display.advance(refused.entry.size)
                pending.remove(refused)
        for file in pending:
            self._count(file.entry, file.chunks, len(file.documents), file.existed)

    def _large(self, entry: FileEntry, digest: str, spool: Spool, stored: dict[str, bytes], existed: bool) -> None:
        """The first chunk is sent first without a digest (incomplete) and last with it (complete).

        The documents that make a collection are as many as one request may have, since it takes its embedder by them.
        """
        ids = {chunk_id(entry.source, position) for position in range(spool.count)}
        self.summary.deleted += self._delete(sorted(stored.keys() - ids))
        documents = iter(spool)
        first = next(documents)
        missing = self._missing(documents, stored)
        advanced = 0
        try:
            sent = 0
            if self.target.is_new:
                missing = chain([marked(first, "", spool.count)], missing)
                sent = -1  # the first is counted once
            elif not existed:
                self.target.put([marked(first, "", spool.count)])
            for batch in batches(missing, request_bytes, BATCH_BYTES, self.max_documents):
                self.target.put(batch)
                sent += len(batch)
                self.display.sent(self.summary.sent + sent)
                progress = entry.size * sent // spool.count
                self.display.advance(progress - advanced)
                advanced = progress
            self.target.put([marked(first, digest, spool.count)])
        except Refused as exc:
            self.summary.fail(entry.label, str(exc))
            self.display.advance(entry.size - advanced)
            return
        self._count(entry, spool.count, sent + 1, existed, advanced)

    def _missing(self, documents: Iterator[dict[str, Any]], stored: dict[str, bytes]) -> Iterator[dict[str, Any]]:
        return (
            document for document in documents if self.reingest or stored.get(document["id"]) != fingerprint(document)
        )

    def _delete(self, ids: Sequence[str]) -> int:
        """Deletes chunks; a file's first one goes last, since it tells that there are others."""
        first = [key for key in ids if key.endswith("#0")]
        return sum(self.target.remove(some) for some in ([key for key in ids if key not in first], first) if some)

    def _count(self, entry: FileEntry, chunks: int, sent: int, existed: bool, advanced: int = 0) -> None:
        self.summary.chunks += chunks
        self.summary.sent += sent
        if not chunks:
            self.summary.empty_files.append(entry.label)
        elif existed:
            self.summary.changed += 1
        else:
            self.summary.added += 1
        self.display.advance(entry.size - advanced)
        self.display.sent(self.summary.sent)


def fill(spool: Spool, parser: Parser, recipe: Recipe, entry: FileEntry) -> None:
    """Puts the documents of a file that is not JSON lines into ``spool``. Raises :class:`Unreadable`."""
    records = parser.records(recipe.order(entry))
    head = next(records)
    for position, record in enumerate(records):
        spool.add(document_of(record, position, entry, head, recipe))


def _file_at(pending: Sequence[_PendingFile], position: int) -> _PendingFile:
    """The file of the document at that position of the batch."""
    for file in pending:
        if position < len(file.documents):
            return file
        position -= len(file.documents)
    raise IndexError(position)
