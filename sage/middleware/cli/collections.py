"""``sage collections …``: clients of a running gateway (``SAGE_URL``, ``SAGE_API_KEY``)."""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any, BinaryIO

import typer

from sage.errors import SageError
from sage.middleware.cli.client import CallFailed
from sage.middleware.cli.columns import plain, table
from sage.middleware.cli.models import AsJson, client
from sage.middleware.cli.progress import counting_bytes, showing_steps, size_text, waiting_for
from sage.middleware.settings.retrieval import Metric, Variant

collections_app = typer.Typer(help="The collections of a running gateway: what can be searched.", no_args_is_help=True)

Name = Annotated[str, typer.Argument(help="A collection's name.", show_default=False)]


def path_of(name: str) -> str:
    """``/collections/NAME``."""
    if "/" in name or name in ("", ".", ".."):
        raise typer.BadParameter(f"'{name}' is no name of a collection", param_hint="COLLECTION")
    return f"/collections/{name}"


@collections_app.command("list")
def list_collections(as_json: AsJson = False) -> None:
    """Your collections."""
    answer = client().get("/collections")
    if as_json:
        _print(answer)
        return
    rows: list[tuple[str, ...]] = [("NAME", "DOCUMENTS", "EMBEDDER", "DIMENSION", "METRIC", "SIZE")]
    rows += [_row(found) for found in answer["collections"]]
    for line in table(rows):
        typer.echo(line)


def _row(found: dict[str, Any]) -> tuple[str, ...]:
    if found.get("error"):
        return plain(found["name"]), "-", plain(found["error"]), "-", "-", "-"
    return (
        plain(found["name"]),
        str(found["documents"] if found["documents"] is not None else "-"),
        plain(found["embedder"] or "none"),
        str(found["dimension"] or "-"),
        found["metric"],
        size_text(found["bytes"]) if found["bytes"] is not None else "-",
    )


@collections_app.command("show")
def show_collection(name: Name, as_json: AsJson = False) -> None:
    """One collection: its documents, what makes its vectors, how its words are scored, the state of its index."""
    found = client().get(path_of(name))
    if as_json:
        _print(found)
    else:
        typer.echo("\n".join(describe(found)))


def describe(found: dict[str, Any]) -> list[str]:
    """What ``sage collections show`` says of the answer of ``GET /collections/{name}``."""
    options = found.get("options") or {}
    keywords, analysis = options.get("keywords") or {}, options.get("analysis") or {}
    languages = found.get("languages")
    vectors = plain(found["embedder"] or "none; they come with the documents, if at all")
    if found["dimension"]:
        vectors += f", {found['dimension']} dimensions, {found['metric']}"
    if languages is not None:
        vectors += f"; speaks {', '.join(languages)}"
    lines = [
        f"{plain(found['name'])}: {found['documents']} documents, {size_text(found['bytes'])}",
        f"  made: {time.strftime('%Y-%m-%d %H:%M', time.localtime(found['created_at']))}",
        f"  vectors: {vectors}",
        f"  keywords: {_pairs(keywords)}",
        f"  analysis: {_pairs(analysis)}",
        f"  index: {_pairs(found.get('index') or {})}",
    ]
    if found.get("shards"):
        lines.append(f"  shards: {found['shards']}")
    if found.get("reembedding"):
        lines.append(
            f"  being embedded anew: {_pairs(found['reembedding'])} (sage collections reembed goes on with it)"
        )
    return lines


def _pairs(found: dict[str, Any]) -> str:
    """``variant lucene, k1 1.2``: what is simple of it."""
    told = [f"{key} {plain(value)}" for key, value in found.items() if isinstance(value, str | int | float)]
    return ", ".join(told) or "-"


