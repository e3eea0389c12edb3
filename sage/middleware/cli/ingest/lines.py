"""JSON lines into a collection: every good line as it is, in order; what was acknowledged is in the journal."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from sage.middleware.cli.ingest.files import FileEntry
from sage.middleware.cli.ingest.journal import Journal, Position, Prefix
from sage.middleware.cli.ingest.parsing import Parser
from sage.middleware.cli.ingest.records import Recipe, chunk_id
from sage.middleware.cli.ingest.summary import Display, Summary
from sage.middleware.cli.ingest.target import IngestTarget, Refused

_BATCH_BYTES = 4 * 2**20


@dataclass
class _Batch:
    """Documents with their lines, and how far into the file they reach."""

    documents: list[dict[str, Any]] = field(default_factory=list)
    lines: list[int] = field(default_factory=list)
    ids: set[str] = field(default_factory=set)
    bytes: int = 0
    end: int = 0
    line: int = 0
    whole: bool = True
    clean: bool = True
    """No line up to here failed: a later run may begin behind it."""


class JsonLinesIngest:
    """Takes in one file of JSON lines."""

    def __init__(
        self, target: IngestTarget, parser: Parser, recipe: Recipe, summary: Summary, display: Display, most: int
    ) -> None:
        self._target = target
        self._parser = parser
        self._recipe = recipe
        self._summary = summary
        self._display = display
        self._most = most

    def take(self, found: FileEntry, again: bool) -> None:
        """Goes on where the journal says that an earlier run stopped, if the file begins as it did then."""
        journal = Journal(self._target.identity, found.source)
        with found.path.open("rb") as file:
            prefix = Prefix(file, self._recipe.text(found.kind))
            position = Position() if again else journal.read()
            if not _holds(position, prefix, found.size):
                position = Position()
                prefix = Prefix(file, self._recipe.text(found.kind))
            if position.offset and position.offset == found.size:
                self._summary.unchanged += 1
                self._display.advance(found.size)
                return
            self._rest(found, position, prefix, journal)

    def _rest(self, found: FileEntry, position: Position, prefix: Prefix, journal: Journal) -> None:
        batch = _Batch(end=position.offset, line=position.line)
        reached = position.offset
        self._display.advance(reached)
        count = 0
        for record in self._parser.records(self._recipe.order(found, position.offset, position.line)):
            document, size = record.get("document"), record["end"] - batch.end
            if document is not None:
                document = self._finished(document, found, record["line"])
                if document["id"] in batch.ids or len(batch.ids) >= self._most or batch.bytes + size > _BATCH_BYTES:
                    self._send(batch, found, prefix, journal)
                    self._display.advance(batch.end - reached)
                    reached = batch.end
                    batch = _Batch(end=batch.end, line=batch.line, clean=batch.clean)
                batch.documents.append(document)
                batch.lines.append(record["line"])
                batch.ids.add(document["id"])
                batch.bytes += size
                count += 1
            else:
                self._summary.fail(found.shown, record["error"], record["line"])
                if batch.clean:
                    self._send(batch, found, prefix, journal)
                    batch = _Batch(end=batch.end, line=batch.line, clean=False)
            batch.end, batch.line, batch.whole = record["end"], record["line"], record["whole"]
        self._send(batch, found, prefix, journal)
        self._display.advance(found.size - reached)
        self._count(found, count, position)

    def _finished(self, document: dict[str, Any], found: FileEntry, line: int) -> dict[str, Any]:
        """With an id, by its place in the file, and ``--metadata`` under its own."""
        done = {key: value for key, value in document.items() if value is not None}
        done.setdefault("id", chunk_id(found.source, line))
        if self._recipe.metadata:
            done["metadata"] = {**self._recipe.metadata, **(done.get("metadata") or {})}
        return done

    def _send(self, batch: _Batch, found: FileEntry, prefix: Prefix, journal: Journal) -> None:
        """Writes the batch without the documents that the gateway refuses, which fail by their lines."""
        pending = list(zip(batch.documents, batch.lines, strict=True))
        while pending:
            try:
                self._target.put([document for document, _ in pending])
                break
            except Refused as exc:
                self._summary.fail(found.shown, str(exc), pending[exc.place][1])
                batch.clean = False
                del pending[exc.place]
        self._summary.sent += len(pending)
        self._display.sent(self._summary.sent)
        if batch.clean and batch.end and (digest := prefix.up_to(batch.end)):
            journal.write(Position(batch.end, batch.line, digest, batch.whole))

    def _count(self, found: FileEntry, count: int, position: Position) -> None:
        self._summary.chunks += count
        if found.shown in self._summary.failed_files:
            return
        if not count and not position.offset:
            self._summary.empty += 1
        elif position.offset:
            self._summary.changed += 1
        else:
            self._summary.added += 1


def _holds(position: Position, prefix: Prefix, size: int) -> bool:
    """Whether the file still begins with what the journal says is in."""
    if not position.offset or position.offset > size or (not position.whole and position.offset != size):
        return False
    return prefix.up_to(position.offset) == position.digest
