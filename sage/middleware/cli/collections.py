"""``sage collections …``: clients of a running gateway (``SAGE_URL``, ``SAGE_API_KEY``)."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any, BinaryIO

import typer

from sage.errors import CallFailed, SageError
from sage.middleware.cli.language.catalogue import _
from sage.middleware.cli.output import AsJson, plain, print_json, print_table
from sage.middleware.cli.progress import counting_bytes, showing_steps, size_text, waiting_for
from sage.middleware.client.connection import connect, set_options
from sage.middleware.settings.retrieval import Metric, Variant

collections_app = typer.Typer(
    help="See and manage the collections of a running gateway: documents that can be searched.", no_args_is_help=True
)

Name = Annotated[str, typer.Argument(metavar="COLLECTION", help="The collection's name.", show_default=False)]


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
        print_table(("NAME", "DOCUMENTS", "EMBEDDER", "DIMENSION", "METRIC", "SIZE"), map(_row, answer["collections"]))


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
    """Show one collection: its size, its embedder, how it finds words, and the state of its index."""
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
    vectors = plain(collection["embedder"] or _("none; documents may bring their own"))
    if collection["dimension"]:
        dimensions = _("{dimension} dimensions").format(dimension=collection["dimension"])
        vectors = _(", ").join((vectors, dimensions, collection["metric"]))
    if languages is not None:
        vectors += _("; ") + _("languages {languages}").format(languages=", ".join(languages))
    head = _("{name}: {documents} documents, {size}")
    size, documents = size_text(collection["bytes"]), collection["documents"]
    facts = [
        (_("created"), time.strftime("%Y-%m-%d %H:%M", time.localtime(collection["created_at"]))),
        (_("vectors"), vectors),
        (_("keywords"), _pairs(keywords)),
        (_("analysis"), _pairs(analysis)),
        (_("index"), _pairs(collection.get("index") or {})),
    ]
    if collection.get("shards"):
        facts.append((_("shards"), str(collection["shards"])))
    facts += [(_("warning"), plain(warning)) for warning in collection.get("warnings") or ()]
    if collection.get("reembedding"):
        progress = _("{progress} (sage collections reembed continues it)")
        facts.append((_("being re-embedded"), progress.format(progress=_pairs(collection["reembedding"]))))
    return [
        head.format(name=plain(collection["name"]), documents=documents, size=size),
        *(_("  {title}: {text}").format(title=title, text=text) for title, text in facts),
    ]


def _pairs(fields: dict[str, Any]) -> str:
    """``variant lucene, k1 1.2``: the fields that are text or numbers."""
    pairs = [f"{key} {plain(value)}" for key, value in fields.items() if isinstance(value, str | int | float)]
    return ", ".join(pairs) or "-"


@collections_app.command("create")
def create_collection(
    name: Name,
    embedder: Annotated[
        str | None,
        typer.Option(
            metavar="EMBEDDER",
            help="What makes vectors of texts, for search by meaning: 'auto' chooses by the language of the first "
            "documents, 'local' knows English and 'local-multilingual' about 100 languages, on this machine; 'none' "
            "finds words only; or a model of the gateway, as provider/model.",
        ),
    ] = None,
    dimension: Annotated[
        int | None,
        typer.Option(metavar="N", min=1, help="The length of the vectors, if they come with the documents."),
    ] = None,
    metric: Annotated[Metric | None, typer.Option(help="How the nearness of two vectors is measured.")] = None,
    target_recall: Annotated[
        float | None,
        typer.Option(
            metavar="SHARE",
            min=0.01,
            max=1,
            help="The share of the nearest vectors that a search must find. Less than 1 is faster with many vectors.",
        ),
    ] = None,
    vectors: Annotated[
        str | None,
        typer.Option(
            metavar="WHERE",
            help="From where exact vectors are read: 'stored' is the database, 'mapped' a file of their own, which is "
            "faster and takes their size on disk once more.",
        ),
    ] = None,
    variant: Annotated[Variant | None, typer.Option(help="The variant of BM25, which scores words.")] = None,
    k1: Annotated[
        float | None,
        typer.Option(metavar="NUMBER", min=0, help="BM25's k1: how much it counts that a word comes again and again."),
    ] = None,
    b: Annotated[
        float | None,
        typer.Option("--b", metavar="NUMBER", min=0, max=1, help="BM25's b: how much long documents lose."),
    ] = None,
    stem: Annotated[bool | None, typer.Option(help="Find English words in all their forms, by their stems.")] = None,
    stop_words: Annotated[bool | None, typer.Option(help="Ignore English words such as 'the'.")] = None,
    chinese: Annotated[
        str | None,
        typer.Option(
            metavar="METHOD",
            help="How Chinese text is cut into words: 'bigrams' takes pairs of characters, 'rjieba' uses a dictionary.",
        ),
    ] = None,
    script: Annotated[
        str | None,
        typer.Option(
            metavar="SCRIPT",
            help="'as-is', or 'simplified', which reads traditional characters as simplified ones.",
        ),
    ] = None,
    shards: Annotated[
        int | None,
        typer.Option(metavar="N", min=0, help="Into how many services the documents are divided; 0 divides nothing."),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Create a collection. What you leave out is taken from the gateway's configuration (retrieval.defaults)."""
    analysis = {"stem": stem, "stop_words": stop_words, "chinese": chinese, "script": script}
    options = {
        "embedder": embedder,
        "dimension": dimension,
        "metric": metric,
        "target_recall": target_recall,
        "vectors": vectors,
        "keywords": set_options({"variant": variant, "k1": k1, "b": b}),
        "analysis": set_options(analysis),
        "shards": shards,
    }
    _print_collection(connect().post("/collections", {"name": name, **set_options(options)}), as_json)


