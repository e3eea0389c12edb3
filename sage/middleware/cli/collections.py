"""``sage collections …``: clients of a running gateway (``SAGE_URL``, ``SAGE_API_KEY``)."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any, BinaryIO

import typer

from sage.errors import SageError
from sage.middleware.cli.client import CallFailed, connect, set_options
from sage.middleware.cli.output import AsJson, plain, print_json, print_table
from sage.middleware.cli.progress import counting_bytes, showing_steps, size_text, waiting_for
from sage.middleware.settings.retrieval import Metric, Variant

collections_app = typer.Typer(help="The collections of a running gateway, which can be searched.", no_args_is_help=True)

Name = Annotated[str, typer.Argument(help="A collection's name.", show_default=False)]


def path_of(name: str) -> str:
    """``/collections/NAME``; raises for a name that cannot be part of a path."""
    if "/" in name or name in ("", ".", ".."):
        raise typer.BadParameter(f"'{name}' is not a name of a collection", param_hint="COLLECTION")
    return f"/collections/{name}"


@collections_app.command("list")
def list_collections(as_json: AsJson = False) -> None:
    """List your collections."""
    answer = connect().get("/collections")
    if as_json:
        print_json(answer)
    else:
        head = ("NAME", "DOCUMENTS", "EMBEDDER", "DIMENSION", "METRIC", "SIZE")
        print_table(head, map(_row, answer["collections"]))


def _row(collection: dict[str, Any]) -> tuple[object, ...]:
    if collection.get("error"):
        return collection["name"], "-", collection["error"], "-", "-", "-"
    return (
        collection["name"],
        collection["documents"] if collection["documents"] is not None else "-",
        collection["embedder"] or "none",
        collection["dimension"] or "-",
        collection["metric"],
        size_text(collection["bytes"]) if collection["bytes"] is not None else "-",
    )


@collections_app.command("show")
def show_collection(name: Name, as_json: AsJson = False) -> None:
    """Show one collection: its size, embedder, keyword scoring, text analysis and the state of its index."""
    _print_collection(connect().get(path_of(name)), as_json)


def _print_collection(collection: dict[str, Any], as_json: bool) -> None:
    if as_json:
        print_json(collection)
    else:
        typer.echo("\n".join(describe(collection)))


def describe(collection: dict[str, Any]) -> list[str]:
    """The answer of ``GET /collections/{name}`` as the lines of ``sage collections show``."""
    options = collection.get("options") or {}
    keywords, analysis = options.get("keywords") or {}, options.get("analysis") or {}
    languages = collection.get("languages")
    vectors = plain(collection["embedder"] or "none; documents may bring their own")
    if collection["dimension"]:
        vectors += f", {collection['dimension']} dimensions, {collection['metric']}"
    if languages is not None:
        vectors += f"; languages {', '.join(languages)}"
    lines = [
        f"{plain(collection['name'])}: {collection['documents']} documents, {size_text(collection['bytes'])}",
        f"  created: {time.strftime('%Y-%m-%d %H:%M', time.localtime(collection['created_at']))}",
        f"  vectors: {vectors}",
        f"  keywords: {_pairs(keywords)}",
        f"  analysis: {_pairs(analysis)}",
        f"  index: {_pairs(collection.get('index') or {})}",
    ]
    if collection.get("shards"):
        lines.append(f"  shards: {collection['shards']}")
    lines += [f"  warning: {plain(warning)}" for warning in collection.get("warnings") or ()]
    if collection.get("reembedding"):
        lines.append(
            f"  being re-embedded: {_pairs(collection['reembedding'])} (sage collections reembed continues it)"
        )
    return lines


def _pairs(fields: dict[str, Any]) -> str:
    """``variant lucene, k1 1.2``: the fields that are text or numbers."""
    pairs = [f"{key} {plain(value)}" for key, value in fields.items() if isinstance(value, str | int | float)]
    return ", ".join(pairs) or "-"


@collections_app.command("create")
def create_collection(
    name: Name,
    embedder: Annotated[
        str | None, typer.Option(help="auto, none, local, or a model of the gateway (provider/model).")
    ] = None,
    dimension: Annotated[
        int | None, typer.Option(min=1, help="The dimension of vectors that come with the documents.")
    ] = None,
    metric: Annotated[Metric | None, typer.Option(help="How the distance of two vectors is measured.")] = None,
    target_recall: Annotated[
        float | None, typer.Option(min=0.01, max=1, help="The share of the nearest vectors that a search must find.")
    ] = None,
    variant: Annotated[Variant | None, typer.Option(help="The variant of BM25.")] = None,
    k1: Annotated[float | None, typer.Option(min=0, help="BM25's k1.")] = None,
    b: Annotated[float | None, typer.Option("--b", min=0, max=1, help="BM25's b.")] = None,
    stem: Annotated[bool | None, typer.Option(help="Reduce English words to their stems.")] = None,
    stop_words: Annotated[bool | None, typer.Option(help="Leave out English words such as 'the'.")] = None,
    chinese: Annotated[str | None, typer.Option(help="bigrams, or rjieba, which finds words by a dictionary.")] = None,
    script: Annotated[
        str | None, typer.Option(help="as-is, or simplified, which reads traditional characters as simplified ones.")
    ] = None,
    shards: Annotated[
        int | None, typer.Option(min=0, help="The number of shards; 0 makes one store without shards.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Create a collection; options that are left out come from the gateway's configuration (retrieval.defaults)."""
    analysis = {"stem": stem, "stop_words": stop_words, "chinese": chinese, "script": script}
    options = {
        "embedder": embedder,
        "dimension": dimension,
        "metric": metric,
        "target_recall": target_recall,
        "keywords": set_options({"variant": variant, "k1": k1, "b": b}),
        "analysis": set_options(analysis),
        "shards": shards,
    }
    _print_collection(connect().post("/collections", {"name": name, **set_options(options)}), as_json)


