"""What ``sage ingest`` does once its arguments are checked."""

from __future__ import annotations

import contextlib
import hashlib
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import typer

from sage.errors import CallFailed, SageError
from sage.middleware.cli.ingest.display import showing
from sage.middleware.cli.ingest.summary import empty_lines, summary_lines
from sage.middleware.cli.language.catalogue import _
from sage.middleware.cli.language.templates import translated
from sage.middleware.cli.output import plain, print_json
from sage.middleware.client.connection import Client
from sage.middleware.ingest.document import FileKind, Unreadable
from sage.middleware.ingest.extra import check_extra
from sage.middleware.ingest.files import FileEntry, Walk, kind_of_stdin
from sage.middleware.ingest.ingestion import Ingestion, fill
from sage.middleware.ingest.parsing import Parser, ParsingLimits
from sage.middleware.ingest.records import Recipe, Spool
from sage.middleware.ingest.summary import Display, Summary
from sage.middleware.ingest.target import IngestTarget

Connect = Callable[[], Client]

__all__ = ["IngestOptions", "ParsingLimits", "Recipe", "Walk", "ingest"]


@dataclass(frozen=True)
class IngestOptions:
    """The arguments of the command line, checked."""

    collection: str
    recipe: Recipe
    limits: ParsingLimits
    walk: Walk
    reingest: bool = False
    prune: bool = False
    dry_run: bool = False


def ingest(options: IngestOptions, arguments: Sequence[Path], connect: Connect, *, as_json: bool = False) -> None:
    """Ingests the files and prints a summary. Raises :class:`SageError` if any file failed."""
    with _files_and_stdin(arguments, options.walk) as files:
        summary = new_summary(options)
        try:
            run(options, files, summary, connect)
        except KeyboardInterrupt:
            typer.echo(f"sage: {_('interrupted')}; {_continue_hint(summary)}", err=True)
            raise
        except CallFailed as exc:
            hint = f"; {_continue_hint(summary)}" if summary.sent else ""
            raise SageError(f"{translated(exc.message)}{hint}") from exc
    report(summary, as_json)
    if summary.failures:
        raise SageError(f"{len(summary.failed_files)} of the files failed")


def new_summary(options: IngestOptions) -> Summary:
    """One that has what the walk has skipped and could not read."""
    summary = Summary(options.collection, options.dry_run, skipped=options.walk.skipped)
    for file, reason in options.walk.failed:
        summary.fail(file, reason)
    return summary


def run(options: IngestOptions, files: Sequence[FileEntry], summary: Summary, connect: Connect) -> None:
    """Raises :class:`CallFailed` when the gateway refuses everything or cannot be reached."""
    total = sum(file.size for file in files)
    check_extra(file.kind for file in files)
    with Parser(options.limits) as parser:
        if options.dry_run:
            with showing(total, _("chunks")) as display:
                _dry_run(options, files, parser, summary, display)
            return
        target = IngestTarget(connect(), options.collection)
        target.open()
        with _telling_of(target), showing(total) as display:
            ingestion = Ingestion(target, parser, options.recipe, summary, display, options.reingest)
            ingestion.run(files)
            if options.prune:
                ingestion.prune(options.walk.roots)
        summary.warnings = target.warnings


@contextlib.contextmanager
def _telling_of(target: IngestTarget) -> Iterator[None]:
    """Says at the end that the collection was made, or before that searches in it could be better."""
    was_new = target.is_new
    for warning in target.description.get("warnings") or ():
        message = _("sage: collection '{name}' {warning}")
        typer.echo(message.format(name=target.name, warning=translated(plain(warning))), err=True)
    try:
        yield
    finally:
        if was_new and not target.is_new:
            embedder = plain(target.description.get("embedder") or _("none: keywords only"))
            message = _("sage: collection '{name}' is new (embedder: {embedder})")
            typer.echo(message.format(name=target.name, embedder=embedder), err=True)


def _dry_run(
    options: IngestOptions, files: Sequence[FileEntry], parser: Parser, summary: Summary, display: Display
) -> None:
    """Reads the files and counts the documents that would be sent."""
    for file in files:
        try:
            file.check()
            count = _count(options, file, parser, summary)
        except Unreadable as exc:
            summary.fail(file.label, str(exc))
        else:
            summary.chunks += count
            summary.added += bool(count)
            if not count:
                summary.empty_files.append(file.label)
        display.advance(file.size)
        display.sent(summary.chunks)


def _count(options: IngestOptions, file: FileEntry, parser: Parser, summary: Summary) -> int:
    if file.kind is not FileKind.JSONL:
        with Spool() as spool:
            fill(spool, parser, options.recipe, file)
            return spool.count
    count = 0
    for record in parser.records(options.recipe.order(file)):
        count += "document" in record
        if "error" in record:
            summary.fail(file.label, record["error"], record["line"])
    return count


@contextlib.contextmanager
def _files_and_stdin(arguments: Sequence[Path], walk: Walk) -> Iterator[list[FileEntry]]:
    """The files of the arguments. Stdin is kept in a temporary file while the block runs; without ``--as`` its source
    is named after its content, so that another stdin does not replace it."""
    paths = [path for path in arguments if str(path) != "-"]
    files = walk.find(paths)
    if len(paths) == len(arguments):
        yield files
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
        source = walk.alias or f"stdin:{digest.hexdigest()}"
        yield [*files, FileEntry(path, source, walk.alias or "stdin", kind, path.stat().st_size, "stdin")]


def _continue_hint(summary: Summary) -> str:
    message = _("{count} documents were sent and stay; run the same command again to continue")
    return message.format(count=summary.sent)


def report(summary: Summary, as_json: bool) -> None:
    """Prints the summary, its failures and what the gateway said."""
    summary.close()
    if as_json:
        print_json(summary.as_json())
    else:
        for warning in summary.warnings:
            typer.echo(f"sage: {translated(plain(warning))}", err=True)
        for file, reason in summary.failures:
            typer.echo(_("failed: {file}: {reason}").format(file=file, reason=translated(reason)), err=True)
        for line in empty_lines(summary):
            typer.echo(line, err=True)
        typer.echo("\n".join(summary_lines(summary)))
