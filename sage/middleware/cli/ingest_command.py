"""``sage ingest``: puts files of this machine into a collection of a running gateway."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any

import typer

from sage.middleware.cli.collections import path_of
from sage.middleware.cli.output import AsJson
from sage.middleware.client.connection import connect
from sage.middleware.ingest.document import OVERLAP, OWN_FIELDS, SIZE, FileKind
from sage.middleware.settings.quantities import parse_size

Patterns = Annotated[
    list[str] | None,
    typer.Option(
        metavar="GLOB",
        help="Take only files in the directories whose path or name matches, such as '*.md'. "
        "Give the option again for each further pattern.",
    ),
]
ExcludePatterns = Annotated[
    list[str] | None,
    typer.Option(
        metavar="GLOB",
        help="Leave out files in the directories whose path or name matches, such as '*.bak'. "
        "Give the option again for each further pattern.",
    ),
]


def ingest(
    collection: Annotated[
        str,
        typer.Argument(
            metavar="COLLECTION", help="The collection. It is created if it does not exist.", show_default=False
        ),
    ],
    files: Annotated[
        list[Path],
        typer.Argument(metavar="FILE", help="Files and directories; '-' is standard input.", show_default=False),
    ],
    include: Patterns = None,
    exclude: ExcludePatterns = None,
    alias: Annotated[
        str | None,
        typer.Option("--as", metavar="NAME", help="The name that FILE gets in the collection, if it is a single one."),
    ] = None,
    kind: Annotated[
        FileKind | None,
        typer.Option("--format", help="The format of all files. Without it, the format is told by ending and content."),
    ] = None,
    encoding: Annotated[
        str | None,
        typer.Option(
            metavar="ENCODING", help="The encoding of text files, such as gb18030. Without it, it is told by the text."
        ),
    ] = None,
    chunk_size: Annotated[
        int,
        typer.Option(
            metavar="N",
            min=50,
            max=100_000,
            help="How many characters a chunk has at most; a Chinese character counts as three.",
        ),
    ] = SIZE,
    overlap: Annotated[
        int | None,
        typer.Option(
            metavar="N",
            min=0,
            help="How many characters two neighbouring chunks share at most. "
            f"Without it, {OVERLAP}, or less where chunks are small.",
        ),
    ] = None,
    metadata: Annotated[
        list[str] | None,
        typer.Option(
            metavar="KEY=VALUE",
            help="Add this to the metadata of every document. Give the option again for each further field.",
        ),
    ] = None,
    max_memory: Annotated[
        str, typer.Option(metavar="SIZE", help="How much memory the parser of one file may take.")
    ] = "1GiB",
    timeout: Annotated[
        float,
        typer.Option(
            metavar="SECONDS",
            min=0.1,
            help="How long parsing one file may take; each megabyte of the file adds a second.",
        ),
    ] = 60,
    reingest: Annotated[bool, typer.Option("--again", help="Send files that have not changed, too.")] = False,
    prune: Annotated[
        bool, typer.Option("--prune", help="Delete the documents of files that are no longer in the directories.")
    ] = False,
    watch: Annotated[
        bool,
        typer.Option(
            "--watch", help="Go on: put in what changes, and delete the documents of files that go, until Ctrl-C."
        ),
    ] = False,
    no_ignore: Annotated[
        bool, typer.Option("--no-ignore", help="Take files of directories that .gitignore leaves out, too.")
    ] = False,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Parse the files, say what would be sent, and send nothing.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Put files into a collection, cut into chunks: text, Markdown, HTML, PDF, Office files, books, tables, code.

    Run it again to replace files that have changed and to continue after an interruption; unchanged files are skipped.
    """
    path_of(collection)
    shared = min(OVERLAP, chunk_size // 5) if overlap is None else overlap
    if shared >= chunk_size:
        raise typer.BadParameter(f"{overlap} is not below --chunk-size {chunk_size}", param_hint="--overlap")
    if alias is not None and (len(files) != 1 or not alias.strip("/")):
        raise typer.BadParameter("it goes with one FILE or directory", param_hint="--as")
    if watch and dry_run:
        raise typer.BadParameter("it goes without --dry-run", param_hint="--watch")
    added, memory = dict(_metadata(text) for text in metadata or ()), _size(max_memory)
    from sage.middleware.cli.ingest import command

    name = alias.strip("/") if alias else None
    options = command.IngestOptions(
        collection=collection,
        recipe=command.Recipe(chunk_size, shared, encoding, added),
        limits=command.ParsingLimits(memory, timeout),
        walk=command.Walk(include or (), exclude or (), name, kind, not no_ignore),
        reingest=reingest,
        prune=prune,
        dry_run=dry_run,
    )
    if watch:
        from sage.middleware.cli.ingest.watch import DirectoryWatch

        DirectoryWatch(options, files, connect, as_json).run()
    else:
        command.ingest(options, files, connect, as_json=as_json)


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