@collections_app.command("delete")
def delete_collection(
    name: Name, yes: Annotated[bool, typer.Option("--yes", "-y", help="Delete without asking.")] = False
) -> None:
    """Delete a collection with all its documents; on a terminal you are asked first."""
    path = path_of(name)
    if not yes and sys.stdin.isatty():
        documents = connect().get(path)["documents"]
        typer.confirm(f"delete '{name}' with its {documents} documents?", abort=True)
    connect().delete(path)
    typer.echo(f"{name}: deleted")


@collections_app.command("reembed")
def reembed_collection(
    name: Name,
    embedder: Annotated[str, typer.Argument(help="local, or a model of the gateway.", show_default=False)],
) -> None:
    """Make all vectors again with another embedder; searches use the old ones until it is done.

    If you interrupt the command, the gateway continues; run it again to see the progress.
    """
    start = time.monotonic()
    with showing_steps("documents") as show:
        for step in connect().events(f"{path_of(name)}/reembed", {"embedder": embedder}):
            show(step)
    typer.echo(f"{name}: embedded by {embedder} ({time.monotonic() - start:.1f} s)")


@collections_app.command("optimize")
def optimize_collection(name: Name, as_json: AsJson = False) -> None:
    """Bring the index into its fastest shape now; the gateway also does it by itself."""
    start = time.monotonic()
    with waiting_for(f"optimizing {name}"):
        collection = connect().post(f"{path_of(name)}/optimize")
    if as_json:
        print_json(collection)
    else:
        typer.echo(f"{name}: optimized ({time.monotonic() - start:.1f} s)")


@collections_app.command("snapshot")
def snapshot_collection(
    name: Name, file: Annotated[Path, typer.Argument(help="The file to write; '-' is stdout.", show_default=False)]
) -> None:
    """Copy a collection into a file: one consistent state, even while others write."""
    parts = connect().download(f"{path_of(name)}/snapshot")
    if str(file) == "-":
        for part in parts:
            sys.stdout.buffer.write(part)
        sys.stdout.buffer.flush()
        return
    size = _store(parts, file)
    typer.echo(f"{name}: {size_text(size)} in {file}")


def _store(parts: Iterator[bytes], file: Path) -> int:
    """Writes a temporary file beside ``file`` and renames it, so that a partial snapshot never has its name."""
    temporary = file.with_name(f".{file.name}.{os.getpid()}")
    try:
        with temporary.open("wb") as out, counting_bytes(f"to {file.name}", None) as count:
            for part in parts:
                out.write(part)
                count(len(part))
            out.flush()
            os.fsync(out.fileno())
        size = temporary.stat().st_size
        temporary.replace(file)
    except OSError as exc:
        raise SageError(f"{file}: {exc.strerror or exc}") from exc
    finally:
        temporary.unlink(missing_ok=True)
    return size


@collections_app.command("restore")
def restore_collection(
    name: Name,
    file: Annotated[Path, typer.Argument(help="A file that 'snapshot' wrote; '-' is stdin.", show_default=False)],
    as_json: AsJson = False,
) -> None:
    """Make a new collection from a snapshot, completely or not at all."""
    path, gateway = path_of(name), connect()
    try:
        gateway.get(path)
        raise SageError(f"collection '{name}' exists already; restore under another name, or delete it first")
    except CallFailed as exc:
        if exc.answer_status != 404:
            raise
    try:
        with sys.stdin.buffer if str(file) == "-" else file.open("rb") as source:
            total = None if str(file) == "-" else file.stat().st_size
            collection = gateway.put_stream(f"{path}/snapshot", _read_parts(source, f"from {file.name}", total))
    except OSError as exc:
        raise SageError(f"{file}: {exc.strerror or exc}") from exc
    if as_json:
        print_json(collection)
    else:
        typer.echo(f"{name}: {collection['documents']} documents restored")


def _read_parts(source: BinaryIO, title: str, total: int | None) -> Iterator[bytes]:
    with counting_bytes(title, total) as count:
        while part := source.read(2**18):
            yield part
            count(len(part))
