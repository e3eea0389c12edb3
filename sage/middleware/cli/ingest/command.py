"""What ``sage ingest`` does once its words are understood."""

from __future__ import annotations

import contextlib
import hashlib
import json
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import typer

from sage.errors import SageError
from sage.middleware.cli.client import CallFailed, Client
from sage.middleware.cli.ingest.display import showing
from sage.middleware.cli.ingest.document import FileKind, Unreadable
from sage.middleware.cli.ingest.files import FileEntry, Walk, kind_of_stdin
from sage.middleware.cli.ingest.parsing import Parser, ParsingLimits
from sage.middleware.cli.ingest.records import Recipe, Spool
from sage.middleware.cli.ingest.run import Ingestion, fill
from sage.middleware.cli.ingest.summary import Display, Summary
from sage.middleware.cli.ingest.target import IngestTarget

Connect = Callable[[], Client]

__all__ = ["IngestOptions", "ParsingLimits", "Recipe", "Walk", "ingest"]


@dataclass(frozen=True)
class IngestOptions:
    """What the command line asks for, checked."""

    collection: str
    recipe: Recipe
    limits: ParsingLimits
    walk: Walk
    again: bool = False
    prune: bool = False
    dry_run: bool = False


def ingest(wish: IngestOptions, files: Sequence[Path], connect: Connect, *, as_json: bool = False) -> None:
    """Brings the files in and tells what became of them. Raises :class:`SageError` if any failed."""
    summary = Summary(wish.collection, wish.dry_run, skipped=wish.walk.skipped)
    with _with_stdin(files, wish.walk) as found:
        for file, reason in wish.walk.failed:
            summary.fail(file, reason)
        try:
            _carry_out(wish, found, summary, connect)
        except KeyboardInterrupt:
            raise SageError(f"interrupted; {_go_on(summary)}") from None
        except CallFailed as exc:
            raise SageError(f"{exc.message}; {_go_on(summary)}" if summary.sent else exc.message) from exc
    _report(summary, as_json)


def _carry_out(wish: IngestOptions, found: Sequence[FileEntry], summary: Summary, connect: Connect) -> None:
    total = sum(file.size for file in found)
    with Parser(wish.limits) as parser:
        if wish.dry_run:
            with showing(total, "chunks") as display:
                _try_out(wish, found, parser, summary, display)
            return
        target = IngestTarget(connect(), wish.collection)
        if target.open():
            embedder = target.description.get("embedder") or "none: keywords only"
            typer.echo(f"sage: collection '{wish.collection}' is new (embedder: {embedder})", err=True)
        with showing(total) as display:
            ingestion = Ingestion(target, parser, wish.recipe, summary, display, wish.again)
            ingestion.run(found)
            if wish.prune:
                ingestion.prune(wish.walk.roots)


def _try_out(
    wish: IngestOptions, found: Sequence[FileEntry], parser: Parser, summary: Summary, display: Display
) -> None:
    """What could be read, and how many documents it would be."""
    for file in found:
        try:
            count = _count(wish, file, parser, summary)
        except Unreadable as exc:
            summary.fail(file.shown, str(exc))
        else:
            summary.chunks += count
            summary.added += bool(count)
            summary.empty += not count
        display.advance(file.size)
        display.sent(summary.chunks)


def _count(wish: IngestOptions, file: FileEntry, parser: Parser, summary: Summary) -> int:
    if file.kind is not FileKind.JSONL:
        with Spool() as spool:
            fill(spool, parser, wish.recipe, file)
            return spool.count
    good = 0
    for record in parser.records(wish.recipe.order(file)):
        good += "document" in record
        if "error" in record:
            summary.fail(file.shown, record["error"], record["line"])
    return good


@contextlib.contextmanager
def _with_stdin(arguments: Sequence[Path], walk: Walk) -> Iterator[list[FileEntry]]:
    """The files of the arguments. What comes from stdin is a file for as long as the block lasts; without ``--as`` its
    content is its name, so that another stdin does not take its place."""
    named = [path for path in arguments if str(path) != "-"]
    found = walk.find(named)
    if len(named) == len(arguments):
        yield found
        return
    with tempfile.TemporaryDirectory() as scratch:
        path = Path(scratch, "stdin")
        digest = hashlib.blake2b(digest_size=8)
        with path.open("wb") as file:
            while part := sys.stdin.buffer.read(2**20):
                file.write(part)
                digest.update(part)
        with path.open("rb") as file:
            kind = walk.kind or kind_of_stdin(file.read(8192))
        source = walk.called or f"stdin:{digest.hexdigest()}"
        yield [*found, FileEntry(path, source, walk.called or "stdin", kind, path.stat().st_size, "stdin")]


def _go_on(summary: Summary) -> str:
    return f"{summary.sent} documents were sent and stay; run the same command again to go on"


def _report(summary: Summary, as_json: bool) -> None:
    summary.close()
    if as_json:
        typer.echo(json.dumps(summary.as_json(), indent=2, ensure_ascii=False))
    else:
        for file, reason in summary.failures:
            typer.echo(f"failed: {file}: {reason}", err=True)
        typer.echo("\n".join(summary.lines()))
    if summary.failures:
        raise SageError(f"{len(summary.failed_files)} of the files failed")
