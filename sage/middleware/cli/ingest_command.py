"""``sage ingest``: puts files of this machine into a collection of a running gateway."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any

import typer

from sage.middleware.cli.client import connect
from sage.middleware.cli.collections import path_of
from sage.middleware.cli.ingest.document import OVERLAP, OWN_FIELDS, SIZE, FileKind
from sage.middleware.cli.output import AsJson
from sage.middleware.settings.quantities import parse_size

Patterns = Annotated[
    list[str] | None, typer.Option(metavar="GLOB", help="Of files in directories, by path or name; may be repeated.")
]


def ingest(
    collection: Annotated[
        str, typer.Argument(help="The collection; it is created if it does not exist.", show_default=False)
    ],
    files: Annotated[
        list[Path], typer.Argument(metavar="FILE...", help="Files and directories; '-' is stdin.", show_default=False)
    ],
    include: Patterns = None,
    exclude: Patterns = None,
    alias: Annotated[
        str | None, typer.Option("--as", metavar="NAME", help="The name of the one FILE in the collection.")
    ] = None,
    kind: Annotated[
        FileKind | None, typer.Option("--format", help="The format of every file; default: by ending and content.")
    ] = None,
    encoding: Annotated[str | None, typer.Option(help="The encoding of text files; default: detected.")] = None,
    chunk_size: Annotated[
        int, typer.Option(min=50, max=100_000, help="Characters of a chunk at most; a Chinese one counts as three.")
    ] = SIZE,
    overlap: Annotated[
        int | None, typer.Option(min=0, help=f"Characters that neighbouring chunks share at most; default: {OVERLAP}.")
    ] = None,
    metadata: Annotated[
        list[str] | None, typer.Option(metavar="KEY=VALUE", help="Added to every document; may be repeated.")
    ] = None,
    max_memory: Annotated[str, typer.Option(metavar="SIZE", help="Memory for parsing one file.")] = "1GiB",
    timeout: Annotated[
        float, typer.Option(min=0.1, help="Seconds for parsing one file, plus one for each megabyte.")
    ] = 60,
    reingest: Annotated[bool, typer.Option("--again", help="Send also files that have not changed.")] = False,
    prune: Annotated[
        bool, typer.Option("--prune", help="Delete documents of files that no longer exist in the directories.")
    ] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Parse the files, and send nothing.")] = False,
    as_json: AsJson = False,
) -> None:
    """Put text, Markdown, HTML, PDF and JSON lines into a collection, in chunks.

    Run it again to replace files that have changed and to continue after an interruption; unchanged files are skipped.
    """
    path_of(collection)
    shared = min(OVERLAP, chunk_size // 5) if overlap is None else overlap
    if shared >= chunk_size:
        raise typer.BadParameter(f"{overlap} is not below --chunk-size {chunk_size}", param_hint="--overlap")
    if alias is not None and (len(files) != 1 or not alias.strip("/")):
        raise typer.BadParameter("names one FILE or directory", param_hint="--as")
    added, memory = dict(_metadata(text) for text in metadata or ()), _size(max_memory)
    from sage.middleware.cli.ingest import command

    command.ingest(
        command.IngestOptions(
            collection=collection,
            recipe=command.Recipe(chunk_size, shared, encoding, added),
            limits=command.ParsingLimits(memory, timeout),
            walk=command.Walk(include or (), exclude or (), alias.strip("/") if alias else None, kind),
            reingest=reingest,
            prune=prune,
            dry_run=dry_run,
        ),
        files,
        connect,
        as_json=as_json,
    )


def _metadata(text: str) -> tuple[str, Any]:
    """``year=2024`` is a number, ``draft=false`` a truth value; ``year="2024"`` and everything else is text."""
    key, equals, value = text.partition("=")
    if not equals or not key:
        raise typer.BadParameter(f"'{text}' is not KEY=VALUE", param_hint="--metadata")
    if key in OWN_FIELDS:
        raise typer.BadParameter(f"'{key}' is written by sage ingest itself", param_hint="--metadata")
    try:
        parsed = json.loads(value)
    except ValueError:
        return key, value
    return key, parsed if isinstance(parsed, str | int | float | bool | list) else value


def _size(text: str) -> int:
    try:
        size = int(parse_size(text))
    except ValueError as exc:
        raise typer.BadParameter(str(exc), param_hint="--max-memory") from None
    if size < 2**26:
        raise typer.BadParameter("a parser needs at least 64MiB", param_hint="--max-memory")
    return size