@collections_app.command("delete")
def delete_collection(
    name: Name, yes: Annotated[bool, typer.Option("--yes", "-y", help="Delete without asking.")] = False
) -> None:
    """Delete a collection with all its documents. On a terminal you are asked first."""
    path = path_of(name)
    if not yes and sys.stdin.isatty():
        documents = connect().get(path)["documents"]
        question = _("delete '{name}' with its {documents} documents?")
        typer.confirm(question.format(name=name, documents=documents), abort=True)
    connect().delete(path)
    typer.echo(_("{name}: deleted").format(name=name))


@collections_app.command("reembed")
def reembed_collection(
    name: Name,
    embedder: Annotated[
        str,
        typer.Argument(
            metavar="EMBEDDER",
            help="The new embedder: 'auto', 'local', 'local-multilingual', or a model of the gateway, as "
            "provider/model.",
            show_default=False,
        ),
    ],
) -> None:
    """Make all vectors again with another embedder. Searches use the old ones until it is done.

    If you interrupt the command, the gateway continues; run it again to see the progress.
    """
    start = time.monotonic()
    with showing_steps(_("documents")) as show:
        for step in connect().events(f"{path_of(name)}/reembed", {"embedder": embedder}):
            show(step)
    message = _("{name}: embedded by {embedder} ({seconds} s)")
    typer.echo(message.format(name=name, embedder=embedder, seconds=f"{time.monotonic() - start:.1f}"))


@collections_app.command("optimize")
def optimize_collection(name: Name, as_json: AsJson = False) -> None:
    """Bring the index into its fastest form now. The gateway does this by itself too, in time."""
    start = time.monotonic()
    with waiting_for(_("optimizing {name}").format(name=name)):
        collection = connect().post(f"{path_of(name)}/optimize")
    if as_json:
        print_json(collection)
    else:
        message = _("{name}: optimized ({seconds} s)")
        typer.echo(message.format(name=name, seconds=f"{time.monotonic() - start:.1f}"))


@collections_app.command("snapshot")
def snapshot_collection(
    name: Name,
    file: Annotated[
        Path, typer.Argument(metavar="FILE", help="The file to write; '-' is standard output.", show_default=False)
    ],
) -> None:
    """Copy a collection into a file. Others may write meanwhile: the copy is its state at one moment."""
    parts = connect().download(f"{path_of(name)}/snapshot")
    if str(file) == "-":
        for part in parts:
            sys.stdout.buffer.write(part)
        sys.stdout.buffer.flush()
        return
    size = _store(parts, file)
    typer.echo(_("{name}: {size} in {file}").format(name=name, size=size_text(size), file=file))


def _store(parts: Iterator[bytes], file: Path) -> int:
    """Writes a temporary file beside ``file`` and renames it, so that a partial snapshot never has its name."""
    temporary = file.with_name(f".{file.name}.{os.getpid()}")
    try:
        with temporary.open("wb") as out, counting_bytes(_("to {file}").format(file=file.name), None) as count:
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
    file: Annotated[
        Path,
        typer.Argument(
            metavar="FILE",
            help="A file that 'sage collections snapshot' wrote; '-' is standard input.",
            show_default=False,
        ),
    ],
    as_json: AsJson = False,
) -> None:
    """Make a new collection from a snapshot: all of it, or nothing."""
    path, gateway = path_of(name), connect()
    try:
        gateway.get(path)
        raise SageError(f"collection '{name}' exists already; restore under another name, or delete it first")
    except CallFailed as exc:
        if exc.answer_status != 404:
            raise
    try:
        title = _("from {file}").format(file=file.name)
        with sys.stdin.buffer if str(file) == "-" else file.open("rb") as source:
            total = None if str(file) == "-" else file.stat().st_size
            collection = gateway.put_stream(f"{path}/snapshot", _read_parts(source, title, total))
    except OSError as exc:
        raise SageError(f"{file}: {exc.strerror or exc}") from exc
    if as_json:
        print_json(collection)
    else:
        message = _("{name}: {documents} documents restored")
        typer.echo(message.format(name=name, documents=collection["documents"]))


def _read_parts(source: BinaryIO, title: str, total: int | None) -> Iterator[bytes]:
    with counting_bytes(title, total) as count:
        while part := source.read(2**18):
            yield part
            count(len(part))
