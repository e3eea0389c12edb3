"""JSON lines into a collection: valid lines are stored unchanged and in order; a journal records the progress."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from sage.middleware.ingest.files import FileEntry
from sage.middleware.ingest.journal import Journal, Position, Prefix
from sage.middleware.ingest.parsing import Parser
from sage.middleware.ingest.records import Recipe, chunk_id
from sage.middleware.ingest.summary import Display, Summary
from sage.middleware.ingest.target import IngestTarget, Refused

_BATCH_BYTES = 4 * 2**20


@dataclass
class _Batch:
    """Documents with their line numbers; ``end`` and ``line`` are the end of the batch in the file."""

    documents: list[dict[str, Any]] = field(default_factory=list)
    lines: list[int] = field(default_factory=list)
    ids: set[str] = field(default_factory=set)
    bytes: int = 0
    end: int = 0
    line: int = 0
    ends_line: bool = True
    clean: bool = True
    """No line up to ``end`` failed: a later run may continue there."""


class JsonLinesIngest:
    """Ingests files of JSON lines."""

    def __init__(
        self,
        target: IngestTarget,
        parser: Parser,
        recipe: Recipe,
        summary: Summary,
        display: Display,
        max_documents: int,
        has_journal: bool,
    ) -> None:
        self._target = target
        self._parser = parser
        self._recipe = recipe
        self._summary = summary
        self._display = display
        self._max_documents = max_documents
        self._has_journal = has_journal

    def ingest(self, entry: FileEntry, reingest: bool) -> None:
        """Continues where the journal says that an earlier run stopped, if the file still has the same beginning."""
        with entry.path.open("rb") as file:
            prefix = Prefix(file, self._recipe.text(entry.kind))
            position = Position()
            if self._has_journal and not reingest and not self._target.is_new:
                position = self._journal(entry).read()
            if not _is_prefix_stored(position, prefix, entry.size):
                position = Position()
                prefix = Prefix(file, self._recipe.text(entry.kind))
            if position.offset and position.offset == entry.size:
                self._summary.unchanged += 1
                self._display.advance(entry.size)
                return
            self._send_from(entry, position, prefix)

    def _journal(self, entry: FileEntry) -> Journal:
        """A collection that is not there yet has no identity, and no journal."""
        return Journal(self._target.identity, entry.source)

    def _send_from(self, entry: FileEntry, position: Position, prefix: Prefix) -> None:
        batch = _Batch(end=position.offset, line=position.line)
        reached = position.offset
        self._display.advance(reached)
        count = 0
        for record in self._parser.records(self._recipe.order(entry, position.offset, position.line)):
            document, size = record.get("document"), record["end"] - batch.end
            if document is not None:
                document = self._completed(document, entry, record["line"])
                is_full = len(batch.ids) >= self._max_documents or batch.bytes + size > _BATCH_BYTES
                if is_full or document["id"] in batch.ids:
                    self._send(batch, entry, prefix)
                    self._display.advance(batch.end - reached)
                    reached = batch.end
                    batch = _Batch(end=batch.end, line=batch.line, clean=batch.clean)
                batch.documents.append(document)
                batch.lines.append(record["line"])
                batch.ids.add(document["id"])
                batch.bytes += size
                count += 1
            else:
                self._summary.fail(entry.label, record["error"], record["line"])
                if batch.clean:
                    self._send(batch, entry, prefix)
                    batch = _Batch(end=batch.end, line=batch.line, clean=False)
            batch.end, batch.line, batch.ends_line = record["end"], record["line"], record["ends_line"]
        self._send(batch, entry, prefix)
        self._display.advance(entry.size - reached)
        self._count(entry, count, position)

    def _completed(self, document: dict[str, Any], entry: FileEntry, line: int) -> dict[str, Any]:
        """The document with an id (default: source and line) and ``--metadata``, which yields to its own."""
        completed = {key: value for key, value in document.items() if value is not None}
        completed.setdefault("id", chunk_id(entry.source, line))
        if self._recipe.metadata:
            completed["metadata"] = {**self._recipe.metadata, **(completed.get("metadata") or {})}
        return completed

    def _send(self, batch: _Batch, entry: FileEntry, prefix: Prefix) -> None:
        """Writes the batch; each document that the gateway refuses is recorded as a failed line."""
        pending = list(zip(batch.documents, batch.lines, strict=True))
        while pending:
            try:
                self._target.put([document for document, _ in pending])
                break
            except Refused as exc:
                self._summary.fail(entry.label, str(exc), pending[exc.position][1])
                batch.clean = False
                del pending[exc.position]
        self._summary.sent += len(pending)
        self._display.sent(self._summary.sent)
        if not self._has_journal or not batch.clean or not batch.end or self._target.is_new:
            return
        if digest := prefix.up_to(batch.end):
            self._journal(entry).write(Position(batch.end, batch.line, digest, batch.ends_line))

    def _count(self, entry: FileEntry, count: int, position: Position) -> None:
        self._summary.chunks += count
        if entry.label in self._summary.failed_files:
            return
        if not count and not position.offset:
            self._summary.empty_files.append(entry.label)
        elif position.offset:
            self._summary.changed += 1
        else:
            self._summary.added += 1


def _is_prefix_stored(position: Position, prefix: Prefix, size: int) -> bool:
    """Whether the file still begins with the bytes that the journal says are stored."""
    if not position.offset or position.offset > size or (not position.ends_line and position.offset != size):
        return False
    return prefix.up_to(position.offset) == position.digest
