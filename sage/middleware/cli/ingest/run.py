"""One ``sage ingest``: files that changed are parsed, made into documents and written; the rest is left alone.

What is in the collection is asked of the collection itself, so that nothing else can be lost or wrong. The first chunk
of a file carries a digest of the file's bytes and is written last, after every other chunk of it is durable and those
that are no longer its own are deleted: where that digest stands, the file is in, whole. Interrupted anywhere, the next
run finds the digest missing and sends what is not there yet. (JSON lines: see :mod:`.lines` and :mod:`.journal`.)
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from sage.middleware.cli.ingest.document import FileKind, Unreadable
from sage.middleware.cli.ingest.files import FileEntry, digest_of
from sage.middleware.cli.ingest.lines import JsonLinesIngest
from sage.middleware.cli.ingest.parsing import Parser
from sage.middleware.cli.ingest.records import Recipe, Spool, batches, chunk_id, document_of, marked
from sage.middleware.cli.ingest.summary import Display, Summary
from sage.middleware.cli.ingest.target import IngestTarget, Mark, Refused, fingerprint

BATCH_EMBEDDED = 64
"""Documents in a request that the gateway embeds: seconds of work, so that progress shows and time-outs are far."""
BATCH = 500
BATCH_BYTES = 4 * 2**20
_GROUP = 64  # files whose state is asked at once


@dataclass
class _Waiting:
    """A small file whose documents wait for their batch to be full. ``stale``: ids to delete before it is sent."""

    found: FileEntry
    documents: list[dict[str, Any]]
    stale: list[str]
    known: bool
    chunks: int = 0


@dataclass
class Ingestion:
    """Brings files into ``target``; ``again``: also those that have not changed; ``batch``: documents in a request."""

    target: IngestTarget
    parser: Parser
    recipe: Recipe
    summary: Summary
    display: Display
    again: bool = False
    batch: int | None = None
    _waiting: list[_Waiting] = field(default_factory=list)
    _held: int = 0
    _held_bytes: int = 0

    @property
    def most(self) -> int:
        return self.batch or (BATCH_EMBEDDED if self.target.embeds else BATCH)

    def run(self, files: Sequence[FileEntry]) -> None:
        """Raises :class:`sage.errors.SageError` when the gateway refuses it all or stays away."""
        for begin in range(0, len(files), _GROUP):
            group = files[begin : begin + _GROUP]
            marks = self.target.marks([found.source for found in group if found.kind is not FileKind.JSONL])
            for found in group:
                try:
                    self._file(found, marks.get(found.source))
                except Unreadable as exc:
                    self.summary.fail(found.shown, str(exc))
                    self.display.advance(found.size)
                except OSError as exc:
                    self.summary.fail(found.shown, f"cannot be read: {exc.strerror or exc}")
                    self.display.advance(found.size)
        self._flush()

    def prune(self, roots: Mapping[str, Path]) -> None:
        """Deletes what came from files under ``roots`` that exist no longer."""
        for source in self.target.sources():
            root = next((prefix for prefix in roots if source.startswith(prefix)), None)
            if root is not None and not os.path.lexists(roots[root] / source.removeprefix(root)):
                self.summary.deleted += self.target.remove_source(source)
                self.summary.pruned += 1

    def _file(self, found: FileEntry, mark: Mark | None) -> None:
        if found.kind is FileKind.JSONL:
            self._flush()
            JsonLinesIngest(self.target, self.parser, self.recipe, self.summary, self.display, self.most).take(
                found, self.again
            )
            return
        digest = digest_of(found.path, self.recipe.text(found.kind))
        if mark is not None and mark.digest == digest and not self.again:
            self.summary.unchanged += 1
            self.display.advance(found.size)
            return
        with Spool() as spool:
            fill(spool, self.parser, self.recipe, found)
            held = self.target.chunks_of(found.source) if mark is not None else {}
            if spool.count <= self.most and spool.bytes <= BATCH_BYTES:
                self._small(found, digest, spool, held, mark is not None)
            else:
                self._flush()
                self._large(found, digest, spool, held, mark is not None)

    def _small(self, found: FileEntry, digest: str, spool: Spool, held: dict[str, bytes], known: bool) -> None:
        """All of it goes into one request, which is all or nothing; with others while there is room."""
        documents = list(spool)
        if documents:
            documents[0] = marked(documents[0], digest, spool.count)
        stale = sorted(held.keys() - {document["id"] for document in documents})
        if not self.again:
            documents = [document for document in documents if held.get(document["id"]) != fingerprint(document)]
        if self._held + len(documents) > self.most or self._held_bytes + spool.bytes > BATCH_BYTES:
            self._flush()
        self._waiting.append(_Waiting(found, documents, stale, known, spool.count))
        self._held += len(documents)
        self._held_bytes += spool.bytes

    def _flush(self) -> None:
        """Sends what waits. A file of which the gateway refuses a chunk fails; the others go without it."""
        waiting, self._waiting = self._waiting, []
        self._held = self._held_bytes = 0
        while waiting:
            for one in waiting:
                self.summary.deleted += self._forget(one.stale)
                one.stale = []
            documents = [document for one in waiting for document in one.documents]
            try:
                if documents:
                    self.target.put(documents)
                break
            except Refused as exc:
                bad = _owner(waiting, exc.place)
                self.summary.fail(bad.found.shown, str(exc))
                self.display.advance(bad.found.size)
                waiting.remove(bad)
        for one in waiting:
            self._done(one.found, one.chunks, len(one.documents), one.known)

    def _large(self, found: FileEntry, digest: str, spool: Spool, held: dict[str, bytes], known: bool) -> None:
        """Its first chunk goes first, saying that the rest is to come, and last, saying that it came."""
        ids = {chunk_id(found.source, place) for place in range(spool.count)}
        self.summary.deleted += self._forget(sorted(held.keys() - ids))
        documents = iter(spool)
        first = next(documents)
        shown = 0
        try:
            if not known:
                self.target.put([marked(first, "", spool.count)])
            sent = 0
            for batch in batches(self._missing(documents, held), self.most, BATCH_BYTES):
                self.target.put(batch)
                sent += len(batch)
                self.display.sent(self.summary.sent + sent)
                share = found.size * sent // spool.count
                self.display.advance(share - shown)
                shown = share
            self.target.put([marked(first, digest, spool.count)])
        except Refused as exc:
            self.summary.fail(found.shown, str(exc))
            self.display.advance(found.size - shown)
            return
        self._done(found, spool.count, sent + 1, known, shown)

    def _missing(self, documents: Iterator[dict[str, Any]], held: dict[str, bytes]) -> Iterator[dict[str, Any]]:
        return (one for one in documents if self.again or held.get(one["id"]) != fingerprint(one))

    def _forget(self, ids: Sequence[str]) -> int:
        """Deletes chunks, a file's first one after all others: it tells that they are there."""
        first = [key for key in ids if key.endswith("#0")]
        return sum(self.target.remove(some) for some in ([key for key in ids if key not in first], first) if some)

    def _done(self, found: FileEntry, chunks: int, sent: int, known: bool, shown: int = 0) -> None:
        self.summary.chunks += chunks
        self.summary.sent += sent
        if not chunks:
            self.summary.empty += 1
        elif known:
            self.summary.changed += 1
        else:
            self.summary.added += 1
        self.display.advance(found.size - shown)
        self.display.sent(self.summary.sent)


def fill(spool: Spool, parser: Parser, recipe: Recipe, found: FileEntry) -> None:
    """The documents of a file that is not JSON lines. Raises :class:`Unreadable`."""
    records = parser.records(recipe.order(found))
    head = next(records)
    for place, record in enumerate(records):
        spool.add(document_of(record, place, found, head, recipe))


def _owner(waiting: Sequence[_Waiting], place: int) -> _Waiting:
    """Whose document is at that place of the batch."""
    for one in waiting:
        if place < len(one.documents):
            return one
        place -= len(one.documents)
    raise IndexError(place)