@collections_app.command("create")
def create_collection(
    name: Name,
    embedder: Annotated[
        str | None, typer.Option(help="auto, none, local, or a model of the gateway (provider/model).")
    ] = None,
    dimension: Annotated[int | None, typer.Option(min=1, help="Of vectors that come with the documents.")] = None,
    metric: Annotated[Metric | None, typer.Option(help="How near two vectors are.")] = None,
    target_recall: Annotated[
        float | None, typer.Option(min=0.01, max=1, help="The share of the nearest vectors that a search must find.")
    ] = None,
    variant: Annotated[Variant | None, typer.Option(help="Which BM25.")] = None,
    k1: Annotated[float | None, typer.Option(min=0, help="BM25's k1.")] = None,
    b: Annotated[float | None, typer.Option("--b", min=0, max=1, help="BM25's b.")] = None,
    stem: Annotated[bool | None, typer.Option(help="English words by their stems.")] = None,
    stop_words: Annotated[bool | None, typer.Option(help="English words such as 'the' are left out.")] = None,
    chinese: Annotated[str | None, typer.Option(help="bigrams, or rjieba: words of a dictionary.")] = None,
    script: Annotated[str | None, typer.Option(help="as-is, or simplified: traditional counts as simplified.")] = None,
    shards: Annotated[
        int | None, typer.Option(min=0, help="Spread it over so many shards; 0 is one store, without shards.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Make a collection; what is not said is the gateway's configuration (retrieval.defaults)."""
    analysis = {"stem": stem, "stop_words": stop_words, "chinese": chinese, "script": script}
    options = {
        "embedder": embedder,
        "dimension": dimension,
        "metric": metric,
        "target_recall": target_recall,
        "keywords": _given({"variant": variant, "k1": k1, "b": b}),
        "analysis": _given(analysis),
        "shards": shards,
    }
    found = client().post("/collections", {"name": name, **_given(options)})
    if as_json:
        _print(found)
    else:
        typer.echo("\n".join(describe(found)))


def _given(options: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in options.items() if value is not None and value != {}}


@collections_app.command("delete")
def delete_collection(
    name: Name, yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")] = False
) -> None:
    """Delete a collection with all its documents; on a terminal it asks first."""
    path = path_of(name)
    if not yes and sys.stdin.isatty():
        documents = client().get(path)["documents"]
        typer.confirm(f"delete '{name}' with its {documents} documents?", abort=True)
    client().delete(path)
    typer.echo(f"{name}: deleted")


@collections_app.command("reembed")
def reembed_collection(
    name: Name,
    embedder: Annotated[str, typer.Argument(help="local, or a model of the gateway.", show_default=False)],
) -> None:
    """Make all vectors anew with another embedder; searches use the old ones until it is done.

    Interrupted, it goes on in the gateway; asked for again, it shows how far that is.
    """
    begun = time.monotonic()
    with showing_steps("documents") as show:
        for step in client().events(f"{path_of(name)}/reembed", {"embedder": embedder}):
            show(step)
    typer.echo(f"{name}: embedded by {embedder} ({time.monotonic() - begun:.1f} s)")


@collections_app.command("optimize")
def optimize_collection(name: Name, as_json: AsJson = False) -> None:
    """Bring the index into its fastest shape now; it happens by itself, too."""
    begun = time.monotonic()
    with waiting_for(f"optimizing {name}"):
        found = client().post(f"{path_of(name)}/optimize")
    if as_json:
        _print(found)
    else:
        typer.echo(f"{name}: optimized ({time.monotonic() - begun:.1f} s)")


@collections_app.command("snapshot")
def snapshot_collection(
    name: Name, file: Annotated[Path, typer.Argument(help="Where to write; '-' is stdout.", show_default=False)]
) -> None:
    """Copy a collection into a file, as it is at one moment, while others write."""
    parts = client().download(f"{path_of(name)}/snapshot")
    if str(file) == "-":
        for part in parts:
            sys.stdout.buffer.write(part)
        sys.stdout.buffer.flush()
        return
    size = _store(parts, file)
    typer.echo(f"{name}: {size_text(size)} in {file}")


def _store(parts: Iterator[bytes], file: Path) -> int:
    """Writes beside the file, then takes its place, so that half a snapshot never has its name."""
    fresh = file.with_name(f".{file.name}.{os.getpid()}")
    try:
        with fresh.open("wb") as out, counting_bytes(f"to {file.name}", None) as count:
            for part in parts:
                out.write(part)
                count(len(part))
            out.flush()
            os.fsync(out.fileno())
        size = fresh.stat().st_size
        fresh.replace(file)
    except OSError as exc:
        raise SageError(f"{file}: {exc.strerror or exc}") from exc
    finally:
        fresh.unlink(missing_ok=True)
    return size


@collections_app.command("restore")
def restore_collection(
    name: Name,
    file: Annotated[Path, typer.Argument(help="What 'snapshot' wrote; '-' is stdin.", show_default=False)],
    as_json: AsJson = False,
) -> None:
    """Make a new collection of a snapshot, whole or not at all."""
    path, gateway = path_of(name), client()
    try:
        gateway.get(path)
        raise SageError(f"collection '{name}' exists already; restore under another name, or delete it first")
    except CallFailed as exc:
        if exc.answered != 404:
            raise
    try:
        with sys.stdin.buffer if str(file) == "-" else file.open("rb") as source:
            total = None if str(file) == "-" else file.stat().st_size
            found = gateway.put_stream(f"{path}/snapshot", _sent(source, f"from {file.name}", total))
    except OSError as exc:
        raise SageError(f"{file}: {exc.strerror or exc}") from exc
    if as_json:
        _print(found)
    else:
        typer.echo(f"{name}: {found['documents']} documents restored")


def _sent(source: BinaryIO, what: str, total: int | None) -> Iterator[bytes]:
    with counting_bytes(what, total) as count:
        while part := source.read(2**18):
            yield part
            count(len(part))


def _print(found: dict[str, Any]) -> None:
    typer.echo(json.dumps(found, indent=2, ensure_ascii=False))
