"""``sage ingest``: brings files of this machine into a collection of a running gateway."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any

import typer

from sage.middleware.cli.collections import path_of
from sage.middleware.cli.ingest.document import OVERLAP, OWN_FIELDS, SIZE, FileKind
from sage.middleware.cli.models import AsJson, client
from sage.middleware.settings.quantities import parse_size

Patterns = Annotated[
    list[str] | None, typer.Option(metavar="GLOB", help="In directories; again for more. On the path or the name.")
]


def ingest(
    collection: Annotated[str, typer.Argument(help="Made if it is not there.", show_default=False)],
    files: Annotated[
        list[Path], typer.Argument(metavar="FILE...", help="Files and directories; '-' is stdin.", show_default=False)
    ],
    include: Patterns = None,
    exclude: Patterns = None,
    called: Annotated[
        str | None, typer.Option("--as", metavar="NAME", help="What the one FILE is called in the collection.")
    ] = None,
    kind: Annotated[
        FileKind | None, typer.Option("--format", help="Of every file; else by ending and content.")
    ] = None,
    encoding: Annotated[str | None, typer.Option(help="Of text files; else it is found out.")] = None,
    chunk_size: Annotated[
        int, typer.Option(min=50, max=100_000, help="Characters of a chunk; a Chinese one counts as three.")
    ] = SIZE,
    overlap: Annotated[
        int | None, typer.Option(min=0, help=f"Characters that neighbours share at most; else {OVERLAP}.")
    ] = None,
    metadata: Annotated[
        list[str] | None, typer.Option(metavar="KEY=VALUE", help="Put to every document; again for more.")
    ] = None,
    max_memory: Annotated[str, typer.Option(metavar="SIZE", help="For the parsing of one file.")] = "1GiB",
    timeout: Annotated[
        float, typer.Option(min=0.1, help="Seconds for the parsing of one file, and one more a megabyte.")
    ] = 60,
    again: Annotated[bool, typer.Option("--again", help="Also files that have not changed.")] = False,
    prune: Annotated[
        bool, typer.Option("--prune", help="Delete what came from files of the directories that are gone.")
    ] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Parse, and send nothing.")] = False,
    as_json: AsJson = False,
) -> None:
    """Bring text, Markdown, HTML, PDF and JSON lines into a collection, in chunks.

    Run again, it leaves files alone that have not changed, replaces those that have, and goes on where it stopped.
    """
    path_of(collection)
    shared = min(OVERLAP, chunk_size // 5) if overlap is None else overlap
    if shared >= chunk_size:
        raise typer.BadParameter(f"{overlap} is not below --chunk-size {chunk_size}", param_hint="--overlap")
    if called is not None and (len(files) != 1 or not called.strip("/")):
        raise typer.BadParameter("names one FILE or directory", param_hint="--as")
    added, memory = dict(_metadata(text) for text in metadata or ()), _size(max_memory)
    from sage.middleware.cli.ingest import command

    command.ingest(
        command.IngestOptions(
            collection=collection,
            recipe=command.Recipe(chunk_size, shared, encoding, added),
            limits=command.ParsingLimits(memory, timeout),
            walk=command.Walk(include or (), exclude or (), called.strip("/") if called else None, kind),
            again=again,
            prune=prune,
            dry_run=dry_run,
        ),
        files,
        client,
        as_json=as_json,
    )


def _metadata(text: str) -> tuple[str, Any]:
    """``year=2024`` is a number, ``draft=false`` a truth value, ``"2024"`` in quotes a text, as all else."""
    key, equals, value = text.partition("=")
    if not equals or not key:
        raise typer.BadParameter(f"'{text}' is not KEY=VALUE", param_hint="--metadata")
    if key in OWN_FIELDS:
        raise typer.BadParameter(f"'{key}' is written by sage ingest itself", param_hint="--metadata")
    try:
        found = json.loads(value)
    except ValueError:
        return key, value
    return key, found if isinstance(found, str | int | float | bool | list) else value


def _size(text: str) -> int:
    try:
        size = int(parse_size(text))
    except ValueError as exc:
        raise typer.BadParameter(str(exc), param_hint="--max-memory") from None
    if size < 2**26:
        raise typer.BadParameter("64MiB is the least that a parser starts with", param_hint="--max-memory")
    return size
